"""Quality measures of a photograph of a face, and the reasons to ask for a new one.

The detector places all five landmarks on a covered face too: dark glasses show in the light about
the eyes, other covers by the length of the embedder's vector alone.
"""

import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelCardInvalid, VectorUnusable
from engine.faces.embedder import CropScorer, Pixels, align, arcface_template, estimate_similarity
from engine.models.catalog import ModelCard
from indexes.base import Floats
from schema import frozen
from schema.options import QualityLimits
from schema.reasons import Reason

# Of a frontal face, in eye distances: how far the mouth lies below the line of the eyes (ArcFace
# template), and how far the nose tip stands out before the plane of eyes and mouth.
_MOUTH_DROP, _NOSE_DEPTH = 1.155, 0.5
# How far down from eyes to mouth YuNet puts the nose tip: the median of LFW.
_NOSE_SHARE = 0.56

# A portrait in eye distances: four and a half wide, five and a half high, as on most documents.
_PORTRAIT_SQUARES = 25

# Inside the 112x112 ArcFace crop: brows to chin, ear to ear, without hair and background.
_CROP_SIDE_PX = 112
_FACE_ROWS, _FACE_COLUMNS = slice(36, 104), slice(24, 88)
_EYES, _MOUTH = (slice(40, 66), slice(40, 72)), (slice(76, 100), slice(36, 76))
# The same in the inner face: where a lens of dark glasses is, and the cheek below.
_LENSES = (slice(8, 24), slice(4, 26)), (slice(8, 24), slice(38, 60))
_CHEEKS = (slice(28, 42), slice(4, 20)), (slice(28, 42), slice(44, 60))
_FOREHEAD = slice(16, 34), slice(40, 72)  # of the crop
_LENS_PIXEL = 263  # of the 352 of a lens by their luma: three quarters are darker

# Bends over so many pixels of the crop tell a face; over one, edges, noise and what motion leaves.
_BEND_PX = 3
# The same without what is wider, as light from one side and glare are: then finer bends tell, and
# the factor brings both to one limit.
_SHADING_PX, _FINE_BEND_PX, _FINE_FACTOR = 8, 2, 1.25

# What an unclear face shows of the cause: pixels between the eyes, shares and ratios of `Quality`.
# Fitted on 124 of LFW's people, looked at on 98 others (docs/decisions/0037).
_SMALL_PX, _CUT_SHARE, _DARK, _BURNT_SHARE, _DETAIL_BYTES = 14.0, 0.1, 0.19, 0.03, 150.0
_PLAIN, _TINTED, _UNEVEN, _SOFT = 0.35, 0.1, 0.75, 0.47
# Where nothing else shows, an unclear face is small; one bare of texture below the eyes is masked.
_UNCLEAR_PX, _BARE = 20.0, 0.2
# The same where the face reads as blurred, which light and masks do too.
_SURELY_TINTED, _SURELY_UNEVEN = 0.14, 0.5
# So much darker on one side, a tinted face is not covered and a dark one is lit from a side; the
# second is that of a face that shows nothing else.
_LOPSIDED, _HARDLY_EVEN = 0.6, 0.85
# Under a forehead that dark, as a hat leaves it, so many times more light is asked at the eyes.
_HATTED, _SHADED = 0.4, 1.6
# By so much more the vector has to be long where one of these shows, or noise: bends that few faces
# have.
_RAISED, _SUSPECT = 0.04, frozenset({Reason.TOO_DARK, Reason.FACE_COVERED, Reason.BLURRED})
_GRAINY = 0.9
_WHITE, _NIGHT, _WASHED_OUT = 250, 16, 0.5
# A face that is burnt out in more than a spot, or so bright beside it, is not lit by a lamp in one
# place.
_LARGEST_SPOT, _BRIGHT = 0.35, 0.72

# Points of the crop from forehead to chin and ear to ear.
_WHOLE_FACE = np.stack(
    np.meshgrid(np.linspace(16, 96, 17), np.linspace(16, 112, 17)), axis=-1
).reshape(-1, 2)


@frozen
class Quality:
    """Quality measures of one face.

    `inter_eye_px`: distance of the eyes in the original picture.
    `sharpness`: standard deviation of the luma's second difference over 3 pixels of the aligned
    crop, in the direction where it is smallest of four, over that of the luma itself; or, where
    that is more, 1.25 times the same over 2 pixels of the luma without what is wider than 8. Motion
    blurs along one direction only, which a Laplacian hardly sees; contrast, exposure, light from
    one side and glare cancel out.
    `exposure`, `contrast`: mean of the luma, and its spread from the 5th to the 95th percentile,
    0 to 1.
    `yaw_deg` (positive: the nose points right in the picture), `pitch_deg` (positive: up),
    `roll_deg` (positive: clockwise in the picture).
    `detection_score`: the detector's, 0 to 1.
    `detail_bytes`: what the file spends on a square of one eye distance, as if what lies around a
    portrait cost nothing; strong compression leaves few, and sharp edges where there was a face.
    `cut_share`: how much of the face, from forehead to chin and ear to ear, lies outside of the
    picture.
    `second_face`: height of the highest other face in the picture, in that of this one.
    `burnt_share`: how many of the inner face's pixels are white.
    `evenness`: luma of the darker side of the inner face, in that of the lighter one.
    `lower_texture`, `lower_tint`: fine bends of nose and mouth in those about the eyes, and how far
    the colour of the one is from that of the other; a mask has little texture, or another colour.
    `eye_light`, `forehead_light`: luma about the lighter eye, its 75th percentile, and of the
    forehead, in the mean of the cheeks; dark glasses and hats leave little.
    `clarity`: how long the embedder's vector is before it gets unit length, 1 for a usual face; a
    covered, blurred or otherwise unclear face gives a short one. 1 where the model's card does not
    say what is usual.
    """

    inter_eye_px: float
    sharpness: float
    exposure: float
    contrast: float
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    detection_score: float
    detail_bytes: float
    cut_share: float
    clarity: float = 1.0
    second_face: float = 0.0
    burnt_share: float = 0.0
    evenness: float = 1.0
    lower_texture: float = 1.0
    lower_tint: float = 0.0
    eye_light: float = 1.0
    forehead_light: float = 1.0


def measure_quality(
    crop: Pixels,
    landmarks_px: Floats,
    detection_score: float,
    coded_bytes: int,
    size_px: tuple[int, int],
) -> Quality:
    """Measure an aligned crop uint8[side, side, 3] and its landmarks float32[5, 2].

    The landmarks, `size_px` (width, height) and the bytes of the file are the original picture's.
    """
    side = (_CROP_SIDE_PX, _CROP_SIDE_PX)
    crop = np.asarray(cv2.resize(crop, side, interpolation=cv2.INTER_AREA), np.uint8)
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    luma = grey[_FACE_ROWS, _FACE_COLUMNS].astype(np.float32)
    low, high = _find_spread(luma)
    yaw, pitch, roll = estimate_pose(landmarks_px)
    inter_eye_px = float(np.hypot(*(landmarks_px[1] - landmarks_px[0])))
    squares = size_px[0] * size_px[1] / max(inter_eye_px, 1.0) ** 2
    eyes = max(np.partition(luma[one].ravel(), _LENS_PIXEL)[_LENS_PIXEL] for one in _LENSES)
    cheeks = max(float(sum(luma[one].mean() for one in _CHEEKS)) / 2, 1.0)
    return Quality(
        inter_eye_px=inter_eye_px,
        sharpness=_measure_sharpness(luma),
        exposure=float(luma.mean()) / 255,
        contrast=float(high - low) / 255,
        yaw_deg=yaw,
        pitch_deg=pitch,
        roll_deg=roll,
        detection_score=detection_score,
        detail_bytes=coded_bytes / min(squares, _PORTRAIT_SQUARES),
        cut_share=_measure_cut(landmarks_px, size_px),
        burnt_share=float((luma >= _WHITE).mean()),
        evenness=_measure_evenness(luma),
        lower_texture=_measure_texture(luma),
        lower_tint=_measure_tint(crop),
        eye_light=float(eyes) / cheeks,
        forehead_light=float(grey[_FOREHEAD].mean()) / cheeks,
    )


def estimate_pose(landmarks_px: Floats) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees from five landmarks, by the geometry of an average face.

    Roll is the angle of the line of the eyes. Yaw and pitch come from where the nose tip lies
    between eyes and mouth; faces differ, so they are good to about 10 degrees and understate
    profiles, of which the detector no longer sees both eyes.
    """
    points = landmarks_px.astype(np.float64) @ [1, 1j]
    line = points[1] - points[0]
    if abs(line) == 0:
        return 0.0, 0.0, 0.0
    # In eye distances, turned so that the eyes are level; y points down.
    points = (points - (points[0] + points[1]) / 2) / line
    nose, mouth = points[2], (points[3] + points[4]) / 2
    drop = max(mouth.imag, 0.1)
    share = nose.imag / drop
    beside = nose.real - share * mouth.real
    yaw = math.atan2(beside, _NOSE_DEPTH)
    pitch = math.atan2((_NOSE_SHARE - share) * _MOUTH_DROP, _NOSE_DEPTH)
    roll = math.atan2(line.imag, line.real)
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def find_problems(
    quality: Quality, limits: QualityLimits, missed: Iterable[Reason] = ()
) -> tuple[Reason, ...]:
    """Reasons to ask for a new photograph, the one to mend first at the front, with those of the
    limits that were `missed`; empty where the face is fit for enrollment."""
    turned = (
        abs(quality.yaw_deg) > limits.max_yaw_deg
        or abs(quality.pitch_deg) > limits.max_pitch_deg
        or abs(quality.roll_deg) > limits.max_roll_deg
    )
    is_coarse = quality.detail_bytes < limits.min_detail_bytes
    is_small = is_coarse and quality.inter_eye_px < _SMALL_PX
    is_burnt = quality.burnt_share > limits.max_burnt_share
    eyes = quality.eye_light / (_SHADED if quality.forehead_light < _HATTED else 1)
    found = {
        Reason.FACE_TOO_SMALL: is_small or quality.inter_eye_px < limits.min_inter_eye_px,
        Reason.TOO_DARK: quality.exposure < limits.min_exposure,
        Reason.TOO_BRIGHT: quality.exposure > limits.max_exposure,
        Reason.LOW_CONTRAST: quality.contrast < limits.min_contrast,
        Reason.COMPRESSED: is_coarse,
        Reason.FACE_CUT: quality.cut_share > limits.max_cut_share,
        Reason.FACE_COVERED: eyes < limits.min_eye_light,
        Reason.GLARE: is_burnt and quality.exposure <= _BRIGHT,
        Reason.POSE: turned,
    }
    if quality.sharpness < limits.min_sharpness:
        cause = _find_cause(quality, _SURELY_TINTED, _SURELY_UNEVEN)
        found[Reason.BLURRED if cause is Reason.UNCLEAR else cause] = True
    found |= dict.fromkeys(missed, True)
    return tuple(reason for reason in Reason if found.get(reason))


def judge_clarity(quality: Quality, limits: QualityLimits) -> tuple[Reason, ...]:
    """The cause that an unclear face shows, or UNCLEAR; empty for a clear one."""
    cause = _find_cause(quality, _TINTED, _UNEVEN)
    if cause is Reason.UNCLEAR and quality.evenness < _HARDLY_EVEN:
        cause = Reason.SIDE_LIGHT
    is_dark = cause is Reason.SIDE_LIGHT and quality.exposure < _DARK
    is_suspect = cause in _SUSPECT or is_dark or quality.sharpness > _GRAINY
    least = limits.min_clarity + (_RAISED if is_suspect and limits.min_clarity else 0)
    return (cause,) if quality.clarity < least else ()


def _find_cause(quality: Quality, tinted: float, uneven: float) -> Reason:
    """The first cause of which there is a sign; UNCLEAR for none."""
    # Light from one side tints a face that has texture, and darkens half of it.
    is_lopsided = quality.evenness < _LOPSIDED and quality.lower_texture > 1
    is_tinted = quality.lower_tint > tinted and not is_lopsided
    is_covered = quality.lower_texture < _PLAIN or is_tinted
    is_dark = quality.exposure < _DARK and quality.evenness >= _LOPSIDED
    burnt = quality.burnt_share
    is_bright = burnt > _LARGEST_SPOT or quality.exposure - burnt > _BRIGHT * (1 - burnt)
    signs = {
        Reason.FACE_TOO_SMALL: quality.inter_eye_px < _SMALL_PX,
        Reason.FACE_CUT: quality.cut_share > _CUT_SHARE,
        Reason.TOO_DARK: is_dark and quality.lower_texture >= _BARE,
        Reason.TOO_BRIGHT: burnt > _BURNT_SHARE and is_bright,
        Reason.GLARE: burnt > _BURNT_SHARE,
        Reason.COMPRESSED: quality.detail_bytes < _DETAIL_BYTES,
        Reason.FACE_COVERED: is_covered,
        Reason.SIDE_LIGHT: quality.evenness < uneven,
        Reason.BLURRED: quality.sharpness < _SOFT,
    }
    cause = next((reason for reason, shows in signs.items() if shows), Reason.UNCLEAR)
    # No cause of which more clarity is asked gives way.
    is_small = quality.inter_eye_px < _UNCLEAR_PX and cause in (Reason.UNCLEAR, Reason.SIDE_LIGHT)
    return Reason.FACE_TOO_SMALL if is_small else cause


class QualityMeasure(CropScorer):
    """Runs an operator's model of role `quality` by its card, on the CPU; thread-safe."""

    def __init__(self, card: ModelCard) -> None:
        if card.quality is None:
            raise ModelCardInvalid(
                f"model {card.name} is of role {card.role}: `models` under [quality] takes those "
                "of role quality"
            )
        self.contract = by = card.quality
        super().__init__(card, by)
        self.name, self._template = by.measure, arcface_template(self.side_px)
        if by.eyes_px is not None:
            eyes = np.array(by.eyes_px, np.float32).reshape(2, 2)
            moved = estimate_similarity(self._template[:2], eyes)
            self._template = (self._template @ moved[:, :2].T + moved[:, 2]).astype(np.float32)

    def measure(self, pixels: Pixels, landmarks_px: Floats) -> float:
        """The quality, 0 to 100, of the face with `landmarks_px` float32[5, 2] in a picture.

        Raises VectorUnusable where the model gives no number.
        """
        crop = align(pixels, landmarks_px, self.side_px, self._template)
        x, by = self._read(crop[None])[0, self._index], self.contract
        with np.errstate(all="ignore"):
            share = x if by.w is None else 1 / (1 + np.exp((by.x0 - x) / by.w))
            quality = float(by.h * (by.a + by.s * share))
        if not math.isfinite(quality):
            raise VectorUnusable(f"{self.name} is no number: report this photograph")
        return math.floor(min(max(quality, 0.0), 100.0) + 0.5)

    def measure_scale(self, landmarks_px: Floats) -> float:
        """Pixels of its crop for a pixel of the picture."""
        matrix = estimate_similarity(landmarks_px, self._template)
        return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def judge_light(pixels: Pixels) -> tuple[Reason, ...]:
    """The light in the middle of a picture uint8[h, w, 3] that lets no face be found there."""
    height, width = pixels.shape[:2]
    top, left = height // 3, width // 3
    middle = pixels[top : height - top, left : width - left]
    if middle.mean() < _NIGHT:
        return (Reason.TOO_DARK,)
    return (Reason.TOO_BRIGHT,) if (middle >= _WHITE).mean() > _WASHED_OUT else ()


def _measure_cut(landmarks_px: Floats, size_px: tuple[int, int]) -> float:
    matrix = estimate_similarity(arcface_template(_CROP_SIDE_PX), landmarks_px)
    points = _WHOLE_FACE @ matrix[:, :2].T + matrix[:, 2]
    is_outside = (points < -0.5) | (points > np.array(size_px) - 0.5)
    return float(is_outside.any(axis=1).mean())


def _measure_sharpness(luma: Floats) -> float:
    flat = luma - cv2.GaussianBlur(luma, (0, 0), _SHADING_PX)
    return max(_measure_bends(luma, _BEND_PX), _FINE_FACTOR * _measure_bends(flat, _FINE_BEND_PX))


def _measure_bends(luma: Floats, step: int) -> float:
    before, here, after = slice(None, -2 * step), slice(step, -step), slice(2 * step, None)
    centre = 2 * luma[here, here]
    bends = (
        luma[here, after] - centre + luma[here, before],
        luma[after, here] - centre + luma[before, here],
        # Neighbours on a diagonal are sqrt(2) as far apart, so they bend twice as much.
        (luma[after, after] - centre + luma[before, before]) / 2,
        (luma[after, before] - centre + luma[before, after]) / 2,
    )
    return min(_measure_deviation(bend) for bend in bends) / max(_measure_deviation(luma), 1.0)


def _measure_deviation(values: NDArray[np.floating]) -> float:
    # A third of the time of ndarray.std.
    return float(cv2.meanStdDev(values)[1][0, 0])


def _find_spread(luma: Floats) -> tuple[float, float]:
    """The grey levels, whole from 0 to 255, that 5 and 95 per cent of the pixels do not exceed."""
    counts = np.bincount(luma.ravel().astype(np.uint8), minlength=256).cumsum()
    low, high = np.searchsorted(counts, np.array([0.05, 0.95]) * (luma.size - 1), side="right")
    return float(low), float(high)


def _measure_evenness(luma: Floats) -> float:
    across = luma.mean(axis=0)
    sides = float(across[4:16].mean()), float(across[-16:-4].mean())
    return min(sides) / max(*sides, 1.0)


def _measure_texture(luma: Floats) -> float:
    upper, lower = (
        float(np.abs(cv2.Laplacian(luma[rows, 4:60], cv2.CV_32F)[1:-1, 1:-1]).mean())
        for rows in (slice(0, 28), slice(36, 64))
    )
    # Of a flat picture neither says anything.
    return (lower + 0.1) / (upper + 0.1)


def _measure_tint(crop: Pixels) -> float:
    """The sum of the differences of the three colours' shares of the light."""
    eyes, mouth = (np.array(cv2.mean(crop[part])[:3]) for part in (_EYES, _MOUTH))
    return float(np.abs(eyes / max(eyes.sum(), 1.0) - mouth / max(mouth.sum(), 1.0)).sum())
