"""Steps of lines by themselves: done when they are due, in a thread of the lease's holder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.errors import ClockImplausible, SosieError
from engine.lifecycle.campaigns import fill_campaigns
from engine.lifecycle.reverification import carry_out
from engine.lifecycle.rules import LineRules
from engine.matching.limits import ChangeRunner
from engine.registry.reader import Reader
from serving.jobs.retention import ClockWatch

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

LOOK_EVERY_S = 5.0
"""A step is done so late at most, while the service runs."""


class LineSteps:
    """Looks every few seconds for steps that are due, and for campaigns that wait for their lines,
    and does them in batches, until it is closed.

    What cannot be done is logged, and tried again. By a clock that cannot be right nothing is done;
    `tell_overdue` hears whether steps wait.
    """

    def __init__(
        self,
        runner: ChangeRunner,
        source: Reader,
        rules: LineRules,
        log: FilteringBoundLogger,
        watch: ClockWatch,
        tell_overdue: Callable[[bool], object] = lambda _: None,
    ) -> None:
        self._runner, self._source, self._rules, self._log = runner, source, rules, log
        self._watch, self._tell_overdue = watch, tell_overdue
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="line-steps", daemon=True)
        self._thread.start()

    def __enter__(self) -> LineSteps:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                self._work()
                self._tell_overdue(False)
            except Exception as error:  # noqa: BLE001 - the thread must outlive any of them
                code = error.code if isinstance(error, SosieError) else "INTERNAL"
                told = {"reason": str(error)} if isinstance(error, ClockImplausible) else {}
                self._log.warning(
                    "line_steps_failed", code=code, error=type(error).__name__, **told
                )
                self._tell_overdue(True)
            if self._closing.wait(LOOK_EVERY_S):
                return

    def _work(self) -> None:
        # Steps first: to add a country's lines to a campaign takes hours.
        while not self._closing.is_set():
            self._do_due()
            if self._source.life.filling():
                # By a wrong clock a campaign would be over before its deadline.
                self._watch.check()
            if not fill_campaigns(self._runner, self._source, self._rules):
                break

    def _do_due(self) -> None:
        due = self._source.life.next_step_at()
        if due is None or due > self._watch.now():
            return
        # A wrong clock would suspend everybody at once.
        now, done = self._watch.check(), 0
        while not self._closing.is_set():
            steps = carry_out(self._runner, self._source, self._rules, now=now)
            done += steps
            if not steps:
                break
        if done:
            self._log.info("line_steps", steps=done)
