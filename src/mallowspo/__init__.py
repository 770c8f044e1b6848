"""MallowsPO: preference fine-tuning that respects how much people agree on each prompt."""
