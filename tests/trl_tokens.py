"""The oracle of tokenisation: TRL's own code, which reads nothing of its trainer but the tokenizer."""

from types import SimpleNamespace

from datasets import Dataset
from trl import DPOTrainer

TOKENS = ["prompt_ids", "chosen_ids", "rejected_ids"]


def trl_tokens(rows, tokenizer, max_length=None):
    """Token ids that a `DPOTrainer` would hold for these rows, as a list of dictionaries."""
    dataset = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    args = SimpleNamespace(dataset_num_proc=None, max_length=max_length, truncation_mode="keep_start")
    made = DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), dataset, tokenizer, args, "rows")
    return made.select_columns(TOKENS).to_list()
