"""Base classes of the wire types, fields that several share, and their JSON and MessagePack forms.
Routes build them, the OpenAPI document describes them, command line and client read them: nothing
here imports more than msgspec and the standard library."""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from schema import documents
from schema.decoding import StrictValue, Value, prepare
from schema.people import ProofWay
from schema.reasons import PhotographKind

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

ID_EXAMPLE = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
HOLDER_EXAMPLE = "9f2c4e0b71d85a36c8e1f4072b6d9a53"
IMAGE_EXAMPLE = "/9j/4AAQSkZJRgABAQAAAQABAAD/2Q=="
MAX_PAGE = 200
PAGE = 50

_FROM_URL = bytes.maketrans(b"-_+/=", b"+/\0\0\0")


YEARS = range(1900, 2201)


class Moment(datetime):
    """A point in time, with a time zone; an ISO 8601 text in JSON and in MessagePack."""

    @classmethod
    def read(cls, value: object) -> Self:
        """From a text; `ValueError` with a message that does not repeat it."""
        form = "write it as 2026-01-31T12:00:00Z"
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise ValueError(f"not a moment: {form}")
        try:
            moment = cls.fromisoformat(value)
        except ValueError:
            raise ValueError(f"not a moment: {form}") from None
        if moment.tzinfo is None:
            raise ValueError(f"has no time zone: {form}")
        if moment.year not in YEARS:
            # In another zone the first and the last moments that there are would be none.
            raise ValueError(f"lies before 1900 or after 2200: {form}")
        return moment

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """The same moment as this type."""
        return cls.combine(moment, moment.timetz())


class Template(bytes):
    """A template that the service issued: base64url without padding in JSON, binary in MessagePack.

    MessagePack may hold the text, too. A text that is no template becomes one that opens nowhere.
    """

    __slots__ = ()

    @classmethod
    def read(cls, value: object) -> Self:
        """From either form; `ValueError` where it is neither."""
        if isinstance(value, bytes):
            return cls(value)
        if not isinstance(value, str):
            raise ValueError("neither text nor binary")
        try:
            letters = value.encode("ascii").translate(_FROM_URL)
            token = cls(binascii.a2b_base64(letters + b"=" * (-len(letters) % 4), strict_mode=True))
        except ValueError:
            return cls()
        # The last letter has bits that no byte takes; a template has one text and no other.
        rest = len(token) % 3
        return token if not rest or cls(token[-rest:]).text == value[-rest - 1 :] else cls()

    @property
    def text(self) -> str:
        return base64.urlsafe_b64encode(self).rstrip(b"=").decode()

    def __repr__(self) -> str:
        return f"Template({len(self)} bytes)"


class RequestBody(StrictValue):
    """What a client sends: nothing unforeseen in it, and nothing of it in a repr or an error."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            texts = value if type(value) is tuple else (value,)
            # PostgreSQL stores none. Half of a surrogate pair passes no decoder.
            if any(type(text) is str and "\0" in text for text in texts):
                raise ValueError(f"{name} holds characters that are no text")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class QueryString(RequestBody):
    """A query string: an unknown name is refused, or a filter would be lost by a slip.

    Of a name that is `repeated` every value counts, of any other the last.
    """

    repeated: ClassVar[frozenset[str]] = frozenset()


class AnswerBody(Value):
    """What an answer holds. Later versions may add to it: clients ignore what they don't know."""


class PrivateAnswer(AnswerBody):
    """An answer that shows nothing of itself in a repr."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


def about(text: str, **bounds: Any) -> Meta:
    """What a field is, in words, and its bounds."""
    return Meta(description=text, **bounds)


def known(*values: str) -> Meta:
    """The values of a text that this version knows: described, and not required of later ones."""
    return Meta(extra_json_schema={"enum": list(values)})


Status = Annotated[int, Meta(ge=400, le=599, examples=[422])]
ErrorCode = Annotated[str, Meta(examples=["MATCH.NO_FACE"])]
WrongFields = Annotated[
    tuple[str, ...],
    about(
        "JSON Pointers (RFC 6901) to the fields that are wrong, where they are known",
        examples=[["/document/number"]],
    ),
]
Advice = Annotated[Mapping[str, str], about("what to do next, a sentence by language (en, zh, ko)")]


class Error(AnswerBody, omit_defaults=True):
    """An error: `code` is stable, `message` one line for people, without anything personal."""

    status: Status
    code: ErrorCode
    message: str
    fields: WrongFields = ()
    advice: Advice | None = None


class Problem(AnswerBody, omit_defaults=True):
    """An error for clients that accept `application/problem+json` (RFC 9457)."""

    title: str
    status: Status
    detail: str
    code: ErrorCode
    type: str = "about:blank"
    fields: WrongFields = ()
    advice: Advice | None = None


Id = Annotated[str, Meta(examples=[ID_EXAMPLE])]
Code = Annotated[str, Meta(min_length=1, max_length=64)]
Msisdn = Annotated[
    str, about("a telephone number, +<country><number>", min_length=1, max_length=64)
]
LivenessToken = Annotated[
    str,
    about(
        "the capture system's signed result of its liveness check, a compact JWS; see Liveness "
        "in docs/api.md",
        min_length=1,
        max_length=4096,
    ),
]
ProofToken = Annotated[
    str,
    about(
        "another proof in place of the face, signed by who made it, a compact JWS; see Another "
        "way than a face in docs/people.md",
        min_length=1,
        max_length=4096,
    ),
]
MatchWord = Annotated[
    str | None, about("`[thresholds] match_word` of two faces that match; null of others")
]
OtherWays = Annotated[
    tuple[Annotated[str, known(*ProofWay)], ...],
    about("of a `proof` that the carrier takes, where no face was shown to be the document's"),
]
TriesLeft = Annotated[
    int | None,
    about(
        "of a face under the document that was not shown, before another way must be offered; "
        "null where they are not counted, or it was"
    ),
]
Photograph = Annotated[
    bytes,
    about(
        "JPEG, JPEG 2000, PNG or WebP, or a document's record of one (ISO/IEC 19794-5, "
        "39794-5, data group 2): base64 in JSON, binary in MessagePack, a part named by its "
        "field (`live`, `probe`, `items.0.probe`) in a form",
        extra_json_schema={"format": "byte"},
    ),
]
MAX_FRAMES = 8
Frames = Annotated[
    tuple[Photograph, ...],
    about(
        "frames of one face, taken one after the other: each is judged, those that are fit are "
        "fused, and those of several people are refused (LIVE_FRAMES_DIFFER). In a form, parts "
        "of one name",
        min_length=1,
        max_length=MAX_FRAMES,
    ),
]
SentKind = Annotated[
    PhotographKind,
    about(
        "what the photograph is, and so how good it must be: taken of a person, of a document, "
        "or read from its chip. Where it is not told, a document's record is `chip`, all else "
        "is held to the limits of `live`"
    ),
]
FacePoint = Annotated[
    tuple[Annotated[float, Meta(ge=0, le=1)], ...],
    about(
        "a point of the face that is meant, as shares of the width and height of the upright "
        "picture, from its top left; in no face it is NO_FACE, and beside it evidence of liveness "
        "is LIVENESS_MISBOUND. Left out: the most prominent face",
        min_length=2,
        max_length=2,
    ),
]
Score = Annotated[float, Meta(ge=-1, le=1)]
Limit = Annotated[int, about("how many at most", ge=1, le=MAX_PAGE)]
After = Annotated[str, about("`next` of the page before", min_length=1, max_length=64)]
NextPage = Annotated[str | None, about("`after` of the next page; null on the last")]
NextNumber = Annotated[int | None, about("`after` of the next page; null on the last")]


class Document(documents.Document, RequestBody):
    """A document in somebody's hands."""


class KnownDocument(RequestBody):
    """A document that is looked up: type and number alone identify it."""

    type: documents.DocumentType
    number: documents.DocumentNumber


def list_frames(image: bytes | Frames) -> tuple[bytes, ...]:
    """The frames of a face, of which one may be given by itself."""
    return (image,) if isinstance(image, bytes) else image


Invalid = msgspec.ValidationError
"""A value that is not of the type it is read as. Of an enumeration its text holds the value."""


def encode_json(value: object) -> bytes:
    """JSON in UTF-8; bytes are base64 (RFC 4648, section 4)."""
    return _JSON.encode(value)


def encode_msgpack(value: object) -> bytes:
    """MessagePack without extension types."""
    return _MSGPACK.encode(value)


def decode_json(body: bytes, kind: type[T]) -> T:
    """`Invalid`, or `msgspec.DecodeError` where it is not JSON."""
    return msgspec.json.decode(body, type=prepare(kind), dec_hook=_read_field)


def decode_msgpack(body: bytes, kind: type[T]) -> T:
    """`Invalid`, or `msgspec.DecodeError` where it is not MessagePack."""
    return msgspec.msgpack.decode(body, type=prepare(kind), dec_hook=_read_field)


def read(value: object, kind: type[T], *, is_text: bool = False) -> T:
    """Decoded values as this type; where all of them are texts, numbers are read from them."""
    return msgspec.convert(value, prepare(kind), strict=not is_text, dec_hook=_read_field)


def prepare_below(*kinds: type[Struct]) -> None:
    """Describes all types that derive from these, so that no request waits for it."""
    for kind in kinds:
        prepare(kind)
        prepare_below(*kind.__subclasses__())


def of_record(kind: type[S], *records: object, **more: Any) -> S:
    """A wire type from `more`, and its other fields, nested ones included, from those of the same
    names of the first record that has them."""
    names = [name for name in kind.__struct_fields__ if name not in more]
    given = more | {
        name: next(getattr(one, name) for one in records if hasattr(one, name)) for name in names
    }
    return msgspec.convert(given, prepare(kind), from_attributes=True, dec_hook=_copy_field)


def plain(value: object) -> Any:
    """The plain values that `encode_json` writes."""
    return msgspec.to_builtins(value, enc_hook=_write_json)


def _read_field(kind: type[Any], value: Any) -> Any:
    return cast(Any, kind).read(value)


def _copy_field(kind: type[Any], value: Any) -> Any:
    return Moment.of(value) if isinstance(value, datetime) else _read_field(kind, value)


def _write_json(value: Any) -> Any:
    return value.text if isinstance(value, Template) else _write(value)


def _write(value: Any) -> Any:
    if isinstance(value, Moment):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form on the wire")


_JSON = msgspec.json.Encoder(enc_hook=_write_json)
_MSGPACK = msgspec.msgpack.Encoder(
    enc_hook=lambda value: bytes(value) if isinstance(value, Template) else _write(value)
)
