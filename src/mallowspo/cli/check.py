"""`mallowspo check`: lint preference data as a tokenizer and its template will see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mallowspo.errors import InputError, reason_of

if TYPE_CHECKING:
    from mallowspo.data.lint import CheckReport, Cleaned

__all__ = ["check", "load_tokenizer", "report_blocks"]

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def check(
    data: str = typer.Argument(..., help="A .jsonl, .json, .csv or .parquet file, a folder, or a hub name."),
    model_name_or_path: str = typer.Option(..., "--model_name_or_path", help="Whose tokenizer and chat template."),
    output_dir: Path = typer.Option(Path("output/check"), "--output_dir", help="Where check.json goes."),
    eval_data: str | None = typer.Option(
        None, "--eval_data", help="Evaluation data, of which no prompt may be in DATA; a folder gives its test split."
    ),
    max_length: int = typer.Option(
        1024, "--max_length", help="Tokens kept of prompt and response together; 0 keeps all."
    ),
    truncation_mode: str = typer.Option("keep_start", "--truncation_mode", help="keep_start or keep_end."),
    split: str = typer.Option("train", "--split", help="The split of DATA; a single file has only train."),
    fix: Path | None = typer.Option(
        None, "--fix", help="Write the rows that can be used here (.jsonl, .jsonl.gz, .parquet), and a log beside it."
    ),
    near_duplicate_threshold: float = typer.Option(
        0.9, "--near_duplicate_threshold", help="Similarity in (0, 1] from which two responses are near-identical."
    ),
    trust_remote_code: bool = typer.Option(False, "--trust_remote_code", help="Run code that comes with the model."),
    html: bool = typer.Option(False, "--html", help="Write check.html as well."),
    max_line_mb: int = typer.Option(64, "--max_line_mb", help="MiB that a line, or a row of a CSV file, may have."),
    max_nesting: int = typer.Option(64, "--max_nesting", help="Levels of lists and objects in a value."),
    max_columns: int = typer.Option(1000, "--max_columns", help="Different columns of all rows together."),
) -> None:
    """Find what is wrong with preference data before training: exit code 0 clean, 1 errors found, 2 bad input."""
    from mallowspo.data.limits import Limits
    from mallowspo.data.lint import CheckSettings, check_preferences, write_cleaned
    from mallowspo.data.lint.cleaning import check_output
    from mallowspo.data.lint.tokens import end_token_ids
    from mallowspo.data.vocabulary import embedding_rows
    from mallowspo.files import write_json
    from mallowspo.outputs import writable_file, writable_folder
    from mallowspo.progress import progress_bar

    if max_length < 0:
        raise InputError(f"max_length: got {max_length}, expected at least 2, or 0 for no limit")
    settings = CheckSettings(
        max_length=max_length or None,
        truncation_mode=truncation_mode,
        split=split,
        eval_split="test" if eval_data is not None and Path(eval_data).is_dir() else "train",
        near_duplicate_threshold=near_duplicate_threshold,
        limits=Limits(max_line_mb=max_line_mb, max_nesting=max_nesting, max_columns=max_columns),
    )
    if fix is not None:
        check_output(fix, data)
        writable_file(fix, "fix")
    writable_folder(output_dir, "output_dir")
    tokenizer = load_tokenizer(model_name_or_path, trust_remote_code=trust_remote_code)
    stage = f"Checking {Path(data).name}"
    with progress_bar("mallowspo check") as progress:
        report = check_preferences(
            data,
            tokenizer,
            settings,
            eval_source=eval_data,
            end_ids=end_token_ids(tokenizer, model_name_or_path),
            vocabulary=embedding_rows(model_name_or_path),
            progress=lambda rows: progress(stage, rows, 0),
        )
        progress(stage, report.rows, report.rows)
        cleaned = None if fix is None else write_cleaned(report, fix)
    record = report.to_dict() | {"model_name_or_path": model_name_or_path, "eval_data": eval_data}
    if cleaned is not None:
        record["fix"] = _fix_record(cleaned)
    write_json(output_dir / "check.json", record)
    if html:
        _write_page(output_dir / "check.html", report, model_name_or_path)
    _print(report, cleaned, output_dir, html=html)
    if report.has_errors:
        raise typer.Exit(1)


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer by path or hub name.

    Args:
        name: A folder with a saved tokenizer, or a hub name.
        trust_remote_code: Run code that comes with the model.

    Returns:
        The tokenizer.

    Raises:
        InputError: There is none.
    """
    path = Path(name).expanduser()
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.is_dir():
        raise InputError(f"model_name_or_path: there is no folder {name}")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path) if path.is_dir() else name, trust_remote_code=trust_remote_code)
    except Exception as error:  # a tokenizer's own code may raise anything
        raise InputError(
            f"model_name_or_path: {name} gives no tokenizer ({reason_of(error)}); give the folder of a saved "
            "tokenizer or model"
        ) from error


def _fix_record(cleaned: Cleaned) -> dict[str, Any]:
    return {
        "path": cleaned.path,
        "log": cleaned.log,
        "kept": cleaned.kept,
        "dropped": cleaned.dropped,
        "reasons": cleaned.reasons,
        "left_alone": list(cleaned.left_alone),
    }


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


def report_blocks(report: CheckReport) -> list[Any]:
    """Turn a report into the sections of an HTML page.

    Args:
        report: What was found.

    Returns:
        One section with the table, and one per finding.
    """
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
        sections=report_blocks(report),
        meta=current_meta(),
    )
    write_report(path, page)
