"""Sweeps in words and in JSON: without anybody in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from engine.sweeps.expectation import Expectation
from engine.sweeps.model import Scope, SweepRecord

SWEEP_COLUMNS = ("sweep", "state", "of", "threshold", "begun", "compared", "pairs", "groups")
GROUP_COLUMNS = (
    *("", "kind", "identities", "lines", "carriers", "outlets"),
    *("weakest", "cut links", "risk"),
)
_SCOPES = {Scope.ALL: "all", Scope.NEW: "what is new"}


def sweep_as_json(record: SweepRecord) -> dict[str, Any]:
    """Every field; moments as ISO 8601."""
    written = asdict(record)
    for name in ("created_at", "started_at", "ended_at"):
        moment = written[name]
        written[name] = moment.isoformat() if isinstance(moment, datetime) else None
    return {**written, "progress": {**written["progress"], "share": record.progress.share}}


def sweep_row(record: SweepRecord) -> list[str]:
    """Under `SWEEP_COLUMNS`."""
    found = record.summary or {}
    return [
        record.id,
        record.state.value,
        _SCOPES[record.terms.scope],
        f"{record.terms.threshold:.4f}",
        "-" if record.started_at is None else record.started_at.isoformat(timespec="seconds"),
        f"{record.progress.share:.0%}" if record.progress.comparisons_total else "-",
        f"{found.get('pairs', record.progress.pairs):,}",
        f"{found['groups']:,}" if "groups" in found else "-",
    ]


def sweep_facts(record: SweepRecord) -> dict[str, str]:
    """What is known of a sweep; what it found only when it is done."""
    progress, found = record.progress, record.summary
    facts = {
        "state": record.state.value,
        "threshold": f"{record.terms.threshold:.4f}",
        "compares": _SCOPES[record.terms.scope],
        "compared": f"{progress.comparisons:,} of {progress.comparisons_total:,}",
    }
    if progress.remaining_s:
        facts["remaining"] = f"about {tell_duration(progress.remaining_s)}"
    if record.fault is not None:
        facts["fault"] = record.fault
    if found is None:
        return facts
    return facts | {
        "covers": f"{found['references']:,} references at sequence {record.sequence}",
        "took": tell_duration(found["seconds"]),
        "pairs": f"{found['pairs']:,} between two documents; besides {found['excepted_pairs']:,} "
        f"judged before, {found['same_document_pairs']:,} of one document",
        "false pairs": f"{_tell_rate(found['expected_false_pairs'])} expected",
        "groups": f"{found['groups']:,} with {found['identities']:,} identities, "
        f"{found['lines']:,} lines",
        "cases": f"{found['cases']:,}",
    }


def expectation_facts(expectation: Expectation) -> dict[str, str]:
    """What to expect, in the words of the command line."""
    proposal, terms = expectation.proposal, expectation.terms
    fewer = "" if proposal.is_within_budget else ", the highest that is calibrated"
    facts = {
        "references": f"{expectation.references:,} at sequence {expectation.sequence}",
        "new of them": f"{expectation.new_references:,}",
        "comparisons": f"{expectation.comparisons:,}",
        "time": f"about {tell_duration(expectation.duration_s)}",
        "memory": f"about {max(expectation.memory_bytes / 2**20, 1):,.0f} MiB",
        "threshold": f"{terms.threshold:.4f}",
        "false pairs": f"{expectation.false_pairs} expected",
        "proposed": f"{proposal.threshold:.4f}{fewer}, for {proposal.false_pairs} false pairs "
        f"where {proposal.budget:,.3g} are allowed",
    }
    if terms.scope is Scope.ALL:
        del facts["new of them"]
    if not expectation.is_supported:
        facts["NOT SUPPORTED"] = (
            f"the calibration ends at {expectation.highest_supported:.4f}; above it nothing was "
            "measured, and the number of false pairs is a bound"
        )
    return facts


def group_in_short(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group as counts: nobody is named."""
    lines = [line for one in group["identities"] for line in one["lines"]]
    return {
        "key": group["key"],
        "kind": group["kind"],
        "risk": group["risk"],
        "identities": len(group["identities"]),
        "lines": len(lines),
        "carriers": len({line["carrier"] for line in lines}),
        "outlets": len({(line["carrier"], line["outlet"]) for line in lines}),
        "weakest_score": None if group["weakest"] is None else group["weakest"]["score"],
        "severed_links": len(group["severed"]),
    }


def group_row(place: int, group: Mapping[str, Any]) -> list[str]:
    """A group in short, under `GROUP_COLUMNS`."""
    weakest = group["weakest_score"]
    return [
        str(place),
        group["kind"].replace("_", " "),
        str(group["identities"]),
        str(group["lines"]),
        str(group["carriers"]),
        str(group["outlets"]),
        "-" if weakest is None else f"{weakest:.4f}",
        str(group["severed_links"]),
        f"{group['risk']:.0f}",
    ]


def tell_duration(seconds: float) -> str:
    """In the two units that matter."""
    if seconds < 1:
        return "1 s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def _tell_rate(rate: Mapping[str, Any]) -> str:
    if rate["is_bound"]:
        return f"at most {rate['value']:.2g}"
    return f"{rate['value']:.2g} ({rate['low']:.2g} to {rate['high']:.2g})"
