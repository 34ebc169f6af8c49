"""What `sosie plan` is given: a demand, a node, and where its figures come from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def read_number(text: str | float) -> float:
    """A number as people write it: 1.6e9, 1,600,000,000 or 1_600_000_000."""
    try:
        number = float(str(text).replace(",", "").replace("_", ""))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number: write 1.6e9 or 1,600,000") from None
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


FacesOption = Annotated[
    float | None,
    typer.Option(parser=read_number, metavar="N", help="Faces in the gallery, as 1.6e9."),
]
ArrivalsOption = Annotated[
    float | None,
    typer.Option(parser=read_number, metavar="N", help="Enrollments a second in the busiest hour."),
]
SearchesOption = Annotated[
    float, typer.Option(parser=read_number, metavar="N", help="1:N searches a second.")
]
EnrollingOption = Annotated[
    float, typer.Option(min=1, help="99 of 100 enrollments are to be answered in so long.")
]
SearchingOption = Annotated[float, typer.Option(min=1, help="The same of searches.")]
NodeCoresOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=4096, help="Cores of a node.", show_default="those of the figures' machine"
    ),
]
NodeGibOption = Annotated[
    float | None,
    typer.Option(min=1, max=1e6, help="Its memory.", show_default="that of the figures' machine"),
]
NodeBandwidthOption = Annotated[
    float | None,
    typer.Option(
        min=1, max=1e5, help="What it reads of memory, GB/s.", show_default="as measured a core"
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Decisions a transaction.", show_default="[registrar] batch_size"
    ),
]
CeilingOption = Annotated[
    float, typer.Option(min=0.05, max=0.95, help="Share of time that anything may be busy.")
]
MeasureFlag = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Measure this machine first: about 20 s; commits in a folder that is made in the "
        "home, else in /var/tmp, and removed.",
    ),
]
PhotographsOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="With --measure: photographs such as people bring."),
]
ScannedOption = Annotated[
    int | None,
    typer.Option(
        "--measure-references",
        min=1_000,
        max=10_000_000,
        help="With --measure: references to scan.",
        show_default="a million, if they fit",
    ),
]
ReportsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Reports of `sosie bench`, for what is not measured.",
        show_default="those that come with Sosie",
    ),
]
CheckOption = Annotated[
    Path | None,
    typer.Option(
        metavar="REPORT",
        help="Instead of a plan: hold simulation and formula against a report of "
        "`sosie bench serve`.",
    ),
]
RequestsOption = Annotated[
    int, typer.Option(min=1_000, max=1_000_000, help="That the simulation plays.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of the simulation.")]
