"""What the tests of the recipes share."""

import pytest
import torch

from recipes.stand_ins import STAND_INS


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    made = {}

    def give(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            architecture, rows = STAND_INS[kind]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                tokenizer, model = architecture()
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
            made[kind] = folder / "model", rows(folder)
        return made[kind]

    return give
