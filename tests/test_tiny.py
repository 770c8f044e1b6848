"""The stand-ins must behave like what they stand for, or every test above them is void."""

from __future__ import annotations

import torch

from tiny import tiny_llama, tiny_tokenizer


def test_tokenizer_round_trip_and_special_tokens():
    tokenizer = tiny_tokenizer()
    text = "Human: where is Ünïcode, 中文 and 🦊?"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("</s>", add_special_tokens=False)["input_ids"] == [tokenizer.eos_token_id] == [2]
    assert tokenizer.chat_template is None
    assert tiny_tokenizer(eos=False, pad=False).eos_token is None


def test_chat_template_renders_a_prefix():
    tokenizer = tiny_tokenizer(chat=True)
    asked = [{"role": "user", "content": "hello"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False)
    whole = tokenizer.apply_chat_template(
        [*asked, {"role": "assistant", "content": "good"}], tokenize=True, return_dict=False
    )
    assert whole[: len(prompt)] == prompt
    assert len(whole) > len(prompt)


def test_model_is_seeded_and_not_uniform():
    tokenizer = tiny_tokenizer()
    ids = torch.tensor([tokenizer("hello there")["input_ids"]])
    state = torch.random.get_rng_state()
    one, again, other = tiny_llama(), tiny_llama(), tiny_llama(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        logits = one(input_ids=ids).logits
        assert logits.shape == (1, ids.shape[1], 400)
        assert torch.equal(logits, again(input_ids=ids).logits)
        assert not torch.equal(logits, other(input_ids=ids).logits)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert (entropy < 0.98 * torch.log(torch.tensor(400.0))).all()
