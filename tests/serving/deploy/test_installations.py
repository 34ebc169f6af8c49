"""Ways to install the service beside the GPU image: the CPU image, compose, systemd."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.cluster.environment import supervisor_timeout_s
from serving.settings.settings import Settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "serving/deploy"
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
LOCKS = {"Dockerfile": "cpu", "Dockerfile.gpu": "gpu"}
STOPPED_WITHIN_S = supervisor_timeout_s(Settings().serve.drain_s)


def _run(*command: object) -> str:
    tool = shutil.which(str(command[0]), path=TOOLS)
    assert tool, f"{command[0]} is missing"
    run = subprocess.run(
        [tool, *map(str, command[1:])], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def _read_steps(name: str) -> list[str]:
    """What an image is made of, without bases, settings and the lock's name."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.M)
    assert f"locks/{LOCKS[name]}+serve+desk+postgres+tracing.txt" in text
    lines = re.sub(r"\\\n", " ", text.replace(f"locks/{LOCKS[name]}+", "locks/")).splitlines()
    steps = [" ".join(line.split()) for line in lines if line.strip()]
    return [step for step in steps if not step.startswith(("ARG ", "ENV ", "FROM "))]


def test_the_image_for_processors_is_made_as_the_one_for_gpus() -> None:
    assert _run("hadolint", "--no-color", ROOT / "Dockerfile") == ""
    assert _read_steps("Dockerfile") == _read_steps("Dockerfile.gpu")
    base = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), flags=re.M)
    assert base
    assert re.fullmatch(r"ubuntu:24\.04@sha256:[0-9a-f]{64}", base[1])


def test_a_fault_of_the_compose_file_is_found_by_its_linter() -> None:
    _run(sys.executable, "-m", "compose_lint", "check", DEPLOY / "compose/compose.yaml")


def test_what_the_compose_file_mounts_is_there_and_its_database_is_hidden() -> None:
    folder = DEPLOY / "compose"
    found: dict[str, Any] = yaml.safe_load((folder / "compose.yaml").read_text())
    for service in found["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in found["volumes"] or (folder / source).exists(), source
        assert ":" in service["image"]
        assert not service["image"].endswith(":latest")
    database = found["services"]["database"]
    assert "ports" not in database
    assert [found["networks"][name] for name in database["networks"]] == [{"internal": True}]
    assert found["services"]["sosie"]["stop_grace_period"] == "135s"
    assert STOPPED_WITHIN_S < 135
    assert (folder / found["services"]["sosie"]["build"]["context"]).resolve() == ROOT
    scraped = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"] == [{"targets": [f"sosie:{Settings().serve.port}"]}]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_takes_the_unit_and_finds_it_confined(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd/sosie.service").read_text()
    assert f"ExecStart={sys.prefix}/bin/sosie serve\n" in text.replace("/opt/sosie", sys.prefix)
    unit = tmp_path / "sosie.service"
    unit.write_text(text.replace("/opt/sosie/bin/sosie", sys.executable))
    assert _run("systemd-analyze", "verify", unit) == ""
    # Of 10; a service without any of this has 9.6.
    _run("systemd-analyze", "security", "--offline=true", "--threshold=40", unit)
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, flags=re.M)
    assert int(stop) > STOPPED_WITHIN_S
