"""The Python client of the match service: needs httpx and msgspec, nothing else of Sosie's.

with Client("https://sosie.example", api_key) as client:
    activation = Activation(document=..., msisdn=..., live=..., portrait=..., ...)
    keep(activation.idempotency_key)
    answer = client.enroll(activation)

Answers are types of `serving.wire`; the most used are here, too.
"""

from serving.client.async_client import AsyncClient
from serving.client.client import Client
from serving.client.transport import (
    Activation,
    ApiError,
    CallFailed,
    Face,
    MatchItem,
    Options,
    Unavailable,
)
from serving.wire.cases import Case, CaseFile, CasePage
from serving.wire.enrollments import Enrollment, EnrollmentRecord, Erasure, ErasureCertificate
from serving.wire.fields import Document, KnownDocument, Template
from serving.wire.lines import HolderLines
from serving.wire.matching import MatchResult, Templates, Verification
from serving.wire.people import Identification, People, Person
from serving.wire.sweeps import Expectation, Group, Sweep, SweepReport
from serving.wire.sweeps import SweepRequest as SweepTerms

__all__ = [
    "Activation",
    "ApiError",
    "AsyncClient",
    "CallFailed",
    "Case",
    "CaseFile",
    "CasePage",
    "Client",
    "Document",
    "Enrollment",
    "EnrollmentRecord",
    "Erasure",
    "ErasureCertificate",
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
    "SweepReport",
    "SweepTerms",
    "Template",
    "Templates",
    "Unavailable",
    "Verification",
]
