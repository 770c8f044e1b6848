"""Options that TRL and transformers have removed are refused with what stands in their place."""

import inspect
import subprocess
import sys
from dataclasses import fields

import pytest
from pairs import options
from trl import DPOConfig, DPOTrainer

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.errors import InputError
from mallowspo.training.removed_options import REMOVED_OPTIONS, removed_option_hint


@pytest.mark.parametrize("name", ["rpo_alpha", "max_prompt_length", "warmup_ratio", "group_by_length", "logging_dir"])
def test_a_configuration_says_what_replaces_an_option(tmp_path, name):
    with pytest.raises(InputError, match=f"^{name}: ") as refused:
        MallowsPOConfig(**options(tmp_path), **{name: 1})
    assert REMOVED_OPTIONS[name] in str(refused.value)


def test_every_removed_option_is_named_at_once(tmp_path):
    with pytest.raises(InputError, match="rpo_alpha: .*; reference_free: "):
        MallowsPOConfig(**options(tmp_path), rpo_alpha=1.0, reference_free=True)


def test_the_trainer_says_what_replaces_an_argument():
    with pytest.raises(InputError, match="tokenizer: .* processing_class"):
        MallowsPOTrainer(model="nowhere", tokenizer=object())


def test_what_was_never_an_option_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="no_such_option"):
        MallowsPOConfig(**options(tmp_path), no_such_option=1)


def test_no_option_that_exists_is_called_removed():
    exist = {field.name for field in fields(DPOConfig)} | set(inspect.signature(DPOTrainer.__init__).parameters)
    assert not exist & set(REMOVED_OPTIONS)


def test_what_the_hints_name_exists():
    """A hint that begins with 'set x' names an option of today."""
    exist = {field.name for field in fields(MallowsPOConfig)} | {"dtype", "the"}
    for name, hint in REMOVED_OPTIONS.items():
        if hint.startswith("set "):
            assert hint.split()[1].strip(",:;") in exist, (name, hint)


def test_dashes_do_not_hide_an_option():
    assert removed_option_hint("--max-prompt-length") == REMOVED_OPTIONS["max_prompt_length"]
    assert removed_option_hint("learning_rate") is None


def test_the_hints_cost_no_heavy_import():
    heavy = "{'torch', 'trl', 'transformers'}"
    code = f"import sys, mallowspo.training.removed_options; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
