"""What a load test cannot do, in one line that says what to do instead."""

from __future__ import annotations


class LoadTestRefused(Exception):
    """The test cannot be run as it was asked: bad options, no faces, a service that never came."""
