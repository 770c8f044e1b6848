"""MallowsPOTrainer and MallowsPOConfig: TRL's DPO trainer with the dispersion index in its objective."""
