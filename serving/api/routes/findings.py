"""How sweeps, and what they found, look in answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil, floor
from typing import Any

from engine.casework.precision import Precision, measure_at, measure_precision
from engine.registry.casefile import JudgedPair
from engine.registry.records import CaseRecord
from engine.sweeps.expectation import Expectation
from engine.sweeps.model import SweepRecord

STEPS = 20
"""Thresholds of a precision, from score 0 to 1."""


def show_sweep(record: SweepRecord) -> dict[str, Any]:
    """A sweep without its summary."""
    progress = record.progress
    return {
        "sweep_id": record.id,
        "state": record.state.value,
        "threshold": record.terms.threshold,
        "scope": record.terms.scope.value,
        "requested_by": record.requested_by,
        "gallery_sequence": record.sequence,
        "progress": {**asdict(progress), "share": progress.share},
        "created_at": record.created_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "fault": record.fault,
    }


def show_expectation(found: Expectation) -> dict[str, Any]:
    """What a sweep would cost and bring."""
    return {
        "threshold": found.terms.threshold,
        "scope": found.terms.scope.value,
        "references": found.references,
        "new_references": found.new_references,
        "gallery_sequence": found.sequence,
        "comparisons": found.comparisons,
        "duration_s": found.duration_s,
        "memory_bytes": found.memory_bytes,
        "false_pairs": asdict(found.false_pairs),
        "is_supported": found.is_supported,
        "proposal": {
            "threshold": found.proposal.threshold,
            "fmr": found.proposal.fmr,
            "false_pairs": asdict(found.proposal.false_pairs),
            "budget": found.proposal.budget,
            "is_within_budget": found.proposal.is_within_budget,
        },
    }


def show_group(
    group: Mapping[str, Any], cases: Mapping[str, Sequence[CaseRecord]]
) -> dict[str, Any]:
    """A group as the desk gives it, with the open cases about its documents."""
    return {
        "key": group["key"],
        "kind": group["kind"],
        "risk": group["risk"],
        "terms": group["terms"],
        "weakest": group["weakest"],
        "identities": group["identities"],
        "links": group["links"],
        "severed": group["severed"],
        "left_out": group["left_out"],
        "cases": list(dict.fromkeys(case.id for found in cases.values() for case in found)),
    }


def show_precision(pairs: Sequence[JudgedPair], sweep_id: str | None) -> dict[str, Any]:
    """How many of the judged pairs were fraud, at every twentieth of a score."""
    whole = measure_precision(pairs, sweep_id=sweep_id)
    scores = [pair.score for pair in pairs if pair.sweep_id is not None]
    steps = range(floor(min(scores, default=1) * STEPS), ceil(max(scores, default=0) * STEPS))
    rising = measure_at(pairs, [step / STEPS for step in steps], sweep_id)
    return {
        **_show_rate(whole),
        "thresholds": [{"threshold": one.threshold, **_show_rate(one)} for one in rising],
    }


def _show_rate(found: Precision) -> dict[str, Any]:
    rate = found.rate
    return {
        "judged": found.judged,
        "confirmed": found.confirmed,
        "precision": None if rate is None else rate.value,
        "low": None if rate is None else rate.low,
        "high": None if rate is None else rate.high,
    }
