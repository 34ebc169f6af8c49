"""Settings for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# CI asks the same questions each time, so that a landing does not depend on chance; a developer's
# runs go on looking for new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")
