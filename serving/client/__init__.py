"""The Python client of the match service: needs httpx and msgpack, nothing else of Sosie's.

with Client("https://sosie.example", api_key) as client:
    activation = Activation(document=..., msisdn=..., live=..., portrait=..., ...)
    keep(activation.idempotency_key)
    answer = client.enroll(activation)
"""

from serving.client.async_client import AsyncClient
from serving.client.calls import (
    Activation,
    Document,
    Face,
    KnownDocument,
    MatchItem,
    Options,
    SweepTerms,
    Template,
)
from serving.client.client import Client
from serving.client.models import (
    CaseFile,
    CasePage,
    CaseRow,
    Enrollment,
    EnrollmentRecord,
    Expectation,
    Group,
    HolderLines,
    Identification,
    MatchResult,
    People,
    Person,
    Sweep,
    Templates,
    Verification,
)
from serving.client.transport import ApiError, CallFailed, Unavailable

__all__ = [
    "Activation",
    "ApiError",
    "AsyncClient",
    "CallFailed",
    "CaseFile",
    "CasePage",
    "CaseRow",
    "Client",
    "Document",
    "Enrollment",
    "EnrollmentRecord",
    "Expectation",
    "Face",
    "Group",
    "HolderLines",
    "Identification",
    "KnownDocument",
    "MatchItem",
    "MatchResult",
    "Options",
    "People",
    "Person",
    "Sweep",
    "SweepTerms",
    "Template",
    "Templates",
    "Unavailable",
    "Verification",
]
