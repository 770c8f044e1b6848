"""What AlpacaEval and JudgeArena read from the files that `exported.py` describes.

    python tests/evaluation/peers.py FOLDER > tests/golden/peers.json

in an environment with `alpaca_eval` 0.6.6 and `judgearena` 0.1.0, where FOLDER was written by `exported.write`. The
project needs neither: the numbers are kept, with a digest of the files that they were read from.
"""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

FILES = ("alpaca_eval/annotations.json", "judgearena/annotations.csv", "judgearena/results.json")


def digests(folder):
    """SHA-256 of each file that is read."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def read(folder):
    """Load the files with their own readers."""
    from alpaca_eval.metrics import get_winrate
    from alpaca_eval.utils import load_or_convert_to_dataframe
    from judgearena.evaluate import PairScore
    from judgearena.utils import compute_pref_summary, read_df

    annotations = load_or_convert_to_dataframe(folder / "alpaca_eval" / "annotations.json")
    battles = read_df(folder / "judgearena" / "annotations.csv")
    again = [PairScore().parse_model_raw(text) for text in battles["judge_completion"].fillna("")]
    preferences = json.loads((folder / "judgearena" / "results.json").read_text())["preferences"]
    answers = {name: read_df(folder / "judgearena" / f"{name}.parquet") for name in ("model", "baseline")}
    return {
        "alpaca_eval": {name: float(value) for name, value in get_winrate(annotations).items()},
        "judgearena": compute_pref_summary(preferences),
        "judgearena_again": again,
        "judgearena_answers": {
            name: table.set_index("instruction_index")["output"].tolist() for name, table in answers.items()
        },
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = {"versions": {name: version(name) for name in ("alpaca_eval", "judgearena")}, "digests": digests(folder)}
    print(json.dumps(found | read(folder), indent=2))
