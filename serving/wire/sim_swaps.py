"""CAMARA's SIM swap 2.1: its fields have its names."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from serving.wire.fields import AnswerBody, Moment, RequestBody

MOST_HOURS, USUAL_HOURS = 2400, 240
PhoneNumber = Annotated[
    str,
    Meta(
        pattern=r"^\+[1-9][0-9]{4,14}$",
        description="in E.164; required, as no key stands for a number",
        examples=["+346661113334"],
    ),
]


class SimSwapDateRequest(RequestBody, frozen=True):
    phoneNumber: PhoneNumber | None = None  # noqa: N815 - CAMARA's


class SimSwapCheckRequest(RequestBody, frozen=True):
    phoneNumber: PhoneNumber | None = None  # noqa: N815 - CAMARA's
    maxAge: Annotated[  # noqa: N815
        int,
        Meta(
            description="hours that are looked back",
            extra_json_schema={"minimum": 1, "maximum": MOST_HOURS},
        ),
    ] = USUAL_HOURS


class SimSwapDate(AnswerBody, frozen=True, omit_defaults=True):
    """When the number got the SIM that it has; null: not within `monitoredPeriod` days."""

    latestSimChange: Moment | None  # noqa: N815
    monitoredPeriod: int | None = None  # noqa: N815


class SimSwapCheck(AnswerBody, frozen=True):
    """Whether it got it within these hours."""

    swapped: bool
