"""`sosie doctor`: each thing that must be right, on one line."""

from __future__ import annotations

import typer

from serving.cli.inputs import HomeOption
from serving.cli.output import JsonFlag, escape, exit_negative, print_json, print_line
from serving.cli.panels import DEPLOYMENT

MARKS = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "broken": "[red]broken [/]"}


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=DEPLOYMENT)(doctor)


def doctor(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Examine the machine, the models and the deployment.

    Exit code 1 where something is broken.
    """
    from serving.examination import State, examine
    from serving.settings import find_cache, find_home

    findings = examine(find_home(home), find_cache())
    is_well = all(finding.state is not State.BROKEN for finding in findings)
    if as_json:
        print_json(
            {
                "ok": is_well,
                "checks": [
                    {
                        "subject": finding.subject,
                        "state": finding.state.value,
                        "detail": finding.detail,
                        "advice": finding.advice,
                    }
                    for finding in findings
                ],
            }
        )
    else:
        for finding in findings:
            advice = f" → {escape(finding.advice)}" if finding.advice else ""
            mark = MARKS[finding.state.value]
            print_line(f"{mark} [bold]{finding.subject}[/]: {escape(finding.detail)}{advice}")
    if not is_well:
        raise exit_negative()
