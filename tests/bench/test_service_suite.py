"""What the suite `serve` refuses; whole, it runs by `sosie bench serve --quick`."""

import pytest

from bench.suites.serve.context import ServeConfig
from bench.suites.serve.service_suite import run
from engine.errors import RequestError

pytest.importorskip("ray")


def test_a_missing_folder_is_refused_before_anything_starts(tmp_path, faces) -> None:
    with pytest.raises(RequestError, match="--folder"):
        run(ServeConfig(folder=tmp_path / "none", faces=faces))
