"""Certificates as files: JSON, one document each."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine.errors import RequestError
from engine.matching.holders import ErasureCertificate
from engine.retention.certificates import Certificate
from engine.retention.job import RetentionCertificate

MAX_BYTES = 64 * 1024
_KINDS = (TypeAdapter(ErasureCertificate), TypeAdapter(RetentionCertificate))


def write_certificate(made: Certificate) -> dict[str, Any]:
    """A certificate as JSON values."""
    values: dict[str, Any] = _plain(asdict(made))
    return values


def save_certificate(target: Path, values: dict[str, Any]) -> None:
    """Writes a certificate's file; `OSError` where that fails."""
    target.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_certificate(path: Path) -> Certificate:
    """The certificate in a file; `RequestError` where it has none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    for kind in _KINDS:
        try:
            found: Certificate = kind.validate_json(data, strict=False)
        except ValidationError:
            continue
        return found
    raise RequestError(
        f"{path} holds no certificate: give a file that `sosie erase --certificate` or "
        "`sosie retention run --certificate` has written"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value.isoformat() if isinstance(value, datetime) else value
