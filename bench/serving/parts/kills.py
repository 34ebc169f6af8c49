"""Part `kills`: one face that comes under many names at once; SIGKILL of any part under load."""

from __future__ import annotations

import time

import numpy as np

from bench.checks import Skipped
from bench.report import Figure, Result
from bench.serving.homes import Home
from bench.serving.kills import CLIENTS, Books, Massacre, Victim, audit_books, kill_at_random
from bench.serving.people import Crowd
from bench.serving.race import RACERS, Race, race
from bench.serving.service import Service
from bench.serving.stage import Found, Stage

REFERENCES = 1_000
MOST_PEOPLE = 200


def measure_kills(stage: Stage) -> Found:
    """Both on one small home and service; what is killed must have little to load."""
    sizes, people = stage.sizes, stage.crowd.people
    home = stage.make_home("kills", min(REFERENCES, sizes.references))
    # The racers' faces must be new to the gallery.
    visitors = Crowd(people[sizes.races :][:MOST_PEOPLE], stage.crowd.source)
    service = Service(stage.place(home))
    try:
        service.wait_ready(time.perf_counter())
        races = [] if stage.crowd.has_one_face else _race(stage, service, home)
        massacre = kill_at_random(service, home, visitors, sizes.kills, stage.seed)
    finally:
        service.stop()
    for one in races:
        # What they were told must outlive the kills too.
        massacre.till.acknowledged += one.acknowledged
    books = audit_books(home, massacre.till)
    setup = stage.setup(home, kills=len(massacre.kills), clients=CLIENTS)
    difference = sum(abs(one.approved - 1) + one.unanswered for one in races)
    results = [
        Result("Recovery from SIGKILL", setup, _list_recoveries(massacre)),
        Result("Enrollments after all kills", setup, _list_books(massacre, books)),
        Result("One face, many documents", setup | {"racers": RACERS}, _list_races(races)),
    ]
    return results, {
        "kills": float(len(massacre.kills)),
        "lost_enrollments": float(books.lost),
        "doubled_enrollments": float(books.doubled + books.gallery_difference),
        "final_failures": float(len(massacre.till.final) + len(massacre.till.given_up)),
        "race_difference": float(difference) if races else Skipped("one face: it is enrolled"),
    }


def _race(stage: Stage, service: Service, home: Home) -> list[Race]:
    people = stage.crowd.people
    return [race(service, home, people[number], number) for number in range(stage.sizes.races)]


def _list_recoveries(massacre: Massacre) -> tuple[Figure, ...]:
    figures = []
    for victim in Victim:
        found = massacre.recoveries(victim)
        for name, seconds in (
            ("next answer", [kill.answered_s for kill in found]),
            ("whole again", [kill.whole_s for kill in found]),
        ):
            what = f"{victim}: {name}"
            if not seconds:
                figures.append(Figure.skip(what, "s", "was not killed"))
                continue
            figures.append(Figure.of(f"{what}, of {len(seconds)}", "s", seconds))
            figures.append(Figure(f"{what}, at worst", "s", float(np.max(seconds))))
    return tuple(figures)


def _list_books(massacre: Massacre, books: Books) -> tuple[Figure, ...]:
    failures = massacre.till.failures
    return (
        Figure("acknowledged", "enrollments", float(books.acknowledged)),
        Figure(
            "of them decided before the kill, and fetched by their key",
            "enrollments",
            float(sum(one.is_repeated for one in massacre.till.acknowledged)),
        ),
        Figure("lost", "enrollments", float(books.lost)),
        Figure("doubled", "enrollments", float(books.doubled)),
        Figure(
            "references that gallery and store differ by",
            "references",
            float(books.gallery_difference),
        ),
        Figure("failures that no key can mend", "requests", float(len(massacre.till.final))),
        Figure("given up unanswered", "requests", float(len(massacre.till.given_up))),
        *(
            Figure(
                f"failures to ask again after: {status or 'lost connections'}",
                "times",
                float(times),
            )
            for status, times in failures.most_common()
        ),
    )


def _list_races(races: list[Race]) -> tuple[Figure, ...]:
    return tuple(
        Figure(f"race {number + 1}: {decision}", "clients", float(times))
        for number, one in enumerate(races)
        for decision, times in sorted(one.decisions.items())
    )
