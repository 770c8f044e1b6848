"""The embedded world: a small generated language whose consensus and dispersion are known."""

from mallowspo.world.language import World, WorldPrompt, build_world, word_tokenizer
from mallowspo.world.population import (
    PreferencePair,
    collect_preferences,
    collect_votes,
    consensus_values,
    preference_matrix,
    top_choice_probabilities,
    write_corpus,
)
from mallowspo.world.reference import ReferenceTraining, TokenizedPrompts, tokenize_prompts, train_reference

__all__ = [
    "PreferencePair",
    "ReferenceTraining",
    "TokenizedPrompts",
    "World",
    "WorldPrompt",
    "build_world",
    "collect_preferences",
    "collect_votes",
    "consensus_values",
    "preference_matrix",
    "tokenize_prompts",
    "top_choice_probabilities",
    "train_reference",
    "word_tokenizer",
    "write_corpus",
]
