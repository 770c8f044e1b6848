"""Run what `docs/dispersion.md` shows: does the index of a small model track people's disagreement?

python docs/runs/estimator_study.py   # from the root of the checkout; about 3 minutes on one core
python docs/make_tables.py            # then writes the tables into the page
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mallowspo.progress import progress_bar
from mallowspo.studies.estimator.people import PEOPLE, PeopleSettings
from mallowspo.studies.study import run_study

SHARED, OUTPUT, KEPT = Path("../shared"), Path("output/people"), Path("docs/dispersion")

if __name__ == "__main__":
    settings = PeopleSettings(
        model=str(SHARED / "models/stories-3m"),
        data={
            "PandaLM": str(SHARED / "data/votes/pandalm.json"),
            "WMT23": str(SHARED / "data/votes/wmt23_sxs_mqm_ende.jsonl.gz"),
        },
        output_dir=str(OUTPUT),
    )
    with progress_bar() as progress:
        run_study(PEOPLE, settings, progress=progress)
    for made in (OUTPUT / "results.json", *(OUTPUT / "figures").glob("*.png")):
        shutil.copyfile(made, KEPT / made.relative_to(OUTPUT))
