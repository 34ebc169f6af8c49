"""What is installed is what the locks name, by its hash."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = {path.stem: path for path in (ROOT / "locks").glob("*.txt")}
FIRST = "cpu+dev"
INSTALLERS = {"build": [*PROJECT["build-system"]["requires"], "editables"], "uv": ["uv"]}
ENTRY = re.compile(r"^(?P<requirement>[^ #][^\\]*?)(?P<hashes>( \\\n    --hash=\S+)*)\n", re.M)


def read_lock(name: str) -> dict[str, str]:
    """Versions by package; each of the entries has hashes and one exact version."""
    text = LOCKS[name].read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for entry in ENTRY.finditer(text):
        requirement = Requirement(entry["requirement"])
        (version,) = requirement.specifier
        assert (version.operator, requirement.url) == ("==", None), entry[0]
        assert re.search("--hash=sha256:[0-9a-f]{64}", entry["hashes"]), entry["requirement"]
        found[canonicalize_name(requirement.name)] = version.version
    entries = [line for line in text.splitlines() if re.match(r"[^ #]", line)]
    assert len(found) == len(entries)
    return found


def requirements_of(extras: set[str]) -> Iterator[Requirement]:
    """All that pyproject.toml asks for with these extras, those that name others included."""
    listed = [*PROJECT["project"]["dependencies"]]
    for extra in extras:
        listed += PROJECT["project"]["optional-dependencies"][extra]
    for requirement in map(Requirement, listed):
        if requirement.name == PROJECT["project"]["name"]:
            yield from requirements_of(requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize("name", sorted(LOCKS))
def test_a_lock_covers_what_pyproject_asks_for_with_its_extras(name: str) -> None:
    locked = read_lock(name)
    if name in INSTALLERS:
        wanted = map(Requirement, INSTALLERS[name])
    else:
        wanted = requirements_of(set(name.split("+")))
    for requirement in wanted:
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in locks/{name}.txt: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement}: run `make lock`"


@pytest.mark.parametrize("name", sorted(LOCKS))
def test_a_lock_names_no_registry_and_the_versions_that_the_tests_run_with(name: str) -> None:
    text = LOCKS[name].read_text(encoding="utf-8")
    assert not re.search(r"://|index-url|find-links|trusted-host", text)
    tested, locked = read_lock(FIRST), read_lock(name)
    both = tested.keys() & locked.keys()
    assert {key: locked[key] for key in both} == {key: tested[key] for key in both}


def test_make_installs_nothing_without_hashes() -> None:
    targets = (".venv/.demo", ".venv/.dev", ".venv-other/.short")
    command = ["make", "--dry-run", "--always-make", *targets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    text = done.stdout.replace("\\\n", "")
    installs = [line for line in text.splitlines() if " install " in line]
    for uv, others, project in zip(*(iter(installs),) * 3, strict=True):
        for line in (uv, others):
            assert " --require-hashes --only-binary :all: " in line
            assert Path(line.split()[-1]).stem in LOCKS
        assert project.endswith(" --no-deps --no-build-isolation --editable .")
    assert len(installs) == 3 * len(targets)
