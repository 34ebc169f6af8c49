"""Settings of rules that regulators make: the life of lines, and people whom they treat apart."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from serving.sections import Section


class LinesSettings(Section):
    """The life of lines: rules by which holders are asked for, limits, and who reports."""

    rules: str = Field(
        default="",
        description="of every carrier: bangladesh, china, india, indonesia, korea, philippines, "
        "thailand, vietnam, or a TOML file in the home folder unless absolute; empty: none",
    )
    carriers: dict[str, str] = Field(
        default={}, description='the same of one carrier, by code, as { red = "vietnam" }'
    )
    person_limit: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="lines in use of a person over all carriers; 0: that of the rules, if any",
    )
    sim_changes_since: dict[str, date] = Field(
        default={},
        description="carriers that report every change of SIM, and since which day: they alone can "
        "be asked for the last one, as { red = 2026-12-01 }",
    )


class CarrierPeople(Section):
    """Rules of one carrier, where they differ."""

    age_of_majority: Annotated[int, Field(ge=0, le=25)] | None = None
    minor_face: Literal["required", "guardian"] | None = None
    exceptions: bool | None = None
    exceptions_per_outlet: Annotated[int, Field(ge=1, le=100_000)] | None = None
    replacement_delay_h: Annotated[int, Field(ge=0, le=8_784)] | None = None


class PeopleSettings(Section):
    """People whom rules treat apart: minors, and who has no usable face or portrait."""

    age_of_majority: int = Field(
        default=0,
        ge=0,
        le=25,
        description="whoever is younger, in whole years by the outlet's date, needs a guardian's "
        "document and face; 17 in Indonesia; 0: no age is asked for",
    )
    minor_face: Literal["required", "guardian"] = Field(
        default="required",
        description="of a minor: a face and portrait of their own too; or guardian: the guardian's "
        "are enough",
    )
    exceptions: bool = Field(
        default=False,
        description="whether an enrollment may come without a usable face or portrait, with a "
        "cause; two people of the fraud team decide it",
    )
    exceptions_per_outlet: int = Field(
        default=5, ge=1, le=100_000, description="asked for by one outlet in exceptions_days"
    )
    exceptions_days: int = Field(default=30, ge=1, le=366, description="see exceptions_per_outlet")
    replacement_delay_h: int = Field(
        default=0,
        ge=0,
        le=8_784,
        description="how long after two people have decided it a document may be replaced, each "
        "then; 0: at once, and of a certain face under the same name without them",
    )
    carriers: dict[str, CarrierPeople] = Field(
        default={}, description="by code, as { red = { age_of_majority = 17 } }"
    )

    def of_carriers(self) -> dict[str, PeopleSettings]:
        """The rules of each carrier that has its own."""
        own = {code: one.model_dump(exclude_none=True) for code, one in self.carriers.items()}
        return {code: self.model_copy(update=changes) for code, changes in own.items()}
