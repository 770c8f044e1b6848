"""Settings of every study that cannot be used: each is refused by the name of its option."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mallowspo.errors import InputError
from mallowspo.studies.bandit.bench import BanditDesign
from mallowspo.studies.bandit.paper import PaperDesign
from mallowspo.studies.controllable.design import ControllableDesign
from mallowspo.studies.controllable.study import ControllableSettings
from mallowspo.studies.dialogue.design import DialogueSettings, DialogueSetup
from mallowspo.studies.efficiency.study import EfficiencySettings, EfficiencySetup
from mallowspo.studies.estimator.study import EstimatorSettings
from mallowspo.studies.noise.study import NoiseSettings
from mallowspo.studies.world.bench import WorldSetup
from mallowspo.studies.world.study import WorldSettings

DESIGN = ControllableDesign(model_name_or_path="m", dataset_name="texts.txt")
REFUSED = {
    BanditDesign(): [
        {"arms": 7}, {"single_phis": (0.3, 1.0)}, {"many_phis": (0.3, 0.5)}, {"pairs": (64, 16)},
        {"strengths": (2.0,)}, {"betas": (1.0, 1.0)}, {"seeds": 1}, {"training_single_phis": (0.4,)},
    ],
    PaperDesign(): [
        {"smoothings": ()}, {"phi": 1.0}, {"training_betas": (0.7, 7.0)}, {"sets": 1}, {"learning_rate": 0.0},
    ],
    EfficiencySetup(): [{"pairs": (1000,)}, {"pairs": (50, 100)}, {"correlation": 1.0}, {"voted_prompts": 3}],
    EfficiencySettings(): [{"variations": (0.0,)}, {"logits": (1.0, 1.0)}, {"repetitions": 2}],
    WorldSettings(): [
        {"methods": ("dpo", "kto")}, {"methods": ("ipo_sum", "mallows_phi")}, {"methods": ("dpo",)},
        {"methods": ("dpo", "ipo_sum", "ipo_sum")}, {"betas": (1.0,)}, {"betas": (1.0, 1.0)},
        {"betas": (1.0, -1.0)}, {"learning_rate": 0.0}, {"seeds": (1, 1)}, {"parts": ("pairs",)},
        {"parts": ("comparison", "sums")}, {"pairs": (2, 12)}, {"pairs": (64,)},
    ],
    WorldSetup(): [{"epochs": 0}, {"pairs_per_prompt": 0}, {"pairs_drawn": 11}, {"voters": 1}, {"train_prompts": 457}],
    NoiseSettings(): [{"flipped": (0.5,)}, {"flipped": ()}, {"methods": ("dpo", "kto")}],
    DESIGN: [
        {"opening": "("}, {"preferences": "coin"}, {"preference_scale": 0.0}, {"eval_prompts": 1},
        {"min_prompt_tokens": 30}, {"reward_label": "joy"}, {"dtype": "int8"},
    ],
    ControllableSettings(design=DESIGN): [
        {"betas": (0.1,)}, {"betas": (0.1, -1.0)}, {"learning_rates": (1e-4, 1e-4)}, {"pilot_seed": 2},
    ],
    DialogueSettings(): [
        {"methods": ("mallows_theta",)}, {"methods": ("dpo",)}, {"methods": ("dpo", "dppo")}, {"betas": ()},
        {"betas": (0.0,)}, {"seeds": (0, 0)}, {"temperatures": (-1.0,)}, {"judged_beta": 7.0},
        {"judge": "reward:x", "judge_steps": 7}, {"judge_api_key_env": "KEY"}, {"judged_prompts": 0},
        {"judge_learning_rate": 0.0},
    ],
    DialogueSetup(): [{"train_pairs": 0}, {"learning_rate": -1.0}, {"sft_steps": -1}, {"max_length": 2}],
}  # fmt: skip
ESTIMATOR = (
    ({"seeds": ()}, "seeds"), ({"conditions": ("nowhere",)}, "nowhere"), ({"paper_sizes": (1,)}, "paper_sizes"),
    ({"downstream_conditions": ("style_all+style_agreed",)}, "endings"), ({"voted_prompts": 1}, "voted_prompts"),
    ({"members": 0}, "members"), ({"model": "M"}, "model and data"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "change", "said"),
    [(settings, change, list(change)[-1]) for settings, changes in REFUSED.items() for change in changes]
    + [(EstimatorSettings(), change, said) for change, said in ESTIMATOR],
)
def test_what_cannot_be_used_is_refused_by_its_name(settings, change, said):
    with pytest.raises(InputError, match=said):
        replace(settings, **change)
