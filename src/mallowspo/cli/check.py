"""`mallowspo check`: lint preference data as a tokenizer and its template will see it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallowspo.cli.options import FileLimits, option
from mallowspo.errors import InputError, reason_of, told_as
from mallowspo.loading import local_folder

if TYPE_CHECKING:
    from mallowspo.data.lint import CheckReport, Cleaned

__all__ = ["CheckOptions", "check"]

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


@dataclass(frozen=True, kw_only=True)
class CheckOptions(FileLimits):
    """Find what is wrong with preference data before training: exit code 0 clean, 1 errors found, 2 bad input."""

    data: str = option(
        "A .jsonl, .json, .csv or .parquet file, a folder, or a hub name.", group="What is checked", positional=True
    )
    model_name_or_path: str = option("Whose tokenizer and chat template.")
    output_dir: Path = option("Where check.json goes.", Path("output/check"))
    eval_data: str | None = option(
        "Evaluation data, of which no prompt may be in DATA; a folder gives its test split.", None
    )
    split: str = option("The split of DATA; a single file has only train.", "train")
    trust_remote_code: bool = option("Run code that comes with the model.", False)
    max_length: int = option(
        "Tokens kept of prompt and response together; 0 keeps all.", 1024, group="What is found", null=0
    )
    truncation_mode: str = option("keep_start or keep_end.", "keep_start")
    near_duplicate_threshold: float = option("Similarity in (0, 1] from which two responses are near-identical.", 0.9)
    fix: Path | None = option(
        "Write the rows that can be used here (.jsonl, .jsonl.gz, .parquet), and a log beside it.",
        None,
        group="What is written",
    )
    html: bool = option("Write check.html as well.", False)


def check(options: CheckOptions) -> int:
    """Lint the data, write `check.json` and what else was asked for, and print the findings."""
    from mallowspo.data.limits import Limits
    from mallowspo.data.lint import CheckSettings, check_preferences, write_cleaned
    from mallowspo.data.lint.cleaning import check_output
    from mallowspo.data.lint.tokens import end_token_ids
    from mallowspo.data.sources import keep_source
    from mallowspo.data.vocabulary import embedding_rows
    from mallowspo.files import write_json
    from mallowspo.outputs import writable_file, writable_folder
    from mallowspo.progress import progress_bar

    data, model, fix, folder = options.data, options.model_name_or_path, options.fix, options.output_dir
    if options.max_length < 0:
        raise InputError(f"max_length: got {options.max_length}, expected at least 2, or 0 for no limit")
    settings = CheckSettings(
        max_length=options.max_length or None,
        truncation_mode=options.truncation_mode,
        split=options.split,
        eval_split="test" if options.eval_data is not None and Path(options.eval_data).is_dir() else "train",
        near_duplicate_threshold=options.near_duplicate_threshold,
        limits=Limits.of(options),
    )
    if fix is not None:
        check_output(fix, data, settings.split)
        keep_source(fix, "fix", options.eval_data, settings.eval_split)
        writable_file(fix, "fix")
    writable_folder(folder, "output_dir")
    tokenizer = _load_tokenizer(model, trust_remote_code=options.trust_remote_code)
    stage = f"Checking {Path(data).name}"
    with progress_bar("mallowspo check") as progress, told_as({"dataset": "data"}):
        report = check_preferences(
            data,
            tokenizer,
            settings,
            eval_source=options.eval_data,
            end_ids=end_token_ids(tokenizer, model),
            vocabulary=embedding_rows(model),
            progress=lambda rows: progress(stage, rows, 0),
        )
        progress(stage, report.rows, report.rows)
        cleaned = None if fix is None else write_cleaned(report, fix)
    record = report.to_dict() | {"model_name_or_path": model, "eval_data": options.eval_data}
    if cleaned is not None:
        record["fix"] = asdict(cleaned)
    write_json(folder / "check.json", record)
    if options.html:
        _write_page(folder / "check.html", report, model)
    _print(report, cleaned, folder, html=options.html)
    return int(report.has_errors)


def _load_tokenizer(name: str, *, trust_remote_code: bool) -> Any:
    folder = local_folder("model_name_or_path", name)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder or name), trust_remote_code=trust_remote_code)
    except Exception as error:  # a tokenizer's own code may raise anything
        raise InputError(
            f"model_name_or_path: {name} gives no tokenizer ({reason_of(error)}); give the folder of a saved "
            "tokenizer or model"
        ) from error


def _print(report: CheckReport, cleaned: Cleaned | None, output_dir: Path, *, html: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(f"{report.rows:,} rows of {report.source}", highlight=False, markup=False)
    if report.findings:
        table = Table("severity", "finding", "rows", "%", "example rows")
        for column in (2, 3):
            table.columns[column].justify = "right"
        for finding in report.findings:
            rows = ", ".join(f"{example.row:,}" for example in finding.examples)
            style = _STYLES[finding.severity]
            cells = (finding.kind, f"{finding.count:,}", f"{finding.percent:.2f}", rows)
            table.add_row(Text(finding.severity, style=style), *cells)
        console.print(table)
    for finding in report.findings:
        console.print(Text(f"\n{finding.kind}", style=_STYLES[finding.severity]))
        console.print(Text(f"{finding.why} {finding.todo}"))
        if finding.detail:
            console.print(Text(f"  {finding.detail}"))
        if finding.top:
            spans = ", ".join(f"{span!r} {count:,}" for span, count in finding.top)
            console.print(Text(f"  most often: {spans}"))
        for example in finding.examples:
            console.print(Text(f"  row {example.row:,}: {example.shows}"))
    console.print(Text("\n" + _verdict(report)))
    if cleaned is not None:
        console.print(Text(_told(cleaned)))
    written = [output_dir / "check.json", *([output_dir / "check.html"] if html else [])]
    console.print(Text(f"Written: {', '.join(map(str, written))}"))


def _verdict(report: CheckReport) -> str:
    length = report.statistics["length"]
    told = ""
    if length["pairs"]:
        low, high = (100 * end for end in length["interval_95"])
        told = (
            f" The longer response is preferred in {100 * length['accuracy_of_longer']:.1f} % of "
            f"{length['pairs']:,} pairs (95 % interval {low:.1f} to {high:.1f})."
        )
    counts = {s: sum(finding.severity == s for finding in report.findings) for s in _STYLES}
    if not report.findings:
        return f"Nothing was found.{told}"
    kinds = ", ".join(f"{count} of severity {severity}" for severity, count in counts.items() if count)
    return f"Kinds of findings: {kinds}.{told}"


def _told(cleaned: Cleaned) -> str:
    text = f"{cleaned.kept:,} rows kept in {cleaned.path}, {cleaned.dropped:,} dropped (see {cleaned.log})."
    if cleaned.left_alone:
        text += (
            f" {', '.join(cleaned.left_alone)}: more than half of the rows have it, so the tokenizer or its template "
            "is to be mended, not the rows."
        )
    return text


def _sections(report: CheckReport) -> list[Any]:
    """The sections of the page: one with the table, and one per finding."""
    from mallowspo.reports.blocks import Paragraph, Section, Table, literal

    rows = [[f.severity, f.kind, f"{f.count:,}", f"{f.percent:.2f}"] for f in report.findings]
    sections = [Section("Findings", [Table(["severity", "finding", "rows", "%"], rows)] if rows else [])]
    for finding in report.findings:
        blocks: list[Any] = [Paragraph(literal(f"{finding.why} {finding.todo} {finding.detail}".strip()))]
        if finding.top:
            blocks.append(Table(["span", "rows"], [[span, f"{count:,}"] for span, count in finding.top]))
        if finding.examples:
            shown = [[f"{example.row:,}", example.shows] for example in finding.examples]
            blocks.append(Table(["row", "what it shows"], shown))
        sections.append(Section(finding.kind.replace("_", " "), blocks))
    return sections


def _write_page(path: Path, report: CheckReport, model: str) -> None:
    from mallowspo.reports.blocks import Report, literal
    from mallowspo.reports.html import current_meta, write_report

    page = Report(
        title="Preference data check",
        summary=literal(f"{report.rows:,} rows of {report.source} with the tokenizer of {model}. {_verdict(report)}"),
        sections=_sections(report),
        meta=current_meta(),
    )
    write_report(path, page)
