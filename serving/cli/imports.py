"""An operator's existing base: `import`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phonenumbers import SUPPORTED_REGIONS

from engine.errors import RequestError
from engine.matching.documents import find_time_zone
from schema import frozen
from serving.cli.inputs import argument, option, require_place
from serving.cli.output import Answer, Call, Facts, command

if TYPE_CHECKING:
    from engine.imports.import_run import Summary
    from engine.imports.row_parser import ColumnMapping, Field


@frozen
class ImportOptions:
    """A file of subscribers, how it is read, and what becomes of bad rows."""

    file: Path = argument("CSV with a header, or Parquet.", "FILE")
    mapped: list[str] | None = option("Where a column has another name.", "FIELD=COLUMN", "--map")
    defaults: list[str] | None = option(
        "For rows without: document_type, carrier, outlet, opened_at.", "FIELD=VALUE", "--set"
    )
    images: Path | None = option(
        "Where paths of photographs begin.", "DIR", show_default="FILE's folder"
    )
    allow_outside: bool = option("Follow paths that lead out of it.")
    encoding: str = option("Of a CSV.", "NAME", default="utf-8")
    delimiter: str = option("Of a CSV; or: tab.", "SIGN", default=",")
    timezone: str = option("Of moments that name none, as Asia/Shanghai.", "ZONE", default="UTC")
    country: str | None = option("Of telephone numbers that do not begin with +, as CN.", "CC")
    model_digest: str | None = option("Of the model that made a column of vectors.", "SHA256")
    report: Path | None = option(
        "Every fault, by row; beside it .summary.json and .journal.",
        "FILE.csv",
        show_default="FILE.import.csv",
    )
    check: bool = option(
        "Store nothing; the report is FILE.check.csv. Takes 1 kB of memory a document."
    )
    resume: bool = option(
        "Go on where the last run ended.", None, "--resume/--no-resume", default=True
    )
    stop_after_failures: int | None = option("Stop when N rows have failed.", "N", min=1)
    count_look_alikes: bool = option(
        "Count faces that are there under another document.",
        None,
        "--count-look-alikes/--no-count-look-alikes",
        default=True,
    )


@command("import")
def import_base(call: Call, chosen: ImportOptions) -> Answer:
    """Import an existing base of subscribers: documents, faces, lines.

    Columns: document_type, document_number, name, expires_on, msisdn, carrier, outlet, opened_at,
    live, portrait (paths), portrait_kind, template, consent_ref, consent. A bad row is reported and
    stops no other; the same command goes on where it was interrupted.

    Exit code 0 where every row is in, 1 where some failed or it was stopped.
    """
    from engine.imports.sources import CsvForm
    from serving.imports import ImportOrder, run_import

    if chosen.images is not None and not chosen.images.is_dir():
        raise RequestError(f"{chosen.images} is not a folder: name the one that paths begin in")
    order = ImportOrder(
        file=chosen.file,
        report=_choose_report(chosen.file, chosen.report, is_check=chosen.check),
        actor=call.actor,
        mapping=_read_mapping(chosen.mapped or (), chosen.defaults or ()),
        form=CsvForm(chosen.encoding, _read_delimiter(chosen.delimiter)),
        images=chosen.images,
        allows_outside=chosen.allow_outside,
        zone=find_time_zone(chosen.timezone),
        country=_read_country(chosen.country),
        model_digest=chosen.model_digest,
        is_check=chosen.check,
        resumes=chosen.resume,
        stop_after_failures=chosen.stop_after_failures,
        counts_look_alikes=chosen.count_look_alikes,
    )
    deployment = call.deployment
    with call.progress("check" if chosen.check else "import") as progress:
        try:
            summary = run_import(deployment, order, progress)
        except KeyboardInterrupt:
            if not chosen.check:
                sys.stderr.write("sosie: interrupted; the same command goes on from here\n")
            raise
    return Answer(summary.to_dict(), _tell_summary(summary), is_no=not summary.is_clean)


def _choose_report(file: Path, given: Path | None, *, is_check: bool) -> Path:
    report = given or file.with_name(f"{file.name}.{'check' if is_check else 'import'}.csv")
    if report.suffix != ".csv":
        raise RequestError("the report is a CSV: give --report a name that ends in .csv")
    if report.absolute() == file.absolute():
        raise RequestError("the report would overwrite the data: give --report another name")
    require_place(report)
    return report


def _read_mapping(mapped: Sequence[str], defaults: Sequence[str]) -> ColumnMapping:
    from engine.imports.row_parser import DEFAULTED, ColumnMapping

    names = dict(_read_pair(text, "--map") for text in mapped)
    values = dict(_read_pair(text, "--set") for text in defaults)
    refused = sorted(set(values) - set(DEFAULTED))
    if refused:
        raise RequestError(f"{refused[0]} is each row's own: --set takes {', '.join(DEFAULTED)}")
    return ColumnMapping(names, values)


def _read_pair(text: str, option: str) -> tuple[Field, str]:
    from engine.imports.row_parser import Field

    name, sign, value = (part.strip() for part in text.partition("="))
    if not sign or not value or name not in list(Field):
        raise RequestError(f"{option} takes FIELD=…, with a field of {', '.join(Field)}")
    return Field(name), value


def _read_delimiter(text: str) -> str:
    sign = "\t" if text in ("tab", "\\t") else text
    if len(sign) != 1 or not sign.isascii() or sign in '"\r\n':
        raise RequestError("a delimiter is one sign, as ; or tab")
    return sign


def _read_country(code: str | None) -> str | None:
    if code is None:
        return None

    if code.upper() not in SUPPORTED_REGIONS:
        raise RequestError("no such country: give its two letters, as CN")
    return code.upper()


def _tell_summary(summary: Summary) -> Facts:
    tally = summary.tally
    done = f"{tally.rows:,} of {summary.rows_total:,} rows"
    facts = {
        "taken in": f"{tally.admitted:,} faces, {tally.lines:,} lines",
        "there before": f"{tally.present:,}",
        "failed": _list_codes(tally.failed, tally.failures),
        "warned": _list_codes(tally.warned, tally.warnings),
        "photographs": f"{tally.photographs:,}; {tally.fused:,} references are of two",
        "expired": f"{tally.expired:,}",
        "look-alikes": None if summary.is_check else f"{tally.look_alikes:,}",
        "took": f"{summary.seconds:,.1f} s, {summary.photographs_per_second:,.0f} photographs/s",
        "report": str(summary.report),
    }
    colour = "green" if summary.is_clean else "yellow"
    what = "check" if summary.is_check else "import"
    return Facts(f"[{colour}]The {what} is {summary.ending}[/]: {done}.", facts)


def _list_codes(rows: int, counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count:,} {code}" for code, count in sorted(counts.items()))
    return f"{rows:,}" + (f" ({listed})" if listed else "")
