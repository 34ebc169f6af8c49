"""An operator's existing base: `import`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import RequestError
from serving.cli.inputs import require_place
from serving.cli.output import REGISTRY, Answer, Call, add_commands, print_facts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.imports.columns import ColumnMapping, Field
    from engine.imports.import_run import Summary


def register(app: typer.Typer) -> None:
    add_commands(app, REGISTRY, **{"import": import_base})


def import_base(
    call: Call,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV with a header, or Parquet.")],
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="Where a column has another name."),
    ] = None,
    defaults: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="For rows without: document_type, carrier, outlet, opened_at.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default="FILE's folder", help="Where paths of photographs begin."
        ),
    ] = None,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Follow paths that lead out of it.")
    ] = False,
    encoding: Annotated[str, typer.Option(metavar="NAME", help="Of a CSV.")] = "utf-8",
    delimiter: Annotated[str, typer.Option(metavar="SIGN", help="Of a CSV; or: tab.")] = ",",
    timezone: Annotated[
        str, typer.Option(metavar="ZONE", help="Of moments that name none, as Asia/Shanghai.")
    ] = "UTC",
    country: Annotated[
        str | None,
        typer.Option(metavar="CC", help="Of telephone numbers that do not begin with +, as CN."),
    ] = None,
    model_digest: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Of the model that made a column of vectors."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            show_default="FILE.import.csv",
            help="Every fault, by row; beside it .summary.json and .journal.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Store nothing; the report is FILE.check.csv. Takes 1 kB of memory a document.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where the last run ended.")
    ] = True,
    stop_after_failures: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop when N rows have failed.")
    ] = None,
    count_look_alikes: Annotated[
        bool,
        typer.Option(
            "--count-look-alikes/--no-count-look-alikes",
            help="Count faces that are there under another document.",
        ),
    ] = True,
) -> Answer:
    """Import an existing base of subscribers: documents, faces, lines.

    Columns: document_type, document_number, name, expires_on, msisdn, carrier, outlet, opened_at,
    live, portrait (paths), portrait_kind, template, consent_ref. A bad row is reported and stops no
    other; the same command goes on where it was interrupted.

    Exit code 0 where every row is in, 1 where some failed or it was stopped.
    """
    from engine.imports.sources import CsvForm
    from engine.matching.documents import find_time_zone
    from serving.imports import ImportOrder, run_import

    order = ImportOrder(
        file=file,
        report=_choose_report(file, report, is_check=check),
        actor=call.actor,
        mapping=_read_mapping(mapped or (), defaults or ()),
        form=CsvForm(encoding, _read_delimiter(delimiter)),
        images=_require_folder(images),
        allows_outside=allow_outside,
        zone=find_time_zone(timezone),
        country=_read_country(country),
        model_digest=model_digest,
        is_check=check,
        resumes=resume,
        stop_after_failures=stop_after_failures,
        counts_look_alikes=count_look_alikes,
    )
    deployment = call.deployment
    with call.progress("check" if check else "import") as progress:
        try:
            summary = run_import(deployment, order, progress)
        except KeyboardInterrupt:
            if not check:
                sys.stderr.write("sosie: interrupted; the same command goes on from here\n")
            raise
    return Answer(summary.to_dict(), partial(_print_summary, summary), is_no=not summary.is_clean)


def _choose_report(file: Path, given: Path | None, *, is_check: bool) -> Path:
    report = given or file.with_name(f"{file.name}.{'check' if is_check else 'import'}.csv")
    if report.suffix != ".csv":
        raise RequestError("the report is a CSV: give --report a name that ends in .csv")
    if report.absolute() == file.absolute():
        raise RequestError("the report would overwrite the data: give --report another name")
    require_place(report)
    return report


def _read_mapping(mapped: Sequence[str], defaults: Sequence[str]) -> ColumnMapping:
    from engine.imports.columns import DEFAULTED, ColumnMapping

    names = dict(_read_pair(text, "--map") for text in mapped)
    values = dict(_read_pair(text, "--set") for text in defaults)
    refused = sorted(set(values) - set(DEFAULTED))
    if refused:
        raise RequestError(f"{refused[0]} is each row's own: --set takes {', '.join(DEFAULTED)}")
    return ColumnMapping(names, values)


def _read_pair(text: str, option: str) -> tuple[Field, str]:
    from engine.imports.columns import Field

    name, sign, value = (part.strip() for part in text.partition("="))
    if not sign or not value or name not in list(Field):
        raise RequestError(f"{option} takes FIELD=…, with a field of {', '.join(Field)}")
    return Field(name), value


def _read_delimiter(text: str) -> str:
    sign = "\t" if text in ("tab", "\\t") else text
    if len(sign) != 1 or not sign.isascii() or sign in '"\r\n':
        raise RequestError("a delimiter is one sign, as ; or tab")
    return sign


def _require_folder(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise RequestError(f"{folder} is not a folder: name the one that paths begin in")
    return folder


def _read_country(code: str | None) -> str | None:
    if code is None:
        return None
    from phonenumbers import SUPPORTED_REGIONS

    if code.upper() not in SUPPORTED_REGIONS:
        raise RequestError("no such country: give its two letters, as CN")
    return code.upper()


def _print_summary(summary: Summary) -> None:
    tally = summary.tally
    done = f"{tally.rows:,} of {summary.rows_total:,} rows"
    facts = {
        "taken in": f"{tally.admitted:,} faces, {tally.lines:,} lines",
        "there before": f"{tally.present:,}",
        "failed": _list_codes(tally.failed, tally.failures),
        "warned": _list_codes(tally.warned, tally.warnings),
        "photographs": f"{tally.photographs:,}; {tally.fused:,} references are of two",
        "expired": f"{tally.expired:,}",
        "look-alikes": f"{tally.look_alikes:,}",
        "took": f"{summary.seconds:,.1f} s, {summary.photographs_per_second:,.0f} photographs/s",
        "report": str(summary.report),
    }
    if summary.is_check:
        del facts["look-alikes"]
    colour = "green" if summary.is_clean else "yellow"
    what = "check" if summary.is_check else "import"
    print_facts(f"[{colour}]The {what} is {summary.ending}[/]: {done}.", facts)


def _list_codes(rows: int, counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count:,} {code}" for code, count in sorted(counts.items()))
    return f"{rows:,}" + (f" ({listed})" if listed else "")
