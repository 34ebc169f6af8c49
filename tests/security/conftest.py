"""The real service in process, with its default bounds."""

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
