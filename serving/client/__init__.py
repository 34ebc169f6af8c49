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
from serving.client.casework import CaseFile, CasePage, CaseRow, People, Person
from serving.client.decisions import Enrollment, EnrollmentRecord
from serving.client.failures import ApiError, CallFailed, Unavailable
from serving.client.requests import (
    Activation,
    Document,
    Face,
    KnownDocument,
    MatchItem,
    Options,
    SweepTerms,
    Template,
)
from serving.client.sweeps import Expectation, Group, Sweep

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
