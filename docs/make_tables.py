"""Write what README.md and docs/ read off the code and off committed runs: tables, the numbers of the studies.

python docs/make_tables.py           # rewrite what stands between the markers
python docs/make_tables.py --check   # exit 1 where a page is out of date
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mallowspo.objectives import OBJECTIVES
from mallowspo.studies import STUDIES
from mallowspo.training.config import MallowsPOConfig

ROOT = Path(__file__).resolve().parent.parent

# What differs from the paper that a preset is named after; a new preset needs its line here.
DEVIATIONS = {
    "mallows_theta": "The index is a mean over tokens, as in the authors' released code; the paper's formula sums. φ* "
    "is fitted to the data instead of a constant. −2 log φ is w itself: w = −φ* log H.",
    "mallows_phi": "Not in the released code. g is smoothed within `kendall_smoothing` of 0 (0 is the exact "
    "function), and −log φ is w/2.",
    "mallows_ipo": "Mean log-probabilities, as TRL's IPO; `length_normalized: false` sums. The authors' second form "
    "(βwδ − ½)² is this one times β².",
    "mallows_simpo": "The weight multiplies the whole bracket, margin included.",
    "mallows_norm": "The paper names no such form: it is its weight on `dpo_norm`, a part of RainbowPO's stack.",
    "rainbow": "α 0.25 and γ 0.1 are starting values of ours, not tuned ones.",
    "dpo": "None.",
    "dpo_norm": "None: TRL's `sigmoid_norm`.",
    "ipo": "Mean log-probabilities, as TRL does after asking the authors; `length_normalized: false` gives the "
    "paper's sum.",
    "simpo": "`margin` is γ/β of the paper (its code's `gamma_beta_ratio`); 0.5 is a starting value.",
    "hinge": "As TRL: the hinge on β times the log-ratio gap, with the reference inside.",
    "plackett_luce": "Shared ranks are summed over.",
    "mallows_list_theta": "A composite likelihood: the paper has pairs only.",
    "mallows_list_phi": "The relaxation of ranks is ours (`rank_temperature`); RCPO (arXiv 2510.23631) has one "
    "for a single choice.",
}


def presets() -> str:
    """The README's table."""
    rows = ["| `objective` | link | score | reference | margin | dispersion | paper | equation |", "|" + "---|" * 8]
    for name, o in OBJECTIVES.items():
        score = "mean" if o.length_normalized else "sum"
        rows.append(
            f"| `{name}` | {o.link} | {score} | {o.reference_weight:g} | {o.margin:g} | {o.dispersion} | {o.paper} | "
            f"{o.equation} |"
        )
    return "\n".join(rows)


def paper_index() -> str:
    """The paper index: every preset with its source, its file and what differs."""
    rows = ["| `objective` | paper | equation | code | deviations |", "|" + "---|" * 5]
    for name, o in OBJECTIVES.items():
        code = {"kendall": "`maths/links.py: kendall_log_prob`", "sigmoid": "`maths/links.py: sigmoid_log_prob`"}
        where = code.get(o.link, "`objectives/pairwise.py`")
        rows.append(f"| `{name}` | {o.paper} | {o.equation} | {where} | {DEVIATIONS[name]} |")
    return "\n".join(rows)


def options() -> str:
    """Our fields of the configuration, from its own help texts."""
    from trl import DPOConfig

    theirs = {field.name for field in fields(DPOConfig)}
    rows = ["| option | default | what |", "|---|---|---|"]
    for field in fields(MallowsPOConfig):
        if field.name in theirs:
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        shown = "from the preset or the model" if default is None else f"`{default}`"
        rows.append(f"| `{field.name}` | {shown} | {field.metadata['help']} |")
    return "\n".join(rows)


def quickstart() -> str:
    """What the committed run of the quick start found: its first lines and its verdicts."""
    from mallowspo.reports.markdown import render_markdown
    from mallowspo.studies.world.study import WORLD

    results = _results("docs/quickstart")
    config = results["config"]
    page = WORLD.page(results)
    head = (
        f"`make quickstart`: {len(config['seeds'])} worlds, {config['setup']['pairs_per_prompt']} pairs a prompt, β "
        f"{', '.join(f'{b:g}' for b in config['betas'])}, {len(results['runs'])} training runs of together "
        f"{results['cpu_seconds'] / 60:.1f} minutes on one core, at most {results['peak_memory_gb']:.1f} GB.\n\n"
        f"{page.summary}"
    )
    return render_markdown(replace(page, summary=head, sections=[]), figures="quickstart/figures")


def twelve_worlds() -> str:
    """What the committed run of the full study found, which the quick start shows beside its own result."""
    from mallowspo.studies.world.page import differences

    results = _results("docs/experiments/world")
    pairs = results["config"]["setup"]["pairs_per_prompt"]
    facts = {"worlds": len(results["worlds"]), "date": results["provenance"]["date"], "pairs_per_prompt": pairs}
    return json.dumps(facts | {"differences": differences(results)}, indent=1) + "\n"


def study_page(name: str, run: str = "") -> Callable[[], str]:
    """A study's page from its committed run as the library writes it; of a further run what the first does not say."""
    where = f"{name}/{run}" if run else name

    def write() -> str:
        from mallowspo.reports.markdown import render_markdown

        page = STUDIES[name]().page(_results(f"docs/experiments/{where}"))
        if run:
            first = STUDIES[name]().page(_results(f"docs/experiments/{name}"))
            page = replace(page, sections=[section for section in page.sections if section not in first.sections])
        said = render_markdown(page, figures=f"{where}/figures", level=3, details=False)
        return f"{said}\n\nEvery table: [report.html]({where}/report.html), [results.json]({where}/results.json)"

    return write


def people() -> str:
    """Every index of a model against people's votes, from the committed run."""
    from mallowspo.reports.markdown import render_markdown
    from mallowspo.studies.estimator.people import PEOPLE

    return render_markdown(PEOPLE.page(_results("docs/dispersion")), figures="../dispersion/figures", level=3)


def start() -> str:
    """What the page *Start* takes, and what came out, from the record of `docs/start/run.py`."""
    record = json.loads((ROOT / "docs/start/run.json").read_text(encoding="utf-8"))
    rows = ["| command | seconds | processor seconds |", "|---|---|---|"]
    for step in record["commands"]:
        rows.append(f"| `{step['command']}` | {step['seconds']:.0f} | {step['processor_seconds']:.0f} |")
    for row, last in (("minutes to the trained model", "mallowspo train"), ("minutes in all", "mallowspo evaluate")):
        until = [step["command"] for step in record["commands"]].index(last) + 1
        took = [
            sum(step[name] for step in record["commands"][:until]) / 60 for name in ("seconds", "processor_seconds")
        ]
        rows.append(f"| {row} | {took[0]:.1f} | {took[1]:.1f} |")
    rate = record["win_rate"]
    cores = "one core" if record["threads"] == 1 else f"{record['threads']} cores"
    said = (
        f"It did so on {record['date']} on {cores} of a server, into a "
        "new environment, with the model on the disk (read from a file of 4-bit weights). The "
        f"trained model's answer won on {rate['win_rate']:.0f}% [{rate['low']:.0f}, {rate['high']:.0f}] (95%) of the "
        f"{record['prompts']} prompts ([run.json](start/run.json))."
    )
    return "\n".join([said, "", *rows])


def realrun() -> str:
    """What the committed run of `make realrun` found."""
    from mallowspo.reports.markdown import render_markdown

    sys.path.insert(0, str(ROOT / "recipes/smollm2"))
    import realrun as recipe

    return render_markdown(recipe.REALRUN.page(_results("docs/realrun")), figures="realrun/figures", level=3)


def people_smollm2() -> str:
    """Every index of SmolLM2 against people's votes, from the committed run."""
    from mallowspo.reports.markdown import render_markdown
    from mallowspo.studies.estimator.people import PEOPLE

    page = PEOPLE.page(_results("docs/experiments/estimator/smollm2"))
    return render_markdown(page, figures="estimator/smollm2/figures", level=4)


def what_it_is_for() -> str:
    """The first lines of the page of that name, for the README."""
    page = (ROOT / "docs/what-it-is-for.md").read_text(encoding="utf-8")
    head = page.split("<!-- begin summary -->\n")[1].split("\n<!-- end summary -->")[0]
    return re.sub(r"\]\((?!http)", "](docs/", head)


def _results(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / folder / "results.json").read_text(encoding="utf-8"))
    return found


def trl_options() -> str:
    """What becomes of every option of TRL, from the declaration that the tests go through."""
    return _declaration().table(_declaration().OPTIONS)


def trl_arguments() -> str:
    """The same for the arguments of the constructor."""
    return _declaration().table(_declaration().ARGUMENTS)


def _declaration() -> Any:
    sys.path.insert(0, str(ROOT / "tests/training"))
    import trl_options as declaration

    return declaration


def removed_options() -> str:
    """What replaces the options that are gone."""
    from mallowspo.training.removed_options import REMOVED_OPTIONS

    return "\n".join(
        ["| option | instead |", "|---|---|", *(f"| `{name}` | {hint} |" for name, hint in REMOVED_OPTIONS.items())]
    )


PAGES = {
    "README.md": {"presets": presets, "what-it-is-for": what_it_is_for},
    "docs/quickstart.md": {"quickstart": quickstart},
    "docs/paper-index.md": {"paper-index": paper_index},
    "docs/training.md": {"options": options},
    **({"docs/index.md": {"start": start}} if (ROOT / "docs/start/run.json").is_file() else {}),
    "docs/experiments/people.md": {"people": people},
    **{
        f"docs/experiments/{name}.md": {name: study_page(name)}
        for name in STUDIES
        if (ROOT / f"docs/experiments/{name}/results.json").is_file()
    },
    "docs/experiments/bandit-paper.md": {"bandit paper": study_page("bandit", "paper")},
    "docs/experiments/controllable.md": {
        "controllable": study_page("controllable"),
        "controllable stories-3m": study_page("controllable", "stories-3m"),
    },
    "docs/coming-from-trl.md": {
        "trl-options": trl_options,
        "trl-arguments": trl_arguments,
        "removed-options": removed_options,
    },
}


# Files that are written as a whole.
DATA = {"src/mallowspo/studies/world/twelve_worlds.json": twelve_worlds}
# Runs on SmolLM2 are minutes and hours on a real model: a page has the marks before its run is committed.
if (ROOT / "docs/realrun/results.json").is_file():
    PAGES["docs/realrun.md"] = {"realrun": realrun}
if (ROOT / "docs/experiments/estimator/smollm2/results.json").is_file():
    PAGES["docs/experiments/estimator.md"]["estimator smollm2"] = people_smollm2


def filled(page: str, tables: dict[str, object]) -> str:
    """The page with every table made anew between its markers."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, make in tables.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(\n<!-- end {name} -->)", re.DOTALL)
        table = make()  # type: ignore[operator]
        text, count = pattern.subn(lambda match, table=table: match[1] + table + match[2], text)
        if count != 1:
            raise SystemExit(f"{page}: expected one pair of markers for {name}, found {count}")
    return text


def main() -> int:
    """Rewrite the pages, or say which are out of date."""
    made = {path: make() for path, make in DATA.items()} | {page: filled(page, PAGES[page]) for page in PAGES}
    stale = [path for path, text in made.items() if not _is(path, text)]
    if "--check" in sys.argv:
        if stale:
            sys.stderr.write(f"out of date: {', '.join(stale)}; run python docs/make_tables.py\n")
        return 1 if stale else 0
    for page in stale:
        (ROOT / page).write_text(made[page], encoding="utf-8")
    return 0


def _is(path: str, text: str) -> bool:
    return (ROOT / path).is_file() and (ROOT / path).read_text(encoding="utf-8") == text


if __name__ == "__main__":
    raise SystemExit(main())
