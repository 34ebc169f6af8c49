"""The secrets of one deployment, in a file that only its owner may read."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import os
import resource
import secrets
import sys
import uuid
from collections.abc import Collection, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from engine.errors import KeyRingError, KeyRingInvalid, KeyRingMissing
from indexes.atomic_files import created, flush
from schema import frozen

SECRET_BYTES = 32
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """From now on a crash of this process writes none of its memory to a file.

    On Linux other processes of the same user cannot read its memory either, so no debugger or
    profiler can be attached but by root. What it starts inherits the first, not the second.
    """
    # Of its own it is not enough: the kernel does not heed it where cores go to a program.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
            reason = os.strerror(ctypes.get_errno())
            raise KeyRingError(f"core dumps cannot be switched off ({reason}): permit prctl(2)")


_AS_FILE = ConfigDict(
    extra="forbid", hide_input_in_errors=True, ser_json_bytes="hex", val_json_bytes="hex"
)


@frozen
class Key:
    """One version of one secret; its text form never shows the secret."""

    __pydantic_config__ = _AS_FILE

    version: Annotated[int, Field(ge=1, le=0xFFFF)]
    secret: Annotated[bytes, Field(min_length=SECRET_BYTES, max_length=SECRET_BYTES)] = field(
        repr=False
    )

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the key and give nothing of it away."""
        return hmac.new(self.secret, b"sosie key fingerprint", hashlib.sha256).hexdigest()[:16]

    @classmethod
    def generate(cls, version: int) -> Key:
        return cls(version, secrets.token_bytes(SECRET_BYTES))


@frozen(kw_only=True)
class KeyRing:
    """Versioned keys by purpose, as their file has them.

    `rotation` turns templates, `lookup` and `audit` key the HMACs: these live as long as the
    deployment. `data` seals values at rest; it has several versions while a rotation of the data
    key runs, and new values are sealed with the active one, which is the newest. `kept` are
    retired data keys of damaged values: nothing is opened with them, or whoever has an old key
    could keep it in force by damaging one value.
    """

    __pydantic_config__ = _AS_FILE

    format: Literal["sosie-keyring"] = "sosie-keyring"
    format_version: Literal[1] = 1
    deployment_id: Annotated[str, Field(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    rotation: Key
    lookup: Key
    audit: Key
    data: tuple[Key, ...]
    kept: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        versions = [key.version for key in self.data]
        if not versions or versions != sorted(set(versions)):
            raise ValueError("a ring has data keys, which ascend by version")

    @property
    def active_data_key(self) -> Key:
        return self.data[-1]

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """The fingerprint of every key, by purpose and version."""
        named = {"rotation": self.rotation, "lookup": self.lookup, "audit": self.audit}
        named |= {f"data:{key.version}": key for key in self.data}
        named |= {f"kept:{key.version}": key for key in self.kept}
        return {name: key.fingerprint for name, key in named.items()}

    @classmethod
    def generate(cls) -> KeyRing:
        """Fresh keys under a fresh deployment id, in memory only."""
        forbid_core_dumps()
        return cls(
            deployment_id=str(uuid.uuid4()),
            rotation=Key.generate(1),
            lookup=Key.generate(1),
            audit=Key.generate(1),
            data=(Key.generate(1),),
        )

    @classmethod
    def create(cls, path: Path) -> KeyRing:
        """Generates a ring and writes it to a new file of mode 0600; an existing one is refused."""
        ring = cls.generate()
        beside = _write_beside(path, ring._to_json())
        try:
            os.link(beside, path)  # fails where the name is taken, unlike a rename
        except FileExistsError:
            raise KeyRingError(
                f"{path} exists already: a key ring is never overwritten, choose another folder"
            ) from None
        finally:
            beside.unlink()
        flush(path.parent)
        return ring

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """Reads a ring; refuses a file that its group or others can read or write.

        First core dumps of this process are switched off: every process that has keys reads a ring.
        """
        forbid_core_dumps()
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                if mode & 0o077:
                    raise KeyRingInvalid(
                        f"{path} is open to others (mode {mode:04o}): run chmod 600 {path}"
                    )
                content = file.read()
        except FileNotFoundError:
            raise KeyRingMissing(
                f"no key ring at {path}: check the folder, or restore your backup of the key ring"
            ) from None
        except OSError as error:
            raise KeyRingInvalid(f"{path} cannot be read: {error.strerror}") from None
        try:
            return _RING.validate_json(content, strict=True)
        except ValidationError as error:
            # Only the place and the kind of the fault: the input itself holds secrets.
            fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the whole file"
            raise KeyRingInvalid(
                f"{path} is not a key ring ({where}: {fault['type']}): restore your backup of it"
            ) from None

    def save(self, path: Path) -> None:
        """Replaces the file in one step: a crash leaves the old ring or the new one, whole."""
        beside = _write_beside(path, self._to_json())
        beside.replace(path)
        flush(path.parent)

    def with_new_data_key(self) -> KeyRing:
        """The same ring with one more data key, which becomes the active one.

        Save it before anything is sealed with it.
        """
        return replace(self, data=(*self.data, Key.generate(self.active_data_key.version + 1)))

    def with_active_alone(self, needed: Collection[int]) -> KeyRing:
        """The same ring with the active data key alone; of the others it keeps those `needed`."""
        others = (*self.kept, *self.data[:-1])
        kept = tuple(key for key in others if key.version in needed)
        return replace(self, data=self.data[-1:], kept=kept)

    def _to_json(self) -> bytes:
        # A version that kept none reads a ring without any.
        absent = None if self.kept else {"kept"}
        return _RING.dump_json(self, indent=2, exclude=absent) + b"\n"


_RING = TypeAdapter(KeyRing)


def _write_beside(path: Path, content: bytes) -> Path:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with created(beside) as file:
            file.write(content)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise KeyRingError(f"{path} cannot be written: {error.strerror}") from None
    return beside
