"""What comes: kinds of traffic and their shares, and what is planted among the enrollments."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from loadtest.errors import LoadTestRefused


class Traffic(StrEnum):
    """Who comes; each has arrivals, a latency and an objective of its own."""

    ENROLL = "enroll"
    RETURN = "return"
    MATCH = "match"
    QUERY = "query"
    SEARCH = "search"


class Kind(StrEnum):
    """What is planned of a visit, which says what its answer must be."""

    NEWCOMER = "newcomer"
    RETURNING = "returning subscriber"
    DUPLICATE = "planted duplicate"
    STOLEN = "stolen document"
    RETRY = "retry"
    CONFLICT = "key used again"
    RACE = "race"
    MATED = "1:1 of one person"
    STRANGERS = "1:1 of two people"
    OWN_LINES = "own numbers"
    OTHERS_LINES = "another's numbers"
    KNOWN = "search for a known face"
    UNKNOWN = "search for an unknown face"


Mix = Mapping[Traffic, float]

USUAL_MIX: Mix = MappingProxyType(
    {
        Traffic.ENROLL: 0.40,
        Traffic.RETURN: 0.15,
        Traffic.MATCH: 0.25,
        Traffic.QUERY: 0.15,
        Traffic.SEARCH: 0.05,
    }
)
PLANTED: Mapping[Kind, float] = MappingProxyType(
    {
        Kind.DUPLICATE: 0.05,
        Kind.STOLEN: 0.03,
        Kind.RETRY: 0.04,
        Kind.CONFLICT: 0.02,
        Kind.RACE: 0.04,
    }
)
"""Shares of the arrivals that enroll; of each kind one at least where there is room for it."""
PAIRED = frozenset({Kind.RETRY, Kind.CONFLICT, Kind.RACE})
"""Kinds that take two arrivals."""
REPEATED = frozenset({Kind.RETRY, Kind.CONFLICT})
"""Those of them that come with the key of another."""


def read_mix(text: str) -> Mix:
    """`enroll=40,match=60`, in any unit; what is not named does not come."""
    shares: dict[Traffic, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, share = part.partition("=")
        try:
            shares[Traffic(name.strip())] = float(share)
        except ValueError:
            raise LoadTestRefused(
                f"the mix is written as enroll=40,match=60; it may name {', '.join(Traffic)}"
            ) from None
    total = sum(shares.values())
    if not total > 0 or min(shares.values()) < 0 or total == float("inf"):
        raise LoadTestRefused("the mix needs a share above 0, and none below")
    return {traffic: share / total for traffic, share in shares.items() if share}
