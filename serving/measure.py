"""Measures everything that a plan can learn without a service."""

import hashlib
import io
import os
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from engine.accuracy.photographs import SUFFIXES, find_images
from engine.capacity.figures import (
    USUAL,
    FigureOrigin,
    MeasuredMachine,
    PlanFigure,
    PlanFigures,
    Quantity,
    VectorKind,
    assume,
)
from engine.capacity.model import DECISIONS_AT_ONCE, PAIRS_AT_ONCE, PROBES_AT_ONCE
from engine.errors import RequestError, file_errors
from engine.faces.extractor import Extraction
from engine.matching.requests import EnrollmentRequest
from engine.matching.samples import Sample
from engine.registry.accounts import Carrier
from engine.registry.database import utc_now
from engine.registry.writer import publish
from indexes.base import Floats, Vectors
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from serving.demo.scenario import make_document
from serving.deployment.deployment import Deployment, create_home
from serving.deployment.models import build_extractor, embedder_card
from serving.settings.sections import GallerySettings, RegistrySettings
from serving.settings.settings import Settings

SINGLES, DECISION_BATCHES = 20, 10
_CARRIER, _OUTLET = "plan", "plan-1"
_REGISTRY = "registry.sqlite"
_APART = 0.3
"""How far, of a vector's length, a portrait lies from the live face."""
Measured = tuple[dict[Quantity, float], str]
"""Values, and of what."""


def measure_decisions(settings: Settings, folder: Path) -> Measured:
    """Seconds and bytes of a decision with its commit, on a registry made and removed here; its
    empty gallery leaves out the search."""
    # SQLite whatever file and environment say: nothing is written to a registry in use.
    own = settings.model_copy(update={"registry": RegistrySettings(), "gallery": GallerySettings()})
    with _make_place(folder) as place:
        home = Path(place) / "home"
        create_home(home, own)
        singles, batches, grown = _decide(Deployment(home, own), home / _REGISTRY)
    decided = SINGLES + DECISION_BATCHES * DECISIONS_AT_ONCE
    row = assume(Quantity.ROW_BYTES, VectorKind(embedder_card(settings).dimension)).value
    found = {
        Quantity.DECISION_ALONE: float(np.median(singles)),
        Quantity.DECISION: float(np.median(batches)) / DECISIONS_AT_ONCE,
        Quantity.DECISION_SPREAD: float(np.std(np.log(batches))),
        Quantity.ENROLLMENT_BYTES: max(grown / decided - row, 0.0),
    }
    return found, f"SQLite in {folder}, {decided} decisions of strangers"


def _make_place(folder: Path) -> TemporaryDirectory[str]:
    with file_errors(f"{folder} cannot be written"):
        return TemporaryDirectory(prefix="sosie-plan-", dir=folder)


def _decide(deployment: Deployment, registry: Path) -> tuple[list[float], list[float], int]:
    """Seconds of each decision alone and of each batch, and the bytes that the registry grew."""
    with deployment:
        deployment.store.add_carrier(Carrier(_CARRIER, "Plan"), actor="plan")
        deployment.store.add_outlet(_OUTLET, _CARRIER, actor="plan")
        count = SINGLES + (DECISION_BATCHES + 1) * DECISIONS_AT_ONCE
        requests = iter(_write_requests(deployment.vault.dim, count))
        judge = deployment.judge
        with deployment.store.writer() as writer:

            def decide(count: int) -> None:
                """Judges and publishes as the registrar does."""
                judged = judge.judge(list(islice(requests, count)), writer, now=utc_now())
                assert judged.writes, "every request is new"
                publish(writer, judge.gallery, judged.writes)

            decide(DECISIONS_AT_ONCE)
            before = registry.stat().st_size
            alone = [time_call(partial(decide, 1)) for _ in range(SINGLES)]
            full = [time_call(partial(decide, DECISIONS_AT_ONCE)) for _ in range(DECISION_BATCHES)]
        return alone, full, registry.stat().st_size - before


def _write_requests(dim: int, count: int) -> list[EnrollmentRequest]:
    """Strangers with documents of their own, whose two photographs match."""
    rng = np.random.default_rng(0)
    live, apart = _draw(rng, count, dim), _draw(rng, count, dim)
    portrait = live + np.float32(_APART) * apart
    return [
        EnrollmentRequest(
            idempotency_key=f"plan-{place:06d}",
            carrier=_CARRIER,
            outlet=_OUTLET,
            document=make_document(place, f"Planned {place}"),
            msisdn=f"+8613{place:09d}",
            live=_make_sample(live[place]),
            portrait=_make_sample(portrait[place]),
        )
        for place in range(count)
    ]


def _make_sample(row: Floats) -> Sample:
    unit = row / np.linalg.norm(row)
    return Sample(unit, hashlib.sha256(unit.tobytes()).digest())


def time_call(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


ROUNDS = 5
SIDE_PX = 250
"""Of the pictures that are made here: as large as those of LFW."""
_FACE = (slice(0, SIDE_PX), slice(100, 100 + SIDE_PX))
_SET = 2 * PAIRS_AT_ONCE
"""Photographs that are timed together: eight pairs."""


def measure_photographs(settings: Settings, folder: Path | None, rounds: int = ROUNDS) -> Measured:
    """Core-seconds of a pair of photographs, alone and eight pairs at once, and of what pictures;
    each round takes the next eight pairs. `RequestError` where there are none, or one shows no
    face."""
    images, source = _find_images(folder, rounds * _SET)
    turns = cycle(images)
    alone, together = [], []
    with build_extractor(settings, threads=1) as extractor:
        for _ in range(rounds):
            photographs = list(islice(turns, _SET))
            # Before it is timed: the first call of a process takes longer.
            found = extractor.extract(photographs)
            if not all(isinstance(one, Extraction) and one.vector is not None for one in found):
                raise RequestError(
                    "a photograph cannot be read or shows no face: "
                    "name a folder of sound ones with faces"
                )
            pairs = [photographs[start : start + 2] for start in range(0, _SET, 2)]
            alone.append(sum(time_call(partial(extractor.extract, pair)) for pair in pairs))
            together.append(time_call(partial(extractor.extract, photographs)))
    alone_s, share_s = (float(np.median(times)) / PAIRS_AT_ONCE for times in (alone, together))
    return {Quantity.PAIR_ALONE: alone_s, Quantity.PAIR: share_s}, source


def _find_images(folder: Path | None, most: int) -> tuple[list[bytes], str]:
    if folder is not None:
        if not folder.is_dir():
            raise RequestError(f"{folder} is not a folder: name one with photographs of faces")
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if len(paths) < 2:
            raise RequestError(
                f"{folder} has fewer than two photographs: name one with .jpg or .png"
            )
        return [path.read_bytes() for path in paths[:most]], f"photographs of {folder.name}"
    portrait = np.asarray(find_images("--photographs").astronaut())[_FACE]
    lit = [np.clip(portrait * light, 0, 255).astype(np.uint8) for light in (0.9, 1.0, 1.1)]
    return [_encode(one) for one in lit], f"a portrait, {SIDE_PX} px"


def _encode(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


MAX_REFERENCES = 1_000_000
"""Codes of so many are more than a processor's caches hold."""
LEAST_REFERENCES = 40_000
"""So many are sealed when they are added; fewer stay in a head, where a reference takes more."""
LONE_PROBES, SCAN_BATCHES = 60, 5
THRESHOLD = 0.57
"""About where a search looks from; random strangers do not reach it."""
_DRAWN_AT_ONCE = 100_000


def measure_scans(settings: Settings, references: int | None = None) -> Measured:
    """Core-seconds and bytes that a scan of the gallery takes per reference, and of how many."""
    dim = embedder_card(settings).dimension
    # A million, or what a quarter of the memory holds while it is built.
    free_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    fitting = max(LEAST_REFERENCES, min(MAX_REFERENCES, free_bytes // 4 // (8 * dim)))
    count = references or fitting
    config = SegmentsConfig(rows=settings.gallery.rows)
    gallery = Gallery(SegmentedIndex(dim, config))
    rng = np.random.default_rng(0)
    rows = _draw(rng, count, dim)
    gallery.add(np.arange(count), rows, 1)
    del rows
    gallery.settle()
    probes = _draw(rng, PROBES_AT_ONCE, dim)
    cores = len(os.sched_getaffinity(0))
    gallery.range_search(probes, THRESHOLD)
    gallery.range_search(probes[:1], THRESHOLD)
    lone, batch = (
        [time_call(partial(gallery.range_search, some, THRESHOLD)) for some in parts]
        for parts in (np.split(probes[:LONE_PROBES], LONE_PROBES), [probes] * SCAN_BATCHES)
    )
    p50, p90 = np.quantile(lone, (0.5, 0.9))
    found = {
        Quantity.SCAN_ALONE: float(p50) * cores / count,
        Quantity.SCAN: float(np.median(batch)) * cores / count / PROBES_AT_ONCE,
        # 1.28 standard deviations above the median: sixty scans have no p99.
        Quantity.SCAN_SPREAD: float(np.log(p90 / p50)) / 1.2816,
        Quantity.REFERENCE_BYTES: gallery.account().bytes_per_reference,
    }
    return found, f"{count:,} random references of {dim} floats, {cores} threads"


def _draw(rng: np.random.Generator, count: int, dim: int) -> Vectors:
    """Unit rows in random directions: float32[count, dim]."""
    rows = np.empty((count, dim), np.float32)
    for start in range(0, count, _DRAWN_AT_ONCE):
        part = rows[start : start + _DRAWN_AT_ONCE]
        rng.standard_normal(dtype=np.float32, out=part)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


Progress = Callable[[int, int], None]
BUSY_SHARE = 1.5
"""Of the cores: what measures keeps them busy itself for a while."""


def measure_machine(
    settings: Settings,
    folder: Path,
    *,
    photographs: Path | None = None,
    references: int | None = None,
    progress: Progress | None = None,
) -> dict[Quantity, PlanFigure]:
    """Photographs, scans and decisions, one after another; about 20 s on two cores. `folder` is on
    the disk whose commits are timed, and is left as it was. `photographs` is a folder of such, else
    a wheel's portrait; `references` to scan, else a million or what memory holds."""
    parts: tuple[Callable[[], Measured], ...] = (
        lambda: measure_photographs(settings, photographs),
        lambda: measure_scans(settings, references),
        lambda: measure_decisions(settings, folder),
    )
    figures: dict[Quantity, PlanFigure] = {}
    cores = len(os.sched_getaffinity(0))
    for done, measure in enumerate(parts):
        if progress is not None:
            progress(done, len(parts))
        found, source = measure()
        if (load := os.getloadavg()[0]) > BUSY_SHARE * cores:
            source += f"; with a load of {load:.1f} on {cores} cores other work slowed it"
        for quantity, value in found.items():
            figures[quantity] = PlanFigure(value, FigureOrigin.MEASURED, source)
    return figures


def stamp_machine() -> MeasuredMachine:
    """This machine: its processor, the cores that this process may use, its memory."""
    return MeasuredMachine(
        cpu=read_cpu()[0],
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def read_cpu() -> tuple[str, frozenset[str]]:
    """Model name and flags; the flags are unknown, thus none, where there is no /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(facts.get("flags", "").split())


_FLOAT_BYTES = {"float32": 4, "float16": 2}


def join_figures(settings: Settings, measured: Mapping[Quantity, PlanFigure]) -> PlanFigures:
    """Measured figures over assumed ones; `RequestError` for unusual vectors of which nothing was
    measured."""
    kind = VectorKind(embedder_card(settings).dimension, _FLOAT_BYTES[settings.gallery.rows])
    if not measured and kind != USUAL:
        raise RequestError(
            f"figures are assumed for vectors of {USUAL.dim} floats kept as float32, and this "
            "deployment has others: give --measure"
        )
    return PlanFigures(stamp_machine(), kind, measured, settings.gallery.segment_rows)
