"""Face detection by YuNet (Wu, Peng & Yu, 2023): boxes and five landmarks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from engine.errors import ModelCardInvalid, VectorUnusable
from engine.faces.embedder import Pixels
from engine.models.onnx_sessions import Session
from indexes.base import Doubles, Floats
from schema import frozen

_STRIDES = (8, 16, 32)
_KINDS = ("cls", "obj", "bbox", "kps")
_Raw = dict[str, Floats]
_Window = tuple[float, int]

# Turns of the whole picture in which a main face of a weak score, or none, is looked for.
_SLANTED_DEG, _QUARTERS_DEG, _HANGING_DEG = (-40.0, 40.0), (90.0, 180.0, -90.0), (-135.0, 135.0)
# Turns of a face whose tilt does not show.
_HIDDEN_DEG: tuple[float, ...] = (-30.0, 30.0, 180.0)
# A face is looked at again in a square window of so many heights of it, at most so many pixels; one
# that was seen small in the second, which shows a tilt better.
_WINDOW, _CLOSE_WINDOW = (2.2, 160), (2.6, 256)
# YuNet's landmarks lean upright: they show a third of a tilt.
_TRUE_TILT, _MAX_TURN_DEG, _MAX_TURNS, _LAST_TILT_DEG = 3.0, 45.0, 3, 1.2
# A tilt of a few degrees, which landmarks hide, shows in the scores: the face looked at so far to
# either side scores alike when it is upright, else so many degrees' worth of the score differ.
_ASIDE_DEG, _DEG_OF_SCORE = 30.0, 150.0
# By so much may a face score less when it is turned on, and be taken as turned.
_SCORE_SLACK = 0.01


@frozen
class DetectorConfig:
    """Sizes and thresholds of the detection.

    `input_sides_px`: longer side of the picture in each attempt, until one finds a face.

    Proposals below `min_score` are dropped; of two that overlap by more than `max_overlap`
    (intersection over union) the better one is kept. Its landmarks are the mean over all that
    overlap it by `shared_overlap` or more, weighted by how far their scores exceed `min_score`;
    at 1 they are its own. The mean is steadier: on LFW it lifts the median mated score by 0.01.

    A main face that scores `sure_score` and seems tilted by at most `max_tilt_deg` is taken as it
    is found: nine in ten upright ones. Others are turned back and looked at again. Where the score
    is below `weak_score`, the whole picture is looked at in other turns, until one gives
    `upright_score`: what is found upside down or on its side scores up to 0.9.
    """

    input_sides_px: tuple[int, ...] = (320, 640)
    min_score: float = 0.6
    max_overlap: float = 0.3
    shared_overlap: float = 0.5
    max_tilt_deg: float = 2.5
    weak_score: float = 0.885
    sure_score: float = 0.91
    upright_score: float = 0.915


@frozen(eq=False)
class DetectedFace:
    """A face: `box_px` (x, y, width, height), `landmarks_px` float32[5, 2]: eyes, nose, mouth
    corners, and `score` from 0 to 1.

    Of eyes and mouth corners, the left one of an upright face comes first. Width and height of the
    box are the face's own, as if it were upright.
    """

    box_px: tuple[float, float, float, float]
    landmarks_px: Floats
    score: float

    def scale(self, by: float | Floats) -> DetectedFace:
        """The face in a picture that is so many times as large, or float32[2] times as wide and as
        high."""
        box = np.array(self.box_px) * np.resize(by, 4)
        return DetectedFace(
            _as_box(box), self.landmarks_px * np.asarray(by, np.float32), self.score
        )

    def move(self, matrix: Doubles) -> DetectedFace:
        """The face where a similarity float64[2, 3] takes it."""
        x, y, width, height = self.box_px
        scale = math.hypot(matrix[0, 0], matrix[1, 0])
        centre = matrix @ (x + width / 2, y + height / 2, 1.0)
        width, height = width * scale, height * scale
        box_px = (float(centre[0]) - width / 2, float(centre[1]) - height / 2, width, height)
        landmarks_px = self.landmarks_px @ matrix[:, :2].T + matrix[:, 2]
        return DetectedFace(box_px, landmarks_px.astype(np.float32), self.score)


@frozen(eq=False)
class _View:
    """The `faces` found in a picture, in its coordinates, when it is turned counterclockwise."""

    picture: Pixels
    faces: tuple[DetectedFace, ...]
    turned_deg: float = 0.0

    @property
    def main(self) -> int:
        return choose_main_face(self.faces, (self.picture.shape[1], self.picture.shape[0]))

    @property
    def score(self) -> float:
        """The main face's score; 0 without one."""
        return self.faces[self.main].score if self.faces else 0.0

    def is_as_good(self, other: _View) -> bool:
        """True where the main face is that of the other view, or at least as prominent."""
        if not self.faces or not other.faces:
            return bool(self.faces)
        mine, theirs = self.faces[self.main], other.faces[other.main]
        off = mine.landmarks_px.mean(axis=0) - theirs.landmarks_px.mean(axis=0)
        if float(np.hypot(*off)) <= theirs.box_px[3] / 2:
            return True
        size_px = (self.picture.shape[1], self.picture.shape[0])
        return measure_prominence(mine, size_px) >= measure_prominence(theirs, size_px)


class FaceDetector:
    """Finds the faces of a picture; thread-safe."""

    def __init__(self, session: Session, config: DetectorConfig | None = None) -> None:
        missing = {f"{k}_{s}" for k in _KINDS for s in _STRIDES} - set(session.output_names)
        if missing:
            raise ModelCardInvalid("the detector's model has not YuNet's outputs; use yunet")
        self._session = session
        self._config = config or DetectorConfig()

    @property
    def first_side_px(self) -> int:
        """The longer side that its first attempt makes of a picture."""
        return self._config.input_sides_px[0]

    def detect(
        self, pixels: Pixels, attempts: slice = slice(None), point: Sequence[float] | None = None
    ) -> tuple[DetectedFace, ...]:
        """Faces in `pixels` uint8[h, w, 3] (RGB), best score first, in its coordinates.

        The main one is as it is found when it is turned upright; with a `point`, in shares of the
        picture, it is the one there, and without one there nothing is found. Of the sizes of the
        picture only the `attempts` are tried; beyond the first the whole picture is turned only
        where it shows no face.
        """
        longer = max(pixels.shape[:2])
        tried = 0
        for wanted in self._config.input_sides_px[attempts]:
            side = min(wanted, longer)  # enlarging adds no detail
            if side == tried:
                continue
            tried = side
            faces = self._detect_at(pixels, side / longer, point)
            if faces:
                return faces
        return ()

    def look_closer(self, pixels: Pixels, face: DetectedFace) -> DetectedFace:
        """A face that was found in a smaller picture, as a window of this one around it shows it:
        where its eyes and mouth are, and how it is tilted."""
        turned_deg = measure_tilt(face.landmarks_px)
        seen = self._look_at(pixels, face, turned_deg, _CLOSE_WINDOW)
        if seen is None:
            return face
        seen, turned_deg = self._follow_tilt(
            pixels, seen, turned_deg, _LAST_TILT_DEG, _CLOSE_WINDOW
        )
        left, right = (
            self._look_at(pixels, face, turned_deg + aside_deg, _CLOSE_WINDOW)
            for aside_deg in (-_ASIDE_DEG, _ASIDE_DEG)
        )
        if left is None or right is None:
            return seen
        turned_deg += (right.score - left.score) * _DEG_OF_SCORE
        level = self._look_at(pixels, face, turned_deg, _CLOSE_WINDOW)
        return level if level is not None and level.score >= seen.score - _SCORE_SLACK else seen

    def _detect_at(
        self, pixels: Pixels, scale: float, point: Sequence[float] | None
    ) -> tuple[DetectedFace, ...]:
        height, width = pixels.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
        picture = np.asarray(small, dtype=np.uint8)
        view = _View(picture, self._look(picture))
        hidden_deg = _HIDDEN_DEG
        if view.score < self._config.weak_score:
            may_turn = max(size) <= self.first_side_px or not view.faces
            view = self._try_turns(view) if may_turn else view
            hidden_deg = () if may_turn else (*_SLANTED_DEG, *_QUARTERS_DEG, *_HANGING_DEG)
        if not view.faces:
            return ()
        faces, main = list(view.faces), choose_main_face(view.faces, size, point)
        if point is not None and not measure_offset(faces[main], size, point) <= _INSIDE:
            return ()
        faces[main] = self._level(view, faces[main], hidden_deg)
        stretch = np.array([width / size[0], height / size[1]], dtype=np.float32)
        return tuple(face.scale(stretch) for face in faces)

    def _look(self, picture: Pixels) -> tuple[DetectedFace, ...]:
        """The faces of a picture as it is."""
        # float32[1, 3, h, w] in BGR, black at right and below up to multiples of 32.
        height, width = picture.shape[:2]
        padded = np.zeros((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), dtype=np.float32)
        for channel in range(3):
            padded[0, channel, :height, :width] = picture[:, :, 2 - channel]
        outputs = self._session.run(padded)
        raw = dict(zip(self._session.output_names, outputs, strict=True))
        boxes, landmarks, scores = _decode(raw, picture.shape[1], self._config.min_score)
        return tuple(
            DetectedFace(
                _as_box(boxes[i]), np.tensordot(weights, landmarks, axes=1), float(scores[i])
            )
            for i, weights in _suppress(boxes, scores, self._config)
        )

    def _try_turns(self, view: _View) -> _View:
        """The turn of the picture in which its main face scores best.

        A picture in which no quarter turn shows a face has none: a slanted one is found in one. Of
        a large one that shows none, where turns cost more, only the usual slants are tried.
        """
        groups = [_SLANTED_DEG, _QUARTERS_DEG, _HANGING_DEG]
        if max(view.picture.shape) > self.first_side_px:
            groups = [_SLANTED_DEG]
        elif not view.faces:
            groups[:2] = _QUARTERS_DEG, _SLANTED_DEG
        for turns_deg in groups:
            turned = [self._turn(view.picture, turn_deg) for turn_deg in turns_deg]
            # A turn that shows only a bystander is none.
            seen = [one for one in turned if one.is_as_good(view)]
            view = max((view, *seen), key=lambda one: one.score)
            if not view.faces or view.score >= self._config.upright_score:
                break
        return view

    def _turn(self, picture: Pixels, turn_deg: float) -> _View:
        """The faces of the whole picture, turned."""
        height, width = picture.shape[:2]
        cosine, sine = (abs(ratio(math.radians(turn_deg))) for ratio in (math.cos, math.sin))
        span_px = (width * cosine + height * sine, width * sine + height * cosine)
        scale = min(1.0, max(self.first_side_px, height, width) / max(span_px))
        size_px = tuple(max(1, round(side * scale)) for side in span_px)
        centre = ((width - 1) / 2, (height - 1) / 2)
        return self._look_through(picture, turn_deg, scale, centre, size_px)

    def _look_through(
        self,
        picture: Pixels,
        turn_deg: float,
        scale: float,
        centre: tuple[float, float],
        size_px: tuple[int, int],
    ) -> _View:
        """The faces of what a window of `size_px` shows of the picture around `centre`."""
        matrix = cv2.getRotationMatrix2D(centre, turn_deg, scale)
        matrix[:, 2] = matrix[:, 2] - centre + (np.array(size_px) - 1) / 2
        window = cv2.warpAffine(picture, matrix, size_px, flags=cv2.INTER_LINEAR)
        found = self._look(np.asarray(window, dtype=np.uint8))
        back = np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64)
        return _View(picture, tuple(face.move(back) for face in found), turn_deg)

    def _level(self, view: _View, face: DetectedFace, hidden_deg: Sequence[float]) -> DetectedFace:
        """A face of the view as it is found when it is turned upright.

        First by what it seems tilted, then, if that does not make it sure, by each of `hidden_deg`.
        """
        config, turned_deg = self._config, view.turned_deg
        least_deg = _LAST_TILT_DEG if turned_deg else config.max_tilt_deg
        best, best_deg = self._follow_tilt(view.picture, face, turned_deg, least_deg)
        if best.score < config.sure_score:
            for turn_deg in hidden_deg:
                seen = self._look_at(view.picture, face, turn_deg)
                if seen is not None and seen.score > best.score:
                    best, best_deg = seen, turn_deg
            if hidden_deg:
                best, _ = self._follow_tilt(view.picture, best, best_deg, _LAST_TILT_DEG)
        return best

    def _follow_tilt(
        self,
        picture: Pixels,
        face: DetectedFace,
        turned_deg: float,
        least_deg: float,
        window: _Window = _WINDOW,
    ) -> tuple[DetectedFace, float]:
        """The face and its turn, turned on where it seems tilted by more than `least_deg`."""
        for _ in range(_MAX_TURNS):
            tilt_deg = _wrap(measure_tilt(face.landmarks_px) - turned_deg)
            if abs(tilt_deg) <= least_deg:
                break
            tilt_deg = max(-_MAX_TURN_DEG, min(_MAX_TURN_DEG, tilt_deg * _TRUE_TILT))
            seen = self._look_at(picture, face, turned_deg + tilt_deg, window)
            if seen is None or seen.score < face.score - _SCORE_SLACK:
                break
            face, turned_deg, least_deg = seen, turned_deg + tilt_deg, _LAST_TILT_DEG
        return face, turned_deg

    def _look_at(
        self, picture: Pixels, face: DetectedFace, turn_deg: float, window: _Window = _WINDOW
    ) -> DetectedFace | None:
        """The face as it is found in a window around it, if it is."""
        x, y, width, height = face.box_px
        centre = (x + width / 2, y + height / 2)
        heights, most_px = window
        wanted_px = max(heights * max(width, height), 1.0)
        side_px = math.ceil(min(wanted_px, most_px))
        view = self._look_through(
            picture, turn_deg, side_px / wanted_px, centre, (side_px, side_px)
        )
        middle = face.landmarks_px.mean(axis=0)
        offs = [float(np.hypot(*(one.landmarks_px.mean(axis=0) - middle))) for one in view.faces]
        if not offs or min(offs) > max(width, height) / 2:
            return None
        seen = view.faces[int(np.argmin(offs))]
        # Its box stays, so that it stays the main face.
        return DetectedFace(face.box_px, seen.landmarks_px, seen.score)


def measure_tilt(landmarks_px: Floats) -> float:
    """Degrees by which the lines of eyes and mouth are turned; positive: clockwise."""
    eyes, mouth = landmarks_px[1] - landmarks_px[0], landmarks_px[4] - landmarks_px[3]
    eyes_deg, mouth_deg = (math.degrees(math.atan2(line[1], line[0])) for line in (eyes, mouth))
    return _wrap(eyes_deg + _wrap(mouth_deg - eyes_deg) / 2)


def _wrap(angle_deg: float) -> float:
    """The same angle, from -180 to 180 degrees."""
    return (angle_deg + 180) % 360 - 180


def _as_box(values: Floats) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in values)
    return x, y, width, height


def _decode(raw: _Raw, width: int, min_score: float) -> tuple[Floats, Floats, Floats]:
    """Boxes float32[n, 4], landmarks float32[n, 5, 2] and scores float32[n] from `min_score`.

    Each cell of each stride proposes one face, relative to its own corner and in strides. Raises
    VectorUnusable where the model gave a number that is not finite.
    """
    class_score, object_score, box, points = (
        np.concatenate([raw[f"{kind}_{stride}"][0] for stride in _STRIDES]) for kind in _KINDS
    )
    if not all(np.isfinite(part).all() for part in (class_score, object_score, box, points)):
        raise VectorUnusable("the detector gave no finite numbers: report this photograph")
    score = np.sqrt(np.clip(class_score, 0, 1) * np.clip(object_score, 0, 1))[:, 0]
    (cells,) = np.nonzero(score >= min_score)
    counts = [raw[f"cls_{stride}"].shape[1] for stride in _STRIDES]
    stride = np.repeat(_STRIDES, counts)[cells]
    place = cells - np.repeat(np.cumsum(counts) - counts, counts)[cells]
    columns = -(-width // 32) * 32 // stride
    corner = np.stack([place % columns, place // columns], axis=1).astype(np.float32)
    scale = stride[:, None].astype(np.float32)
    size = np.exp(box[cells, 2:]) * scale
    centre = (corner + box[cells, :2]) * scale
    landmarks = (points[cells].reshape(-1, 5, 2) + corner[:, None, :]) * scale[:, None]
    return np.concatenate([centre - size / 2, size], axis=1), landmarks, score[cells]


def _suppress(
    boxes: Floats, scores: Floats, config: DetectorConfig
) -> Iterator[tuple[int, Floats]]:
    """Greedy non-maximum suppression, best score first.

    Yields the index of each face kept, and the weights float32[n] of all proposals in its
    landmarks.
    """
    near, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    area = boxes[:, 2] * boxes[:, 3]
    left = np.ones(len(scores), dtype=bool)
    for best in (int(i) for i in np.argsort(-scores, kind="stable")):
        if not left[best]:
            continue
        side = np.minimum(far[best], far) - np.maximum(near[best], near)
        shared = np.prod(np.maximum(side, 0), axis=1)
        overlap = shared / (area[best] + area - shared)
        overlap[best] = 1
        sharing = left & (overlap >= config.shared_overlap)
        # A proposal at the threshold has weight 0, so landmarks change continuously.
        weights = np.where(sharing, scores - config.min_score + 1e-6, 0).astype(np.float32)
        yield best, weights / weights.sum()
        left &= overlap <= config.max_overlap


_INSIDE = 0.5


def choose_main_face(
    faces: Sequence[DetectedFace], size_px: tuple[int, int], point: Sequence[float] | None = None
) -> int:
    """Index of the face of the greatest prominence, or of the one nearest to a point; `size_px` is
    that of the picture."""
    if point is not None:
        return min(range(len(faces)), key=lambda at: measure_offset(faces[at], size_px, point))
    return max(range(len(faces)), key=lambda index: measure_prominence(faces[index], size_px))


def measure_offset(face: DetectedFace, size_px: tuple[int, int], point: Sequence[float]) -> float:
    """How far a point lies from the face's centre, in sides of its box: half inside of it."""
    x, y, width, height = face.box_px
    across = abs(point[0] * size_px[0] - x - width / 2) / width
    return max(across, abs(point[1] * size_px[1] - y - height / 2) / height)


def measure_prominence(face: DetectedFace, size_px: tuple[int, int]) -> float:
    """Height of a face, less the farther from the picture's centre it is: in a corner half.

    `size_px` is (width, height) in the face's coordinates.
    """
    x, y, width, height = face.box_px
    off_centre = math.hypot((x + width / 2) / size_px[0] - 0.5, (y + height / 2) / size_px[1] - 0.5)
    return height * (1 - min(off_centre / math.sqrt(2), 0.5))


def has_competing_face(
    faces: Sequence[DetectedFace], main: int, size_px: tuple[int, int], share: float
) -> bool:
    """True where another face has at least this share of the main one's prominence."""
    least = measure_prominence(faces[main], size_px) * share
    return any(
        measure_prominence(face, size_px) >= least for i, face in enumerate(faces) if i != main
    )
