"""MallowsPOTrainer and MallowsPOConfig: TRL's DPO trainer with the dispersion index in its objective."""

from mallowspo.training.config import MallowsPOConfig
from mallowspo.training.trainer import MallowsPOTrainer

__all__ = ["MallowsPOConfig", "MallowsPOTrainer"]
