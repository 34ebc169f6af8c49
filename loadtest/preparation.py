"""Makes the truth that a load is held against: surveys people, enrolls residents, finds thieves."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.access import Access, Report, Serials
from loadtest.cast import Cast, Person
from loadtest.casting import (
    RESERVE,
    Scores,
    Wanted,
    drop_known,
    list_candidates,
    meet_people,
    require_enough,
)
from loadtest.crowd import Crowd
from loadtest.guests import Guests
from loadtest.residents import find_thefts, settle
from loadtest.survey import Survey, Tell

LEAST_RESIDENTS = 2


def prepare(
    access: Access,
    crowd: Crowd,
    wanted: Wanted,
    serials: Serials,
    guests: Guests,
    report: Report,
) -> Cast:
    """The cast; residents are enrolled, and among the `guests`."""
    survey = Survey(access.exchange, access.keys.fraud)
    thresholds = survey.read_thresholds()
    met, dropped = meet_people(crowd, survey, thresholds, _count_up(crowd, report))
    met, had_references = drop_known(met, survey, dropped)
    require_enough(len(met), wanted, dropped)
    candidates = list(list_candidates(met, thresholds))[: round(wanted.residents * RESERVE)]
    report("enrolling residents", 0, len(candidates))
    residents = settle(access, candidates, serials, guests, dropped)
    chosen = {one.person.number for one in candidates}
    others = [one for one in met if one[0].number not in chosen]
    # Whom a resident's reference resembles would be taken for him, which is the model's own error.
    others, _ = drop_known(others, survey, dropped)
    is_enough = len(residents) >= LEAST_RESIDENTS
    require_enough((len(residents) + len(others)) * is_enough, wanted, dropped)
    racers, outsiders, newcomers = _part(others, wanted)
    low = min(thresholds.verify, thresholds.same_document)
    return Cast(
        thresholds=thresholds,
        residents=residents,
        thefts=find_thefts(survey, candidates, residents, low),
        newcomers=newcomers,
        racers=racers,
        outsiders=outsiders,
        had_references=had_references,
        dropped={reason: times for reason, times in dropped.most_common() if times},
        # The fraud key's templates are the first.
        expires_at=survey.expires_at,
    )


def count_people(wanted: Wanted) -> tuple[int, int]:
    """How many to draw from a crowd, and of how many all photographs may be of use."""
    return round(wanted.people * RESERVE) + 2, round(wanted.residents * RESERVE)


def _count_up(crowd: Crowd, report: Report) -> Tell:
    total = sum(len(one.photographs) for one in crowd.people)
    done = 0

    def tell(photographs: int) -> None:
        nonlocal done
        done += photographs
        report("looking at photographs", done, total)

    return tell


def _part(
    others: Sequence[tuple[Person, Scores]], wanted: Wanted
) -> tuple[tuple[Person, ...], tuple[Person, ...], tuple[Person, ...]]:
    people = [person for person, _ in others]
    first, second = wanted.racers, wanted.racers + wanted.outsiders
    end = second + wanted.newcomers
    return tuple(people[:first]), tuple(people[first:second]), tuple(people[second:end])
