"""Photographs to vectors: decode, detect, align, measure quality, embed."""

import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, field, replace

import numpy as np
from msgspec import structs

from engine.batching import name_thread
from engine.errors import ImageError, ModelError, VectorUnusable
from engine.faces.detector import DetectedFace, FaceDetector, choose_main_face, has_competing_face
from engine.faces.embedder import (
    CropEmbedder,
    Embedder,
    Pixels,
    align,
    are_unit,
    measure_lengths,
    measure_scale,
    normalise,
)
from engine.faces.image_files import ImageLimits, is_record
from engine.faces.images import Decoder, Image
from engine.faces.liveness_judge import Judged, LivenessJudge
from engine.faces.quality import (
    Quality,
    QualityMeasure,
    find_problems,
    judge_clarity,
    judge_light,
    measure_quality,
)
from engine.models.catalog import ModelCard, builtin_card
from engine.models.onnx_sessions import SessionOptions, open_session
from indexes.base import Closing, Floats
from schema import frozen
from schema.options import QUALITY_LIMITS, QualityLimits
from schema.reasons import PhotographKind, Pointed, Reason, ToldKind

_log = logging.getLogger(__name__)


@frozen(eq=False)
class Extraction:
    """The main face of one photograph.

    `vector` float32[d] is a unit vector, and None exactly when no face was found; so are
    `quality`, `box_px` (x, y, width, height), `landmarks_px` float32[5, 2] and `crop`
    uint8[side, side, 3]. Coordinates are those of the full upright picture of `size_px` (width,
    height). `problems` is empty when the face is fit for enrollment, by the limits of its `kind`.
    """

    size_px: tuple[int, int]
    problems: tuple[Reason, ...]
    vector: Floats | None = None
    quality: Quality | None = None
    box_px: tuple[float, float, float, float] | None = None
    landmarks_px: Floats | None = None
    crop: Pixels | None = None
    kind: PhotographKind = PhotographKind.LIVE
    judged: Judged | None = None
    """How live a judge found the face, where that was asked."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """What an operator's models measured, 0 to 100, by the names of ISO/IEC 29794-5; and the point
    by which the face was chosen."""

    @property
    def measured(self) -> dict[str, float]:
        """All that was measured of the face; empty without one."""
        return {} if self.quality is None else {**asdict(self.quality), **self.measures}


Extracted = Extraction | ImageError
"""A bad photograph in a batch is a value."""
Kinds = Sequence[ToldKind]
"""What the photographs of a batch are, and which face is meant, as far as it was told."""
Asked = tuple[bytes, ToldKind, bool]
"""A photograph, what it is told to be, and whether its liveness is to be judged."""


@frozen
class ExtractorConfig:
    """`threads` share a batch (0: one for each core), in chunks of `chunk_size` photographs.

    A second face of `competing_share` of the main one's prominence, or more, is SEVERAL_FACES. Of
    936 pairs of LFW faces in one picture, the second at most 0.9 as high, it never took the second
    for the main one without saying so; of LFW itself it sends 0.2 % back. A mismatch tells of
    smaller ones, too (docs/decisions/0005 has the figures).
    """

    threads: int = 0
    chunk_size: int = 16
    images: ImageLimits = field(default_factory=ImageLimits)
    quality: Mapping[PhotographKind, QualityLimits] = field(default_factory=lambda: QUALITY_LIMITS)
    competing_share: float = 0.85
    measures: Sequence[QualityMeasure] = ()


class Extractor(Closing):
    """Extracts the main face of each photograph with a pool of threads.

    Thread-safe. Close it, or use it in a `with`.
    """

    def __init__(
        self, detector: FaceDetector, embedder: CropEmbedder, config: ExtractorConfig | None = None
    ) -> None:
        self._detector, self._first_side_px = detector, detector.first_side_px
        self.embedder = embedder
        self._config = config or ExtractorConfig()
        self.threads = self._config.threads or len(os.sched_getaffinity(0))
        self.card, self.flip = embedder.card, embedder.flip
        self.dim = embedder.dim
        self.model_digest = digest_embedding(embedder.card, embedder.flip)
        """Only vectors of one digest can be compared."""
        self.liveness_judge: LivenessJudge | None = None
        """Looks at the faces of whom it is asked; without one nobody does."""
        self._decoder = Decoder(self._config.images)
        self._pool = ThreadPoolExecutor(
            self.threads, "extract", initializer=name_thread, initargs=("extract",)
        )
        self._counting = threading.Lock()
        self._running = 0
        self.tell_free: Callable[[], None] | None = None
        """Called by a thread that has done its chunk."""

    def close(self) -> None:
        """Wait for the extractions under way, and end the threads and the decoding processes."""
        self._pool.shutdown()
        self._decoder.close()

    def extract(
        self, images: Sequence[bytes], kinds: Kinds = (), judged: Sequence[bool] = ()
    ) -> list[Extracted]:
        """One Extraction or ImageError for each image file, in order.

        `kinds`, where given, has one for each: None for what was not told, which is held to the
        limits of a live photograph, or of a chip's portrait if it comes in a document's record.
        `judged`, where given, says of which the liveness is judged, where there is a judge.
        """
        count = len(images)
        told = list(zip(images, kinds or [None] * count, judged or [False] * count, strict=True))
        even_share = -(-len(images) // self.threads)
        size = max(1, min(even_share, self._config.chunk_size))
        chunks = [told[start : start + size] for start in range(0, len(images), size)]
        if self.embedder.prefers_large_batches:
            return self._embed(self._share(self._prepare, chunks))
        return self._share(lambda chunk: self._embed(self._prepare(chunk)), chunks)

    def has_free_thread(self) -> bool:
        """True where another batch would begin at once."""
        return self._running < self.threads

    def _share(
        self, work: Callable[[Sequence[Asked]], list[Extracted]], chunks: Sequence[Sequence[Asked]]
    ) -> list[Extracted]:
        """Shares the chunks among the threads; results in order."""
        futures = [self._pool.submit(work, chunk) for chunk in chunks]
        with self._counting:
            self._running += len(futures)
        for future in futures:
            future.add_done_callback(self._end_chunk)
        return [one for future in futures for one in future.result()]

    def _end_chunk(self, _: Future[list[Extracted]]) -> None:
        with self._counting:
            self._running -= 1
        if self.tell_free is not None:
            self.tell_free()

    def _prepare(self, images: Sequence[Asked]) -> list[Extracted]:
        """Everything but the vectors."""
        return [
            self._prepare_one(data, told, self.liveness_judge if is_judged else None)
            for data, told, is_judged in images
        ]

    def _prepare_one(self, data: bytes, told: ToldKind, judge: LivenessJudge | None) -> Extracted:
        """Decodes a large picture as small as the detector takes it, and again if that is not fine
        enough: for a face that was not found there, or one whose crop needs more pixels.
        """
        kind, point = told if isinstance(told, Pointed) else (told, None)
        kind = kind or (PhotographKind.CHIP if is_record(data) else PhotographKind.LIVE)
        try:
            with self._decoder.decode(data, self._first_side_px) as image:
                attempts = slice(None) if image.is_finest else slice(1)
                faces = self._detect(image, attempts, point)
                side_px = self._find_needed_side(image, faces, judge)
                if side_px is None:
                    return self._judge(image, faces, kind, judge, point)
            with self._decoder.decode(data, side_px) as image:
                if not faces:
                    faces = self._detect(image, slice(1, None), point)
                return self._judge(image, faces, kind, judge, point)
        except ImageError as error:
            return error

    def _detect(
        self, image: Image, attempts: slice, point: Sequence[float] | None
    ) -> list[DetectedFace]:
        """The faces, the main one first, in coordinates of the full picture."""
        found = self._detector.detect(image.pixels, attempts, point)
        faces = [one.scale(image.reduction) for one in found]
        if faces:
            faces.insert(0, faces.pop(choose_main_face(faces, image.size_px, point)))
        return faces

    def _find_needed_side(
        self, image: Image, faces: Sequence[DetectedFace], judge: LivenessJudge | None
    ) -> int | None:
        """The longer side that shows the main face as large as its crop, or the judge's; None where
        this one does.

        Without a face all that the limits give is needed.
        """
        if image.is_finest:
            return None
        if not faces:
            return max(image.size_px)
        face = faces[0]
        scales = [one.measure_scale(face.landmarks_px) for one in self._config.measures]
        scales.append(measure_scale(face.landmarks_px, self.embedder.side_px))
        if judge is not None:
            scales.append(judge.measure_scale(face.box_px))
        scale = min(max(scales), 1.0)
        return None if scale * image.reduction <= 1 else math.ceil(scale * max(image.size_px))

    def _look_closer(self, image: Image, face: DetectedFace) -> DetectedFace:
        """The main face; where the detector saw it small, as the decoded picture shows it."""
        seen = self._first_side_px / max(image.size_px)
        if face.box_px[3] * seen >= _SEEN_SMALL_PX or seen * image.reduction >= 1:
            return face
        closer = self._detector.look_closer(image.pixels, face.scale(1 / image.reduction))
        return closer.scale(image.reduction)

    def _judge(
        self,
        image: Image,
        faces: Sequence[DetectedFace],
        kind: PhotographKind,
        judge: LivenessJudge | None,
        point: Sequence[float] | None,
    ) -> Extraction:
        """Align the main face and measure it."""
        if not faces:
            problems = (*judge_light(image.pixels), Reason.NO_FACE)
            return Extraction(image.size_px, problems)
        face = self._look_closer(image, faces[0])
        # The centre of a pixel is where it is in the full picture.
        reduction = np.float32(image.reduction)
        landmarks_px = (face.landmarks_px + np.float32(0.5)) / reduction - np.float32(0.5)
        if image.reduction == 1:
            landmarks_px = face.landmarks_px
        heights_px = [one.box_px[3] for one in faces[1:]]
        crop = align(image.pixels, landmarks_px, self.embedder.side_px)
        quality = measure_quality(
            crop, face.landmarks_px, face.score, image.coded_bytes, image.size_px
        )
        quality = replace(quality, second_face=max(heights_px, default=0.0) / face.box_px[3])
        asked = self._config.measures
        measures = {one.name: one.measure(image.pixels, landmarks_px) for one in asked}
        rules = [one.contract for one in asked]
        missed = [by.reason for by in rules if kind in by.of and measures[by.measure] < by.least]
        warned = {by.measure: by.warn for by in rules if measures[by.measure] < by.warn}
        measures |= {f"{name}_warned": limit for name, limit in warned.items()}
        problems = find_problems(quality, self._config.quality[kind], missed)
        if point is not None:
            # The record says that the face was chosen.
            measures |= {"point_x": point[0], "point_y": point[1]}
        elif has_competing_face(faces, 0, image.size_px, self._config.competing_share):
            problems = (Reason.SEVERAL_FACES, *problems)
        return Extraction(
            image.size_px,
            problems,
            quality=quality,
            box_px=face.box_px,
            landmarks_px=face.landmarks_px,
            crop=crop,
            kind=kind,
            measures=measures,
            judged=None if judge is None else _judge_liveness(judge, image, face),
        )

    def _embed(self, prepared: Sequence[Extracted]) -> list[Extracted]:
        """Give every face its vector."""
        crops = [
            one.crop for one in prepared if isinstance(one, Extraction) and one.crop is not None
        ]
        if not crops:
            return list(prepared)
        given = self.embedder.embed(np.stack(crops))
        # Lengths of the model's vectors, in that of a usual face's; 1 where that is not known.
        usual = np.float32(self.card.usual_length)
        clarities = measure_lengths(given) / usual if usual else np.ones(len(given), np.float32)
        vectors = normalise(given)
        is_usable = are_unit(vectors) & (clarities < _HIGHEST_CLARITY)
        made = zip(vectors, clarities.tolist(), is_usable, strict=True)
        finished: list[Extracted] = []
        for one in prepared:
            if isinstance(one, ImageError) or one.crop is None:
                finished.append(one)
                continue
            vector, clarity, usable = next(made)
            if not usable:
                finished.append(
                    VectorUnusable("the embedder gave no unit vector: report this photograph")
                )
                continue
            finished.append(self._judge_clarity(replace(one, vector=vector), clarity))
        return finished

    def _judge_clarity(self, one: Extraction, clarity: float) -> Extraction:
        assert one.quality is not None
        quality = replace(one.quality, clarity=clarity)
        # What is small, dark or blurred is unclear too: the measure says more.
        problems = one.problems or judge_clarity(quality, self._config.quality[one.kind])
        return replace(one, quality=quality, problems=problems)


_SEEN_SMALL_PX = 48
"""Of a face that the detector saw no higher the landmarks are rough, and a tilt hardly shows."""
_HIGHEST_CLARITY = 10


def _judge_liveness(judge: LivenessJudge, image: Image, face: DetectedFace) -> Judged:
    """The score of a face; NaN where the judge fails: it fails nobody's extraction."""
    try:
        crop = judge.cut(image.pixels, face.box_px, 1 / image.reduction)
        score = float(judge.judge(crop[None])[0])
    except ModelError as error:
        _log.error("the judge of liveness failed: %s", error)
        score = math.nan
    return Judged(judge.digest, score)


def open_extractor(
    *,
    config: ExtractorConfig | None = None,
    session: SessionOptions | None = None,
    embedder: ModelCard | None = None,
    detector: ModelCard | None = None,
    flip: bool = False,
) -> Extractor:
    """An Extractor with the built-in models, or with those of the given cards.

    Raises a ModelError where a model, its card or the runtime is unusable.
    """
    options = session or SessionOptions()
    return Extractor(
        open_detector(session=options, card=detector),
        open_embedder(session=options, card=embedder, flip=flip),
        config,
    )


def open_detector(
    *, session: SessionOptions | None = None, card: ModelCard | None = None
) -> FaceDetector:
    """The detector of `open_extractor` on its own."""
    # The CPU provider is as quick as OpenVINO on YuNet, and compiles nothing for a new size; an
    # accelerator would wait for single pictures.
    options = replace(session or SessionOptions(), provider="cpu", precision="float32")
    return FaceDetector(open_session(card or builtin_card("yunet"), options))


def open_embedder(
    *, session: SessionOptions | None = None, card: ModelCard | None = None, flip: bool = False
) -> Embedder:
    """The embedder of `open_extractor` on its own."""
    chosen = card or builtin_card("sface")
    return Embedder(open_session(chosen, session or SessionOptions()), chosen, flip)


def digest_embedding(card: ModelCard, flip: bool) -> str:
    """SHA-256 over what determines a vector: weights, input contract, alignment, mirroring, and
    the card's transform.

    Provider, threads and precision are left out: they change a vector less than a second
    photograph does.
    """
    contract = structs.asdict(card.input)
    size_px = contract.pop("width_px"), contract.pop("height_px")
    shaped_by = {
        "sha256": card.sha256,
        "input": {**contract, "size_px": size_px},
        "alignment": card.alignment,
        "dimension": card.dimension,
        "flip": flip,
    }
    if card.transform:
        shaped_by["transform"] = card.transform_sha256
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()
