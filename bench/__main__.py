"""`python -m bench SUITE`: what `sosie bench SUITE` runs in a process of its own."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from types import FrameType

import typer

from bench import cli
from engine.errors import RequestError, advise_extra
from serving.cli.output import RootGroup

NEEDED = ("matplotlib", "pyarrow", "pytest_benchmark", "ray", "scipy", "structlog")
app = typer.Typer(
    cls=RootGroup,
    name="bench",
    add_completion=False,
    rich_markup_mode=None,
    help="Measure what targets.toml promises. Ends with 1 where a measured figure misses its goal.",
)


@app.callback()
def _root() -> None:
    missing = ", ".join(one for one in NEEDED if find_spec(one) is None)
    if missing:
        raise RequestError(f"benchmarks need {missing}: {advise_extra('bench')}")
    for one in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` has hanging up ignored, and means it.
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, _interrupt)


def _interrupt(number: int, _: FrameType | None) -> None:
    """As Ctrl-C does: services are stopped, folders removed. A second signal disturbs neither."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


cli.register(app)

if __name__ == "__main__":
    app(prog_name="sosie bench")
