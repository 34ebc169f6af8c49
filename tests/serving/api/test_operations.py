"""Health, version, metrics, thresholds, and answers that no route gives."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from msgspec import structs

from schema.decisions import Comparison
from serving.api.app import build_app
from serving.api.body import JSON, MSGPACK
from serving.api.routes.health import _readiness_of
from serving.deployment.deployment import Deployment
from serving.ingress.embedding import EmbedderStatus
from serving.settings.settings import load_settings
from serving.wire.fields import read
from serving.wire.oversight import CalibratedThresholds, Readiness
from tests.serving.api.conftest import wait_until_ready
from tests.waiting import wait_until


def forget_readiness(service: Any) -> None:
    """The next who asks starts a check, rather than hear what the last one found."""
    _readiness_of(service.parts)._kept = None


def ask_afresh(service: Any) -> tuple[int, Any]:
    """The status and the answer of a check of readiness that starts now."""
    forget_readiness(service)
    response = service.ask("GET", "/health/ready", key=None)
    return response.status_code, service.read(response)


def is_named(service: Any, part: str) -> bool:
    """True where a check of readiness that starts now finds a fault in this part."""
    return not ask_afresh(service)[1]["checks"].get(part, {"is_ok": True})["is_ok"]


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_a_service_that_is_up_says_so(service, kind: str) -> None:
    headers = {"accept": kind}
    live = service.ask("GET", "/health/live", key=None, headers=headers)
    assert service.read(live) == {"status": "live"}
    ready = service.ask("GET", "/health/ready", key=None, headers=headers)
    answer = read(service.read(ready), Readiness)
    assert (ready.status_code, answer.is_ready, answer.phase) == (200, True, "ready")
    assert answer.checks.keys() == {"store", "models", "registrar", "gallery"}
    version = service.read(service.ask("GET", "/version", key=None, headers=headers))
    digest = service.parts.store.model_digest
    expected = {"version": "0.1.0", "api": "v1", "model_digest": digest, "runtime": "cpu float32"}
    assert version == expected


def test_a_probe_that_takes_no_type_of_ours_still_gets_an_answer(service) -> None:
    response = service.ask("GET", "/health/live", key=None, headers={"accept": "text/plain"})
    assert (response.status_code, response.headers["content-type"]) == (200, JSON)


def test_readiness_is_true_only_when_it_decides(
    start_service: Callable[..., Any], tmp_path, activation
) -> None:
    home = tmp_path / "served"
    with Deployment(home, load_settings(home)) as other:
        assert other.registrar is not None  # which holds the lease
        service = start_service(is_ready=False)

        def is_waiting() -> bool:
            response = service.ask("GET", "/health/ready", key=None)
            answer = service.read(response)
            assert (response.status_code, answer["is_ready"]) == (503, False)
            assert int(response.headers["retry-after"]) >= 1
            return bool(answer["phase"] == "waiting")

        wait_until(is_waiting)
        assert service.ask("GET", "/health/live", key=None).status_code == 200
        refused = service.enroll(activation(), "k")
        service.assert_refused(refused, 503, "SERVICE.NOT_READY")
    wait_until_ready(service)
    service.run(service.match.drain(5))
    status, answer = ask_afresh(service)
    assert (status, answer["is_ready"]) == (503, False)
    assert answer["checks"]["store"]["is_ok"] is True


async def never(*_: Any) -> Any:
    await asyncio.sleep(60)


TOLD = property(lambda _: "it fails")
FAULTS: dict[str, tuple[str, Any, int]] = {
    "registrar": ("serving.registrar.service.RegistrarService.status", never, 503),
    "models": ("serving.ingress.extraction_queue.ExtractionQueue.is_alive", False, 503),
    # A GPU that searches no more stops nothing, nor does a gallery that is not rewritten.
    "device": ("indexes.gallery.Gallery.search_fault", TOLD, 200),
    "upkeep": ("serving.deployment.deployment.Deployment.upkeep_fault", TOLD, 200),
}


@pytest.mark.parametrize("part", FAULTS)
def test_readiness_names_what_does_not_work_until_it_does(fresh, monkeypatch, part: str) -> None:
    place, fault, status = FAULTS[part]
    with monkeypatch.context() as patched:
        patched.setattr(place, fault)
        wait_until(lambda: is_named(fresh, part))
        got, answer = ask_afresh(fresh)
        assert (got, answer["is_ready"]) == (status, status == 200)
        assert (answer["phase"] is None) == (part == "registrar")
        assert answer["checks"][part]["is_ok"] is False
        assert fault is not TOLD or "it fails" in answer["checks"][part]["detail"]
    wait_until(lambda: not is_named(fresh, part))


def test_readiness_and_version_tell_of_an_accelerator_that_is_not_used_and_of_one_that_fails(
    fresh,
) -> None:
    told = EmbedderStatus("cpu", "float32", fault="CUDA is installed and not used: no driver")

    async def find() -> EmbedderStatus:
        return told

    object.__setattr__(fresh.parts, "embedder", find)
    status, answer = ask_afresh(fresh)
    checks = answer["checks"]
    assert status == 200
    assert checks["accelerator"] == {"is_ok": False, "detail": told.fault}
    assert checks["models"]["detail"].endswith("embeds, cpu float32")
    version = fresh.read(fresh.ask("GET", "/version", key=None))
    assert version["runtime"] == "cpu float32"
    assert told.fault in version["warnings"]
    told = EmbedderStatus("cuda", "float32", failure="the GPU failed: CUDA failure 700")
    status, answer = ask_afresh(fresh)
    assert (status, answer["checks"]["models"]["detail"]) == (503, told.failure)


def test_many_who_ask_for_readiness_share_a_check_and_a_hung_store_holds_one_thread(
    fresh, monkeypatch
) -> None:
    reads: list[str] = []
    free = threading.Event()

    def hang() -> tuple[int, bytes]:
        reads.append(threading.current_thread().name)
        assert free.wait(120)
        return 0, b""

    monkeypatch.setattr("serving.api.routes.health.CHECK_TIMEOUT_S", 0.2)
    monkeypatch.setattr(fresh.parts.store, "check_head", hang)
    forget_readiness(fresh)

    async def ask_all() -> list[Any]:
        send = partial(fresh._send, "GET", "/health/ready", headers={})
        left = asyncio.create_task(send())
        while not reads:
            await asyncio.sleep(0.001)
        left.cancel()
        return list(await asyncio.gather(*(send() for _ in range(20))))

    for _ in range(2):
        answers = fresh.run(ask_all())
        assert {answer.status_code for answer in answers} == {503}
        assert fresh.read(answers[0])["checks"]["store"]["is_ok"] is False
        forget_readiness(fresh)
    assert len(reads) == 1
    assert reads[0].startswith("readiness")
    free.set()


def test_metrics_count_routes_by_their_template(service) -> None:
    service.ask("DELETE", "/v1/lines/+8613800138555", key="red")
    response = service.ask("GET", "/metrics", key="operator")
    assert response.headers["content-type"].startswith("text/plain")
    assert "/v1/lines/{line}" in response.text
    assert "8613800138555" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/enrollments", {"GET", "POST"}),
        ("GET", "/v1/verifications", {"POST"}),
        ("GET", "/v1/match", {"POST"}),
        ("POST", "/health/live", {"GET"}),
        ("BREW", "/v1/lines/query", {"POST", "DELETE"}),
    ],
)
def test_a_method_that_a_route_lacks_is_405(
    service, method: str, path: str, allow: set[str]
) -> None:
    response = service.ask(method, path)
    service.assert_refused(response, 405, "REQUEST.METHOD_UNSUPPORTED")
    assert {one.strip() for one in response.headers["allow"].split(",")} <= allow


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/enrollments", "/redoc", "/v1/enrollments/", "/%00"]
)
def test_a_path_that_is_no_route_is_404(service, path: str) -> None:
    for accept in (JSON, MSGPACK):
        response = service.ask("GET", path, accept=accept)
        service.assert_refused(response, 404, "REQUEST.ROUTE_UNKNOWN")


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_the_thresholds_are_shown_on_the_calibrated_curves(service, accept: str) -> None:
    response = service.ask("GET", "/v1/thresholds", key="b1", accept=accept)
    assert (response.status_code, response.headers["content-type"]) == (200, accept)
    shown = service.read(response)
    read(shown, CalibratedThresholds)
    parts = service.parts
    assert shown["thresholds"] == structs.asdict(parts.thresholds)
    curves = {one["comparison"]: one for one in shown["calibration"]["curves"]}
    assert curves.keys() == {kind.value for kind in Comparison}
    for name, curve in curves.items():
        calibrated = parts.calibration.curve(Comparison(name))
        for point in curve["points"]:
            rate = calibrated.fmr_at(point["score"])
            assert rate.value == pytest.approx(point["fmr"])
            assert point["low"] <= point["fmr"] <= point["high"]
        assert all(one["score"] <= next_["score"] for one, next_ in pairwise(curve["points"]))
        # Just beyond the last point no more is known than this bound.
        beyond = calibrated.fmr_at(curve["points"][-1]["score"] + 1e-9)
        assert beyond.is_bound
        assert beyond.value == curve["fmr_bound"]


def test_a_weak_calibration_is_told_with_the_version(service) -> None:
    parts = replace(service.parts, warnings=("verify stands at FMR 0.01, not 0.0001",))
    service = replace(service, parts=parts, app=build_app(parts))
    told = service.read(service.ask("GET", "/version", key=None))
    assert told["warnings"] == list(parts.warnings)
