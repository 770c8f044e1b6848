"""A run under flex_attention: refused where it could not train, and the log says which path it took."""

import pytest
from pairs import options

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.errors import InputError


@pytest.mark.parametrize("share", [None, True, False])
def test_training_on_a_cpu_is_refused_before_the_first_step(random_setting, tmp_path, share):
    args = MallowsPOConfig(
        **options(tmp_path, objective="dpo", share_prompts=share),
        model_init_kwargs={"attn_implementation": "flex_attention"},
    )
    with pytest.raises(InputError, match="flex_attention has no backward pass on a cpu; leave it out"):
        MallowsPOTrainer(random_setting.path, args=args, train_dataset=random_setting.rows)
