"""The traffic of outlets and of a fraud team, for Locust's own tools and its page:

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8700 --outlet test-1

Keys and arguments: docs/load-tests.md.
"""

from collections.abc import Callable, Mapping
from typing import Any

from locust import between

from loadtest.users import Kind, SosieUser


def visits(shares: Mapping[Kind, int]) -> list[Any]:
    """Tasks in these proportions, which Locust shows by the kinds of their visits."""
    return [task for kind, share in shares.items() for task in [_visit(kind)] * share]


def _visit(kind: Kind) -> Callable[[SosieUser], None]:
    def task(user: SosieUser) -> None:
        user.visit(kind)

    task.__name__ = kind.name.lower()
    return task


class Outlet(SosieUser):
    """Opens lines, as honest people do and others."""

    weight = 9
    wait_time = between(0.5, 2)
    tasks = visits(
        {
            Kind.NEWCOMER: 20,
            Kind.RETURNING: 10,
            Kind.OWN_LINES: 6,
            Kind.OTHERS_LINES: 3,
            Kind.MATED: 6,
            Kind.STRANGERS: 3,
            Kind.DUPLICATE: 2,
            Kind.STOLEN: 1,
            Kind.RETRY: 2,
            Kind.RACE: 1,
        }
    )


class FraudTeam(SosieUser):
    """Searches for faces."""

    weight = 1
    wait_time = between(2, 5)
    tasks = visits({Kind.KNOWN: 2, Kind.UNKNOWN: 1})
