"""A deployment's settings as the terms that the engine works by."""

from __future__ import annotations

from datetime import time, timedelta

from engine.retention.crops import CropPolicy, Keep
from engine.retention.schedule import Schedule
from serving.sections import CropsSettings, RetentionSettings


def read_schedule(settings: RetentionSettings) -> Schedule:
    """How long what is kept, by the settings."""
    return Schedule(
        attempts=_days(settings.rejected_days),
        reviews=_days(settings.review_days),
        lines=_days(settings.closed_lines_days),
        answers=_days(settings.answers_days),
    )


def read_time(settings: RetentionSettings) -> time | None:
    """The daily time (UTC) at which the service lets things go; None for never."""
    return time.fromisoformat(settings.daily_at) if settings.daily_at else None


def read_crop_policy(settings: CropsSettings) -> CropPolicy:
    """Which crops are kept, by the settings."""
    return CropPolicy(Keep(settings.keep), timedelta(days=settings.days))


def _days(count: int) -> timedelta | None:
    return timedelta(days=count) if count else None
