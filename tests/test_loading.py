"""A damaged model folder is named with its file, whoever loads it."""

import shutil

import pytest

from mallowspo.errors import InputError
from mallowspo.loading import broken, loading
from tiny import tiny_llama, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(vocab_size=400).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def load_all():
    from mallowspo.evaluation.local_model import load_causal_model, load_tokenizer

    return {
        "model.safetensors": lambda path: load_causal_model(path, option="model", use_cpu=True),
        "config.json": lambda path: load_causal_model(path, option="model", use_cpu=True),
        "tokenizer.json": lambda path: load_tokenizer(path, option="model"),
    }


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_the_damaged_file_is_named(saved, tmp_path, name, damage):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": b"\x93" * 99}[damage])
    assert broken(folder / name)
    with pytest.raises(InputError, match=f"(?s)^model: .*{name}"):
        load_all()[name](str(folder))


def test_weights_that_do_not_fit_their_config(saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"vocab_size": 400', '"vocab_size": 300'))
    with pytest.raises(InputError, match="^model: .*do not fit"):
        load_all()["config.json"](str(folder))


def test_a_bug_of_ours_is_not_hidden(saved):
    with pytest.raises(KeyError), loading("model", str(saved), also_ours=True):
        raise KeyError("x")


def test_what_other_code_in_the_block_raises_is_no_fault_of_the_model(saved):
    from transformers import AutoModelForCausalLM

    with pytest.raises(ValueError, match="^fsdp") as error, loading("model", str(saved), also_ours=True):
        raise ValueError("fsdp")
    assert not isinstance(error.value, InputError)
    with pytest.raises(InputError, match="^model: "), loading("model", str(saved), also_ours=True):
        AutoModelForCausalLM.from_pretrained(saved, attn_implementation="nope")
