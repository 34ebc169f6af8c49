"""Attack: a JPEG of 60 kB with a thousand empty scans holds an extraction thread for a minute."""

import csv
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from engine.errors import ImageError, ImageTooCostly, SosieError
from engine.faces import images
from engine.faces.extractor import Extracted, Extractor
from engine.faces.image_files import ImageLimits
from engine.faces.images import Decoder
from serving.cluster.deployments import Ingress
from serving.demo.scenario import make_document
from serving.ingress import extraction_queue
from tests.security.costly_files import jpeg_of_empty_scans, jpeg_of_segments, png_of_texts, write
from tests.serving.api.conftest import serving

LIFTED = replace(ImageLimits(), max_jpeg_scans=10_000, max_jpeg_block_visits=1 << 40)
"""As if the bounds had a gap."""
SMALL = write(Image.new("RGB", (64, 48)), "JPEG")


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return jpeg_of_empty_scans()


@pytest.fixture
def decoder() -> Any:
    """A decoder without bounds on scans, a fifth of a second of CPU time, and two of any."""
    decoder = Decoder(replace(LIFTED, cpu_s=0.2, wait_s=2.0))
    yield decoder
    decoder.close()


def test_every_route_refuses_the_jpeg_and_the_next_enrollment_is_decided(
    own_service, activation, bomb
) -> None:
    body = activation(outlet="r1", live=bomb, portrait=bomb)
    answer = own_service.enroll(body, "bomb", key="r1")
    own_service.assert_refused(answer, 413, "IMAGE.TOO_COSTLY")
    face = {"image": bomb}
    answer = own_service.ask(
        "POST", "/v1/verifications", key="red", body={"probe": face, "reference": face}
    )
    own_service.assert_refused(answer, 413, "IMAGE.TOO_COSTLY")
    items = [{"probe": face, "reference": face}] * 4
    answer = own_service.ask("POST", "/v1/match", key="red", body={"items": items})
    codes = {item["error"]["code"] for item in own_service.read(answer)["items"]}
    assert codes == {"IMAGE.TOO_COSTLY"}
    honest = own_service.enroll(activation(), "honest")
    assert honest.status_code == 201
    assert own_service.ask("GET", "/health/ready", key=None).status_code == 200
    assert "cost too much to decode" in own_service.log_text


@pytest.mark.parametrize(
    "scans", [0, 3], ids=["without empty scans", "with as many as photographs have"]
)
def test_a_progressive_jpeg_with_few_scans_is_decoded(scans: int) -> None:
    decoder = Decoder()
    with decoder.decode(jpeg_of_empty_scans(scans=scans)) as image:
        assert image.size_px == (5000, 5000)
    decoder.close()


def test_many_segments_and_compressed_texts_cost_nothing() -> None:
    decoder = Decoder()
    with pytest.raises(ImageTooCostly):
        decoder._decode(jpeg_of_segments(100_000))
    with decoder.decode(png_of_texts()) as image:
        assert image.size_px == (64, 64)
    decoder.close()


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_process_that_spends_its_cpu_time_or_does_not_answer_is_ended_and_replaced(
    decoder, bomb, is_stopped: bool
) -> None:
    (first,) = decoder.processes
    if is_stopped:
        os.kill(first, signal.SIGSTOP)
    with pytest.raises(ImageTooCostly):
        decoder._decode(SMALL if is_stopped else bomb)
    with decoder.decode(SMALL) as image:
        assert image.size_px == (64, 48)
    assert first not in decoder.processes
    assert not Path(f"/proc/{first}").exists()


def test_a_photograph_does_not_pay_for_a_process_that_something_else_has_killed(decoder) -> None:
    with decoder.decode(SMALL):
        pass
    (killed,) = decoder.processes
    os.kill(killed, signal.SIGKILL)
    with decoder.decode(SMALL) as image:
        assert image.size_px == (64, 48)
    assert killed not in decoder.processes


def test_a_process_that_cannot_run_is_not_the_photographs_fault(monkeypatch) -> None:
    monkeypatch.setattr(images, "_BOOT", "raise SystemExit(1)")
    decoder = Decoder()
    with pytest.raises(SosieError) as caught:
        decoder._decode(SMALL)
    assert not isinstance(caught.value, ImageError)
    decoder.close()


def test_an_import_goes_on_past_the_jpeg(sosie, home, photographs, tmp_path, bomb) -> None:
    (tmp_path / "bomb.jpg").write_bytes(bomb)
    files = (tmp_path / "bomb.jpg", photographs.live, tmp_path / "bomb.jpg")
    with (tmp_path / "base.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = ("document_type", "document_number", "name", "msisdn", "outlet", "opened_at")
        writer.writerow([*names, "live"])
        for serial, path in enumerate(files, 1):
            document = make_document(serial, f"Holder {serial}")
            copy = tmp_path / path.name
            if not copy.exists():
                copy.write_bytes(path.read_bytes())
            number = f"+8613{serial:09d}"
            kept = (document.type, document.number, document.name, number, "b1", "2020-05-01")
            writer.writerow([*kept, path.name])
    outcome = sosie("import", tmp_path / "base.csv", "--home", home, "--json")
    assert outcome.code == 1, outcome.err
    assert outcome.json["admitted"] == 1
    assert outcome.json["failures"] == {"IMAGE.TOO_COSTLY": 2}


class _Stuck:
    """An extractor that a library does not let go."""

    threads = 1

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()

    def extract(self, images: Sequence[bytes], *_: object) -> list[Extracted]:
        self.entered.set()
        assert self.released.wait(120)
        return [ImageTooCostly("too long") for _ in images]


def test_a_stuck_worker_is_seen_in_readiness_and_its_ingress_is_replaced(
    keyed_home, tmp_path, activation, monkeypatch
) -> None:
    home = Path(shutil.copytree(keyed_home[0], tmp_path / "served"))
    stuck: Any = _Stuck()
    extractor: Extractor = stuck
    with serving(home, keyed_home[1], extractor) as start:
        service = start()
        call = threading.Thread(target=lambda: service.enroll(activation(), "a"))
        call.start()
        try:
            assert stuck.entered.wait(60)
            monkeypatch.setattr(extraction_queue, "STUCK_S", 0.0)
            ingress = SimpleNamespace(_faces=service.parts.faces)
            service.run(Ingress.check_health(ingress))
            while (ready := service.ask("GET", "/health/ready", key=None)).status_code == 200:
                pass  # what the last check found is kept for half a second
            assert "a worker is stuck" in service.read(ready)["checks"]["models"]["detail"]
            monkeypatch.setattr(extraction_queue, "LOST_S", 0.0)
            with pytest.raises(RuntimeError, match="to be replaced"):
                service.run(Ingress.check_health(ingress))
        finally:
            stuck.released.set()
            call.join()
        monkeypatch.undo()
        while service.ask("GET", "/health/ready", key=None).status_code != 200:
            pass
