"""Identity documents as they are presented, and what is said of an erased one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field

from engine.matching.documents import (
    DOCUMENT_TYPES,
    MAX_NAME_LENGTH,
    MAX_NUMBER_LENGTH,
    Document,
)
from serving.api.fields import ID_EXAMPLE, Body, Day, Shown, Text

DocumentType = Annotated[
    Text, Field(min_length=1, max_length=32, json_schema_extra={"enum": list(DOCUMENT_TYPES)})
]
DocumentNumber = Annotated[
    Text,
    Field(
        min_length=1,
        max_length=MAX_NUMBER_LENGTH,
        repr=False,
        description="as printed; of a passport the machine readable zone",
    ),
]
HolderName = Annotated[
    Text, Field(min_length=1, max_length=MAX_NAME_LENGTH, repr=False, description="as printed")
]


class PresentedDocument(Body):
    """A document in somebody's hands."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "cn-ric",
                    "number": "110105199003071239",
                    "name": "Aileen Probe",
                    "expires_on": "2036-01-31",
                }
            ]
        }
    )

    type: DocumentType
    number: DocumentNumber
    name: HolderName
    expires_on: Day | None = None

    def read(self) -> Document:
        return Document(self.type, self.number, self.name, self.expires_on)


class KnownDocument(Body):
    """A document that is looked up: type and number alone identify it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"type": "cn-ric", "number": "110105199003071239"}]}
    )

    type: DocumentType
    number: DocumentNumber

    def read(self) -> Document:
        return Document(self.type, self.number, "any holder")


class ErasureAnswer(Shown):
    """The certificate of an erasure: from `gallery_sequence` on no search sees the holder."""

    document_id: str = Field(examples=[ID_EXAMPLE])
    references: int
    lines: int
    gallery_sequence: int
    erased_at: datetime
    audit_number: int
    audit_hash: str
