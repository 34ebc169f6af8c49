"""A bar on standard error, where somebody sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.access import Report

REFRESHES_A_SECOND = 2
"""The generator shares its core with nobody that can wait."""


@contextmanager
def show_progress(*, is_shown: bool) -> Iterator[Report]:
    """Yields `report(what, done, total)`."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns,
        console=console,
        disable=not (is_shown and console.is_terminal),
        transient=True,
        refresh_per_second=REFRESHES_A_SECOND,
    ) as progress:
        task = progress.add_task("load test", total=None)

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        yield report
