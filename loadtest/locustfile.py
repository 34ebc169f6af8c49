"""The traffic of outlets and of a fraud team, for Locust's own tools and its page:

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8700 --outlet test-1

Keys and arguments: docs/load-tests.md.
"""

from __future__ import annotations

from locust import between, task

from loadtest.users import Kind, SosieUser


class Outlet(SosieUser):
    """Opens lines, as honest people do and others."""

    weight = 9
    wait_time = between(0.5, 2)

    @task(20)
    def enroll(self) -> None:
        self.visit(Kind.NEWCOMER)

    @task(10)
    def enroll_again(self) -> None:
        self.visit(Kind.RETURNING)

    @task(6)
    def ask_for_numbers(self) -> None:
        self.visit(Kind.OWN_LINES)

    @task(3)
    def ask_for_anothers_numbers(self) -> None:
        self.visit(Kind.OTHERS_LINES)

    @task(6)
    def compare(self) -> None:
        self.visit(Kind.MATED)

    @task(3)
    def compare_strangers(self) -> None:
        self.visit(Kind.STRANGERS)

    @task(2)
    def bring_a_second_document(self) -> None:
        self.visit(Kind.DUPLICATE)

    @task(1)
    def bring_a_stolen_document(self) -> None:
        self.visit(Kind.STOLEN)

    @task(2)
    def ask_twice(self) -> None:
        self.visit(Kind.RETRY)

    @task(1)
    def race(self) -> None:
        self.visit(Kind.RACE)


class FraudTeam(SosieUser):
    """Searches for faces."""

    weight = 1
    wait_time = between(2, 5)

    @task(2)
    def search(self) -> None:
        self.visit(Kind.KNOWN)

    @task
    def search_for_a_stranger(self) -> None:
        self.visit(Kind.UNKNOWN)
