"""Runs on CUDA in bfloat16: packed rows under both attentions train as padded rows do."""

import pytest
import torch
from pairs import history, options, saved_llama, small_pairs

from mallowspo import MallowsPOConfig, MallowsPOTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # what compilers say of a card is not a test's business
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama with heads of 32; the kernel of FlexAttention takes none below 16."""
    return saved_llama(tmp_path_factory.mktemp("llama-of-wide-heads"), hidden_size=128)


def train(folder, tmp_path, attention, **changes):
    torch._dynamo.reset()
    settings = options(tmp_path, **{"objective": "mallows_theta", "max_steps": 6, **changes}) | {
        "use_cpu": False,
        "bf16": True,
    }
    args = MallowsPOConfig(**settings, model_init_kwargs={"attn_implementation": attention})
    run = MallowsPOTrainer(folder, args=args, train_dataset=small_pairs(24))
    run.train()
    return run


def assert_alike(packed, padded):
    """A reward of some hundredths has two digits in bfloat16, and training spreads that: the first steps count."""
    assert history(packed, "loss")[:3] == pytest.approx(history(padded, "loss")[:3], abs=0.02)
    assert history(packed, "grad_norm")[:3] == pytest.approx(history(padded, "grad_norm")[:3], rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"precompute_ref_log_probs": False, "objective": "dpo"}], ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_packed_rows_train_as_padded_rows(folder, tmp_path, attention, changes):
    packed = train(folder, tmp_path / "packed", attention, **changes)
    padded = train(folder, tmp_path / "padded", "sdpa", **changes, share_prompts=False)
    assert (packed.scoring.path, padded.scoring.path) == ("packed", "padded")
    assert attention.split("_", maxsplit=1)[0] in packed.scoring.reason
    assert_alike(packed, padded)
    assert history(packed, "entropy") == pytest.approx(history(padded, "entropy"), rel=0.02)


def test_pieces_accumulation_and_checkpointing_under_flex_attention(folder, tmp_path, monkeypatch):
    """Rows of at most 100 tokens, two batches a step and layers computed twice train as whole padded batches."""
    from mallowspo.training import scoring_path

    monkeypatch.setattr(scoring_path, "_ROW_TOKENS", {"accelerator": 100})
    changes = {"gradient_accumulation_steps": 2, "gradient_checkpointing": True}
    packed = train(folder, tmp_path / "packed", "flex_attention", **changes)
    padded = train(folder, tmp_path / "padded", "sdpa", **changes, share_prompts=False)
    assert_alike(packed, padded)
