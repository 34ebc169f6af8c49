"""The drill of a standby: it takes over, by the URL that the service has, and nothing is lost."""

import tempfile
from pathlib import Path

from bench.standby import WRITTEN, drill


def test_what_a_synchronous_primary_acknowledged_is_on_its_standby() -> None:
    # Not pytest's own folder: as root PostgreSQL runs as another user, who must reach it.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        folder.chmod(0o755)
        outcome = drill(folder, is_synchronous=True)
    assert outcome.acknowledged >= 2 * WRITTEN
    assert outcome.lost == 0
