"""What the commands write and what they are called is what it was: `golden/make.py` says how to make it afresh."""

import re

import pytest

from golden.make import OF_TRL, QUICK, differences, kept, machine, made
from mallowspo.cli.main import main

# Another processor's kernels sum in another order, and a log-probability is a sum of float32.
ELSEWHERE = 1e-4


@pytest.mark.parametrize("name", [make.__name__ for make in QUICK])
def test_it_is_as_it_was(name):
    old, made_on = kept(name)
    new, same = made(name), made_on == machine()
    if name == "options" and not same:
        del old[OF_TRL], new[OF_TRL]
    found = list(differences(old, new, 0.0 if same else ELSEWHERE))
    told = "\n".join(f"{place}: {before!r} -> {after!r}" for place, before, after in found[:40])
    assert not found, f"{len(found)} cells differ; where that is meant: python tests/golden/make.py {name}\n{told}"


@pytest.mark.parametrize("words", sorted(set(kept("options")[0]) - {OF_TRL}))
def test_the_help_of_each_command_shows_its_options_in_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([*words.split(), "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = set(re.findall(r"--(\w[\w-]*)", " ".join(lines)))
    first = {names.split(", ")[0] for names in kept("options")[0][words]}
    names = {name.removeprefix("--") for name in first if name.startswith("--")}
    assert {name for name in names if not {name, name.removeprefix("no_")} & shown} == set()
