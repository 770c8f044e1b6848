"""The recipes of CONTRIBUTING.md, followed word for word on a copy of the sources."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from mallowspo.cli import dispersion
from mallowspo.dispersion import ESTIMATORS

ROOT = Path(__file__).resolve().parent.parent
RECIPE = re.compile(r"<!-- recipe: (\S+) (new|after (.*?)|before (.*?)) -->\n```python\n(.*?)```", re.DOTALL)

USE = """
import json, sys
import numpy as np, torch
from mallowspo.dispersion import ESTIMATORS
from mallowspo.dispersion.entropy import ReferenceStatistics
from mallowspo.objectives import pairwise_loss
from mallowspo.studies import STUDIES
from mallowspo.studies.study import run_study

one = [torch.tensor([value]) for value in (-1.0, -3.0, -2.0, -2.5)]
loss = pairwise_loss(*one, objective="half_reference", beta=1.0)
length = np.array([[2.0, 1.0], [4.0, 9.0]])
statistics = ReferenceStatistics(-length, length, length, 10, None, None)
study = STUDIES["coin"]()
results = run_study(study, study.presets["default"](sys.argv[1]))
index = ESTIMATORS["chosen_length"](statistics).tolist()
print(json.dumps({"loss": loss.item(), "index": index, "mean": results["mean"]}))
"""


def test_the_recipes_work_as_they_are_written(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src")
    found = RECIPE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(found) == 5
    for name, how, after, before, code in found:
        path = tmp_path / name
        if how == "new":
            path.parent.mkdir(parents=True)
            path.write_text(code, encoding="utf-8")
            continue
        place = (after or before).replace("\\n", "\n")
        text = path.read_text(encoding="utf-8")
        assert text.count(place) == 1, f"{name} has {place!r} {text.count(place)} times"
        path.write_text(text.replace(place, f"{place}\n{code.rstrip()}" if after else f"{code}{place}"), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    # The gap is (−1 − ½·−2) − (−3 − ½·−2.5) = 1.75, and −log σ(1.75) = 0.16022.
    assert abs(told["loss"] - 0.16022) < 1e-4
    assert told["index"] == [0.5, 1.0] and told["mean"]["low"] < 0.5 < told["mean"]["high"]
    assert (tmp_path / "out/report.html").is_file()


def test_the_help_of_dispersion_names_every_index():
    assert all(name in dispersion._ESTIMATORS for name in ESTIMATORS)
