"""The short form of `make fuzz`: a few hundred odd inputs for each reader, of which none may raise but a refusal."""

import pytest

from fuzz.run import fuzz
from fuzz.targets import Target, targets


@pytest.mark.parametrize("name", [target.name for target in targets()])
def test_what_cannot_be_read_is_refused_in_words(name):
    assert not fuzz(name, examples=40, seed=20261130).faults


def test_the_fuzzing_itself_can_fail(monkeypatch):
    def broken(data, folder):
        return data[5]

    first = targets()[0]
    monkeypatch.setattr("fuzz.targets.targets", lambda: (Target(first.name, first.inputs, broken),))
    assert any("IndexError" in fault for fault in fuzz(first.name, examples=300, seed=1).faults)
