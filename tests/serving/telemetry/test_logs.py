"""JSON log lines: written whole by many processes, redacted, rotated."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from schema.reasons import Decision
from serving.telemetry.logs import (
    FILES,
    WITHHELD,
    Finisher,
    Lines,
    LogPipe,
    close_log,
    is_forbidden,
    open_log,
    withhold,
)
from tests.waiting import wait_until

KEY = "sosie_k1a2b3_c2VjcmV0c2VjcmV0"


def show(**fields: Any) -> dict[str, Any]:
    return dict(withhold(None, "info", fields))


@contextmanager
def opened(path: Path, level: str = "info") -> Iterator[FilteringBoundLogger]:
    log = open_log(path, level, "ingress")
    try:
        yield log
    finally:
        close_log(log)


@pytest.fixture
def path(tmp_path) -> Path:
    return Path(tmp_path / "log" / "service.jsonl")


@pytest.fixture
def log(path) -> Iterator[FilteringBoundLogger]:
    with opened(path) as log:
        yield log


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_has_time_event_and_process(log, path) -> None:
    before = datetime.now(UTC)
    log.bind(correlator="c-1").info("request", route="/v1/match", status=200)
    (line,) = lines(path)
    assert before <= datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
    assert line == {
        "level": "info",
        "event": "request",
        "process": "ingress",
        "pid": os.getpid(),
        "correlator": "c-1",
        "route": "/v1/match",
        "status": 200,
    }


def test_lines_below_the_level_are_not_written(path) -> None:
    with opened(path, "warning") as log:
        log.info("quiet")
        log.error("loud")
    assert [line["event"] for line in lines(path)] == ["loud"]


def test_without_a_file_lines_go_to_standard_output(capfd) -> None:
    code = """
from serving.telemetry.logs import open_log
open_log(None, "info", "ingress").info("request", status=200)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["status"] == 200


def test_a_line_after_the_close_is_written_too(log, path) -> None:
    close_log(log)
    log.info("late")
    assert [line["event"] for line in lines(path)] == ["late"]


def test_a_rotated_file_is_left_and_a_new_one_begun(log, path) -> None:
    log.warning("old")
    rotated = path.rename(path.with_suffix(".1"))
    log.warning("new")
    path.unlink()
    log.warning("newest")
    assert [line["event"] for line in lines(rotated)] == ["old"]
    assert [line["event"] for line in lines(path)] == ["newest"]


def test_processes_never_mix_their_lines(path) -> None:
    code = f"""
from pathlib import Path
from serving.telemetry.logs import open_log
log = open_log(Path({str(path)!r}), "info", "ingress")
for at in range(3000):
    log.info("request", at=at, filler="y" * (at % 700))
    if at % 100 == 0:
        log.warning("mark", at=at)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    by_pid: dict[int, list[int]] = {}
    for line in lines(path):
        if line["event"] == "request":
            by_pid.setdefault(line["pid"], []).append(line["at"])
    assert list(by_pid.values()) == [list(range(3000))] * 4


def test_only_the_owner_reads_the_log(log, path) -> None:
    log.warning("x")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_long_file_is_rotated_and_the_oldest_is_removed(tmp_path) -> None:
    path = tmp_path / "service.jsonl"
    file = Lines(path, Finisher("supervisor"), longest_bytes=1000)
    for at in range(100):
        file.write(f"{at:99d}\n".encode())
    file.close()
    names = ["service.jsonl", *(f"service.jsonl.{number}" for number in range(1, FILES))]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    kept = [
        int(line) for name in reversed(names) for line in (tmp_path / name).read_text().splitlines()
    ]
    assert kept == list(range(100 - len(kept), 100))
    assert all((tmp_path / name).stat().st_size == 1000 for name in names)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in names} == {0o600}


def test_processes_log_through_one_pipe_into_files_that_are_rotated(tmp_path, path) -> None:
    pipe = tmp_path / "pipe"
    code = f"""
import sys
from pathlib import Path
from serving.telemetry.logs import open_log
log = open_log(Path({str(pipe)!r}), "info", sys.argv[1])
for at in range(1000):
    log.info("request", at=at, filler="y" * 300)
    if at % 100 == 0:
        print(at, flush=True)
        sys.stdin.readline()
"""
    copying = LogPipe(pipe, path, longest_bytes=300_000)
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", code, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    }

    def is_copied(name: str, at: int) -> bool:
        with suppress(FileNotFoundError, ValueError):  # rotated, or half a line, at this moment
            return any(
                (line["process"], line["at"]) == (name, at)
                for file in path.parent.glob("*")
                for line in lines(file)
            )
        return False

    # A pipe that is full loses lines: no more than a hundred are on their way at once.
    for at in range(0, 1000, 100):
        for name, process in processes.items():
            if at == 0:
                assert process.stdout.readline() == "0\n"
            process.stdin.write("\n")
            process.stdin.flush()
            if at < 900:
                assert process.stdout.readline() == f"{at + 100}\n"
            wait_until(partial(is_copied, name, min(at + 100, 999)))
    for process in processes.values():
        process.communicate(timeout=120)
        assert process.returncode == 0
    copying.close()
    files = sorted(path.parent.iterdir())
    assert 2 <= len(files) <= FILES
    seen = [line for file in files for line in lines(file)]
    for name in ("a", "b"):
        own = sorted(line["at"] for line in seen if line["process"] == name)
        assert own == list(range(1000))


def test_a_full_pipe_makes_no_caller_wait_and_the_loss_is_logged(tmp_path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with opened(pipe) as log:
        for at in range(1000):
            log.info("request", at=at, filler="y" * 300)
        kept = os.read(reader, 2**20).splitlines()
        assert 0 < len(kept) < 1000
        log.info("again")
        loss, again = (json.loads(line) for line in os.read(reader, 2**20).splitlines())
    os.close(reader)
    assert (loss["event"], loss["count"]) == ("log lines lost", 1000 - len(kept))
    assert again["event"] == "again"


def test_a_line_too_long_for_a_pipe_keeps_only_its_event(log, path) -> None:
    log.info("much", **{f"field{at}": "z" * 900 for at in range(6)})
    (line,) = lines(path)
    assert (line["event"], line["is_cut"]) == ("much", True)


def test_lines_that_the_disk_refused_are_counted_and_half_a_line_damages_no_other(
    log, path, monkeypatch
) -> None:
    written = []

    def tear(file: int, data: bytes) -> int:
        written.append(data)
        if len(written) == 1:
            return real(file, data[:10])
        raise OSError(28, "No space left on device")

    real = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", tear)
        log.warning("torn")
        log.warning("lost")
    log.warning("kept")
    torn, *others = path.read_text().splitlines()
    assert torn.encode() == written[0][:10]
    loss, kept = (json.loads(line) for line in others)
    assert (loss["event"], loss["count"], loss["level"]) == ("log lines lost", 2, "error")
    assert kept["event"] == "kept"


def test_nothing_personal_and_no_key_reaches_the_file(log, path) -> None:
    bound = log.bind(msisdn="+8613800138000", authorization="Bearer sosie_a_b")
    try:
        raise ValueError("no line +8613800138000 of Aileen")
    except ValueError:
        bound.exception("went wrong for %s", "+8613800138000", image=b"\xff\xd8\xff")
    log.info("face of 110105199003071239", embedding=[0.25, 0.5], name="Aileen")
    text = path.read_text()
    for secret in ("8613800138000", "sosie_a_b", "Aileen", "110105199003071239", "0.25", "xff"):
        assert secret not in text


def test_a_field_never_replaces_time_or_process(log, path) -> None:
    log.info("x", pid=1, level="debug", time="never", process="none")
    (line,) = lines(path)
    assert (line["pid"], line["level"], line["process"]) == (os.getpid(), "info", "ingress")
    assert (line["pid_"], line["time_"]) == (1, "never")


def test_control_characters_stay_inside_one_line(log, path) -> None:
    log.warning('a\nb"c\u2028', correlator='x\r\n{"level":"error"}', lone="\ud800")
    assert len(path.read_text().split("\n")) == 2
    assert lines(path)[0]["event"] == 'a\nb"c\u2028'


@pytest.mark.parametrize(
    "field",
    [
        *("image", "images", "portrait", "vector", "embedding", "name", "holder_name", "number"),
        *("documentNumber", "msisdn", "key", "api_key", "API_KEY", "apikey", "authorization"),
        *("idempotency_key", "template", "token", "probe", "body", "headers", "path", "url"),
        *("password", "secret", "x-api-key", "Authorization", "birth_date"),
    ],
)
def test_a_field_of_a_personal_or_secret_name_is_withheld(field: str) -> None:
    assert show(**{field: "whatever"}) == {field: WITHHELD}
    assert show(outer={"inner": {field: 7}}) == {"outer": {"inner": {field: WITHHELD}}}


@pytest.mark.parametrize(
    "field",
    [
        *("key_id", "route", "method", "status", "duration_ms", "correlator", "code", "queue"),
        *("stage", "batch_size", "sequence", "phase", "detail", "document_id", "faces"),
    ],
)
def test_what_an_access_line_needs_is_shown(field: str) -> None:
    assert not is_forbidden(field)
    assert show(**{field: "0af7-01"}) == {field: "0af7-01"}


@pytest.mark.parametrize(
    "value",
    [
        *(b"\xff\xd8", bytearray(b"x"), memoryview(b"x"), np.zeros(3), object(), SecretStr("s")),
        ValueError("Aileen Probe"),
    ],
)
def test_bytes_arrays_and_unknown_objects_are_withheld(value: object) -> None:
    assert show(found=value, many=[value], nested={"x": value}) == {
        "found": WITHHELD,
        "many": [WITHHELD],
        "nested": {"x": WITHHELD},
    }


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("line +8613800138000 is in use", "13800138000"),
        ("+8613800138000", "13800138000"),
        (f"key {KEY} refused", "c2VjcmV0"),
        (KEY, "c2VjcmV0"),
        ("Bearer abc.def", "abc.def"),
        ("postgresql+psycopg://sosie:hunter2@db/registry", "hunter2"),
        ("no document 110105199003071239 here", "110105199003071239"),
        ("no document 11010519900307123X here", "11010519900307123"),
    ],
)
def test_a_number_or_a_key_inside_a_text_is_withheld(text: str, secret: str) -> None:
    shown = show(event=text, deep=[{"detail": text}])
    assert secret not in str(shown)
    assert WITHHELD in shown["event"]
    assert WITHHELD in shown["deep"][0]["detail"]


def test_ordinary_values_are_shown_as_json_has_them() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    shown = show(a=1, b=True, c=None, d=0.5, e=math.nan, f=Decision.REVIEW, g=when, h=Path("/x"))
    assert shown == {
        "a": 1,
        "b": True,
        "c": None,
        "d": 0.5,
        "e": "nan",
        "f": "review",
        "g": "2026-01-02T00:00:00+00:00",
        "h": "/x",
    }
    assert type(shown["f"]) is str


def test_a_text_and_a_nest_have_a_bound() -> None:
    nest: list[Any] = []
    nest.append(nest)
    shown = show(text="x" * 10_000, spaced="x y" * 10_000, nest=nest)
    assert len(shown["text"]) == len(shown["spaced"]) == 2000
    assert len(str(shown["nest"])) < 100
