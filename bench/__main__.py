"""`python -m bench SUITE`: what `sosie bench SUITE` runs in a process of its own."""

from __future__ import annotations

import typer

from bench import cli, cli_reports
from serving.cli.output import RootGroup

app = typer.Typer(
    cls=RootGroup,
    name="bench",
    add_completion=False,
    rich_markup_mode=None,
    help="Measure what targets.toml promises. Ends with 1 where a measured figure misses its goal.",
)


@app.callback()
def _root() -> None:
    """Keeps the suites subcommands."""


for register in (
    cli.register_photograph_suites,
    cli.register_index_suites,
    cli.register_deployment_suites,
    cli_reports.register,
):
    register(app)

if __name__ == "__main__":
    app(prog_name="sosie bench")
