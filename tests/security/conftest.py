"""The real service in process, with its default bounds; and a registrar alone."""

import pytest

from tests.engine.conftest import sqlite_url  # noqa: F401 - a fixture
from tests.engine.matching.conftest import lab, make_lab  # noqa: F401 - fixtures
from tests.serving.api.conftest import (  # noqa: F401 - fixtures
    activation,
    extractor,
    faces,
    fresh,
    keyed_home,
    own_service,
    start_service,
)
from tests.serving.conftest import (  # noqa: F401 - fixtures
    astronaut,
    empty_home,
    enrolled,
    enrolled_home,
    environment,
    home,
    photographs,
    sosie,
)


@pytest.fixture
def database_url(sqlite_url) -> str:  # noqa: F811 - the fixture
    return str(sqlite_url)
