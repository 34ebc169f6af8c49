"""A process that holds a key ring leaves nothing of it in a core file, nor to its user's others."""

import subprocess
import sys
from pathlib import Path

from engine.registry.keyring import KeyRing

ROOT = Path(__file__).parents[2]

CRASH = """
import ctypes, os, resource, sys
from pathlib import Path
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
from engine.registry.keyring import KeyRing
if len(sys.argv) > 1:
    ring = KeyRing.load(Path(sys.argv[1]))
    print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3), flush=True)
os.abort()
"""

READ = """
import ctypes, os
from engine.registry.keyring import KeyRing
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
    # As it is for whoever was not root: a change of user has switched it off already.
    ctypes.CDLL(None).prctl(4, 1)
holder = os.getpid()
def read_from_another():
    child = os.fork()
    if child == 0:
        try:
            os.close(os.open(f"/proc/{holder}/environ", os.O_RDONLY))
        except PermissionError:
            os._exit(13)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
before = read_from_another()
ring = KeyRing.generate()
print(before, read_from_another())
"""


def run(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_crash_with_a_key_ring_leaves_no_core_file(tmp_path) -> None:
    path, folder = tmp_path / "keyring.json", tmp_path / "crashed"
    KeyRing.create(path)
    folder.mkdir()
    crashed = run(CRASH, folder, str(path))
    assert crashed.stdout.split("\n")[0] == "(0, 0) 0", crashed.stderr
    assert crashed.returncode == -6
    assert list(folder.iterdir()) == []


def test_another_process_of_the_same_user_does_not_read_its_memory(tmp_path) -> None:
    # Before it has a ring it is read: what is refused then, too, would prove nothing.
    assert run(READ, tmp_path).stdout.split() == ["0", "13"]
