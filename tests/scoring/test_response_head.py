"""The chunked head against plain logits, in every precision and on every path through the backward pass."""

import pytest
import torch
from packing import TRANSFORMS, plain_head

from mallowspo.scoring import response_head as file
from mallowspo.scoring.response_head import LogitTransform, response_head


def inputs(n=7, seed=1, *, hidden=5, vocabulary=11, dtype=torch.float64, bias=True):
    generator = torch.Generator().manual_seed(seed)
    shape = {"generator": generator, "dtype": torch.float64}
    h, w, b = (
        torch.randn(n, hidden, **shape),
        torch.randn(vocabulary, hidden, **shape),
        torch.randn(vocabulary, **shape),
    )
    target = torch.randint(vocabulary, (n,), generator=generator)
    return (
        h.to(dtype).requires_grad_(),
        w.to(dtype).requires_grad_(),
        b.to(dtype).requires_grad_() if bias else None,
        target,
    )


@pytest.fixture(params=["one chunk", "chunks", "chunks computed again"])
def chunks(request, monkeypatch):
    if request.param != "one chunk":
        monkeypatch.setattr(file, "_PRODUCT_ELEMENTS", 33)
        monkeypatch.setattr(file, "_PRODUCT_TOKENS", 3)
        monkeypatch.setattr(file, "_ELEMENTS_AFTER", 22)  # two tokens
    if request.param == "chunks computed again":
        monkeypatch.setattr(file, "_KEPT_ELEMENTS", 0)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_plain_logits(chunks, transform, bias):
    pull = torch.linspace(-1, 2, 7, dtype=torch.float64)
    h, w, b, target = inputs(bias=bias)
    expected = plain_head((h, w, b), target, transform)
    leaves = [leaf for leaf in (h, w, b) if leaf is not None]
    expected_grads = torch.autograd.grad((expected[0] * pull).sum(), leaves)
    values = response_head(h, w, b, target, transform)
    for ours, theirs in zip(
        (values.log_prob_n, values.entropy_n, values.mean_logit_n, values.top1_n), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad((values.log_prob_n * pull).sum(), leaves)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert not values.entropy_n.requires_grad and not values.mean_logit_n.requires_grad


@pytest.mark.parametrize("frozen", ["weight", "hidden", "everything"])
def test_what_is_frozen_gets_no_gradient(chunks, frozen):
    h, w, b, target = inputs()
    if frozen != "hidden":
        w, b = w.detach(), b.detach()
    if frozen != "weight":
        h = h.detach()
    values = response_head(h, w, b, target, LogitTransform())
    assert values.log_prob_n.requires_grad == (frozen != "everything")
    if frozen != "everything":
        values.log_prob_n.sum().backward()
        expected = [leaf.detach().requires_grad_(leaf.requires_grad) for leaf in (h, w, b)]
        plain_head(expected, target, LogitTransform())[0].sum().backward()
        for ours, theirs in zip((h, w, b), expected, strict=True):
            assert (ours.grad is None) == (theirs.grad is None)
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad)


def test_no_slope_is_formed_without_gradient(monkeypatch):
    asked, chunk = [], file._chunk
    monkeypatch.setattr(file, "_chunk", lambda *args: asked.append(args[-1]) or chunk(*args))
    h, w, b, target = inputs()
    with torch.no_grad():
        assert not response_head(h, w, b, target, LogitTransform()).log_prob_n.requires_grad
    response_head(h, w, b, target, LogitTransform())
    assert asked == [False, True]


def test_no_tokens_at_all():
    h, w, b, _ = inputs()
    values = response_head(h[:0], w, b, torch.zeros(0, dtype=torch.long), LogitTransform())
    values.log_prob_n.sum().backward()
    assert values.log_prob_n.shape == (0,) and w.grad.abs().sum() == 0


def test_large_common_logits_leave_the_entropy_exact():
    """The sum over the vocabulary is taken around the largest logit."""
    w = torch.ones(16, 1, dtype=torch.float32)
    values = response_head(torch.full((2, 1), 5e4), w, None, torch.tensor([0, 3]), LogitTransform())
    torch.testing.assert_close(values.entropy_n, torch.full((2,), 16.0).log())
    assert values.top1_n.tolist() == [True, False]  # of equals, the first


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_no_worse_than_plain_bfloat16(autocast):
    pull = torch.linspace(-1, 2, 1000, dtype=torch.float64)
    sizes = {"n": 1000, "hidden": 32, "vocabulary": 200}
    h, w, b, target = inputs(**sizes)
    truth = plain_head((h, w, b), target, LogitTransform())
    truth_grads = torch.autograd.grad((truth[0] * pull).sum(), (h, w, b))

    def run(function):
        leaves = inputs(**sizes, dtype=torch.float32 if autocast else torch.bfloat16)[:3]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            values = function(*leaves)
        return values, torch.autograd.grad((values[0].double() * pull).sum(), leaves)

    def naive(*leaves):
        return plain_head(leaves, target, LogitTransform())[:2]

    def ours(h, w, b):
        values = response_head(h, w, b, target, LogitTransform())
        assert values.log_prob_n.dtype == values.entropy_n.dtype == torch.float32
        return values.log_prob_n, values.entropy_n

    (mine, my_grads), (theirs, their_grads) = run(ours), run(naive)
    for a, n, t in zip((*mine, *my_grads), (*theirs, *their_grads), (*truth[:2], *truth_grads), strict=True):
        rms = [(x.double() - t).square().mean().sqrt() for x in (a, n)]
        assert rms[0] <= 1.2 * rms[1] + 1e-6  # roundings at other places: a fifth is their spread


def test_buffers_used_again_keep_interleaved_passes_apart(chunks):
    """Two passes are open at once, one is followed back twice, and a third takes a buffer that the first gave back."""
    sets = [inputs(n, seed) for n, seed in ((7, 1), (5, 2), (6, 3))]

    def grads(log_prob, leaves, keep=False):
        return torch.autograd.grad(log_prob.sum(), leaves, retain_graph=keep)

    expected = [grads(plain_head(values[:3], values[3], LogitTransform())[0], values[:3]) for values in sets]
    first, second = (response_head(*values, LogitTransform()).log_prob_n for values in sets[:2])
    found = [grads(first, sets[0][:3], keep=True)]
    third = response_head(*sets[2], LogitTransform()).log_prob_n
    again = grads(first, sets[0][:3])
    found += [grads(second, sets[1][:3]), grads(third, sets[2][:3])]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(again, expected[0], rtol=1e-12, atol=1e-12)
