"""The Python client of the match service: needs httpx and msgpack, nothing else of Sosie's.

with Client("https://sosie.example", api_key) as client:
    activation = Activation(document=..., msisdn=..., live=..., portrait=..., ...)
    keep(activation.idempotency_key)
    answer = client.enroll(activation)
"""

from serving.client.answers import (
    HolderLines,
    Identification,
    MatchResult,
    Templates,
    Verification,
)
from serving.client.asynchronous import AsyncClient
from serving.client.blocking import Client
from serving.client.decisions import Enrollment, EnrollmentRecord
from serving.client.failures import ApiError, CallFailed, Unavailable
from serving.client.requests import (
    Activation,
    Document,
    Face,
    KnownDocument,
    MatchItem,
    Options,
    Template,
)

__all__ = [
    "Activation",
    "ApiError",
    "AsyncClient",
    "CallFailed",
    "Client",
    "Document",
    "Enrollment",
    "EnrollmentRecord",
    "Face",
    "HolderLines",
    "Identification",
    "KnownDocument",
    "MatchItem",
    "MatchResult",
    "Options",
    "Template",
    "Templates",
    "Unavailable",
    "Verification",
]
