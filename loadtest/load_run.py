"""A whole load test: opens a service, enrolls people, sends the load, judges it, and cleans up."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from loadtest.config import LoadTestResult, Options, Step, choose_counts
from loadtest.criteria import decide
from loadtest.document_numbers import DIGITS, NUMBERS, TAG_LENGTH, SpecimenNumbers
from loadtest.exchange import Exchange
from loadtest.judging import judge, mark_look_alikes
from loadtest.load import run_load
from loadtest.local_service import start_local_service
from loadtest.participants import ModelClient, Participants, open_dataset
from loadtest.schedule import Planner, draw_arrivals, require_planted
from loadtest.service_calls import Access, ReportProgress, Serials, open_access, read_version
from loadtest.setup import Cleaner, EnrollmentTracker, count_people, prepare
from loadtest.shapes import Knee, Shape, find_knee, list_phases
from loadtest.target import Keys, Target

REST_S = 0.5
"""Pause between two steps of a knee."""
WARM_S, WARM_VISITS = 2.0, 2


@dataclass(slots=True)
class LoadRunner:
    """Runs the load: one step, or the many of a knee.

    `loading` is the connection for the load, `asking` the one for other requests; `enrolled` tracks
    everybody whom the load enrolls.
    """

    options: Options
    loading: Access
    asking: Access
    participants: Participants
    serials: Serials
    enrolled: EnrollmentTracker
    report: ReportProgress
    _planner: Planner = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.options.seed)
        self._planner = Planner(self.participants, self.serials, rng)

    def run_steps(self, steps: list[Step]) -> Knee | None:
        """Appends each step to `steps` as soon as it is judged; returns the knee of that shape."""
        profile = self.options.profile
        if self.options.shape is not Shape.KNEE:
            steps.append(self._run(profile.rate, profile.seconds))
            return None
        warm_s = min(profile.seconds, max(WARM_S, WARM_VISITS / profile.rate))
        steps.append(self._run(profile.rate, warm_s, is_warm=True))

        def probe(rate: float, times: float) -> bool:
            time.sleep(REST_S)
            steps.append(self._run(rate, profile.seconds * times))
            return steps[-1].verdict.is_passed

        return find_knee(probe, profile.rate, profile.most_rate, profile.resolution)

    def _run(self, rate: float, seconds: float, *, is_warm: bool = False) -> Step:
        options = self.options
        phases = list_phases(options.shape, replace(options.profile, rate=rate, seconds=seconds))
        arrivals = draw_arrivals(phases, options.profile.process, self._planner.rng)
        visits = self._planner.write(arrivals, options.mix)
        if not is_warm:
            require_planted(visits, options.mix)
        length_s = sum(one.seconds for one in phases)
        self.participants.require_fresh(length_s + options.timeout_s)
        run = run_load(self.loading, visits, length_s, options.pace, self.enrolled, self.report)
        model = ModelClient(self.asking.exchange, self.asking.keys.fraud)
        is_local = options.target is None
        judged = tuple(
            mark_look_alikes(judge(run.outcomes), self.participants, model, is_local=is_local)
        )
        verdict = decide(run, judged, phases, options.objective)
        return Step(rate, phases, run, judged, verdict, is_warm)


PREPARING_CONNECTIONS = 8
PREPARING_TIMEOUT_S = 30.0
OK = 200


def run_load_test(options: Options, report: ReportProgress) -> LoadTestResult:
    """Runs a load test; `LoadTestRefused` if it cannot be run."""
    with _open_service(options, report) as (target, keys, outlet), ExitStack() as stack:
        asking = Exchange(target, PREPARING_CONNECTIONS, PREPARING_TIMEOUT_S)
        loading = Exchange(target, options.pace.in_flight, options.timeout_s)
        stack.callback(asking.close)
        stack.callback(loading.close)
        return _run_load_test(options, asking, loading, keys, outlet, report)


def _run_load_test(
    options: Options,
    asking: Exchange,
    loading: Exchange,
    keys: Keys,
    outlet: str | None,
    report: ReportProgress,
) -> LoadTestResult:
    begun, start = datetime.now(UTC), time.perf_counter()
    about = read_version(asking)
    access = open_access(asking, keys, outlet, begun.isoformat())
    serials = Serials(make_numbers(begun))
    wanted = choose_counts(options, list_phases(options.shape, options.profile))
    dataset = open_dataset(options.faces, *count_people(wanted), options.seed)
    enrolled = EnrollmentTracker()
    steps: list[Step] = []
    with _cleaned(options, access, enrolled, report):
        participants = prepare(access, dataset, wanted, serials, enrolled, report)
        loaded = replace(access, exchange=loading)
        runner = LoadRunner(options, loaded, access, participants, serials, enrolled, report)
        knee = runner.run_steps(steps)
    return LoadTestResult(
        options=options,
        url=asking.target.url,
        version=str(about["version"]),
        model_digest=str(about["model_digest"]),
        dataset=dataset.source,
        participants=participants,
        steps=tuple(steps),
        knee=knee,
        begun=begun,
        seconds=time.perf_counter() - start,
        left_enrolled=enrolled.count if options.target is not None else 0,
    )


@contextmanager
def _cleaned(
    options: Options, access: Access, enrolled: EnrollmentTracker, report: ReportProgress
) -> Iterator[None]:
    """Erases everybody enrolled at the end, even after an interrupt, and says then who is left."""
    is_reported = False
    try:
        try:
            yield
        finally:
            # A local service is deleted with all that is in it.
            if options.target is not None:
                Cleaner(access, enrolled, report).clean(keep_enrolled=options.keep_enrolled)
        is_reported = True
    finally:
        if not is_reported and options.target is not None and enrolled.count:
            sys.stderr.write(
                f"sosie: up to {enrolled.count} people stay enrolled: an operator can erase them\n"
            )


@contextmanager
def _open_service(
    options: Options, report: ReportProgress
) -> Iterator[tuple[Target, Keys, str | None]]:
    """The service that was named, or a local one started for this test."""
    if options.target is not None:
        assert options.keys is not None, "a named service comes with keys"
        yield options.target, options.keys, options.outlet
        return
    report("starting a service", 0, 0)
    with start_local_service(options.disk, options.references, options.seed) as local:
        yield local.target, local.keys, None


def make_numbers(begun: datetime) -> SpecimenNumbers:
    """Numbers with a random tag: the gallery may hold documents of other runs."""
    tag = "".join(secrets.choice(DIGITS) for _ in range(TAG_LENGTH))
    return SpecimenNumbers(tag, secrets.randbelow(NUMBERS), begun.year)
