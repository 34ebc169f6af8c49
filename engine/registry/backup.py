"""Backups: a checked copy of a registry that is in use, and putting one back."""

import hashlib
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine, insert, select, text

from engine.errors import RegistryError, RegistryExists, RequestError, SosieError, StorageFull
from engine.models.catalog import Conversion
from engine.registry import deployment
from engine.registry.audit import (
    AuditEntry,
    AuditReader,
    hash_at,
    read_head,
    require_head,
    verify_chain,
)
from engine.registry.damage import find_damage, is_torn
from engine.registry.database import (
    UNREADABLE,
    Progress,
    check,
    connect,
    connected,
    journal_of,
    long_statements,
    open_connection,
    require_known,
    restructuring,
    sqlite_file,
    storage_errors,
    untold,
    utc_now,
    version,
)
from engine.registry.deployment import DEPLOYMENT
from engine.registry.documents import CONSENT_WITHDRAWN, DOCUMENT_ERASED, ERASURE_ASKED
from engine.registry.rows import pages_of
from engine.registry.store import Reader, Store, every_table, upgrade_schema
from engine.registry.transactions import recorded, take_lease
from engine.registry.upgrade import bring_up_to_date
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from indexes.atomic_files import created, flush, replacing
from schema import frozen

DATABASE_FILE = "registry.sqlite"
MANIFEST_FILE = "manifest.json"
PAGES_PER_STEP = 256
"""A mebibyte: the writer waits for the copying of so much at most."""
PAUSE_S = 0.002
MOST_RESTARTS = 5
"""Another process that writes makes SQLite begin anew; then it is kept waiting."""
MOST_STEPS_WITHOUT_GAIN = 500
"""The writer adds pages as fast as they are copied; then more are copied at once."""
_WAITING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
"""What a step answers that met a transaction: it copied nothing, and is tried again."""
_ROWS_AT_ONCE = 2_000
_BLOCK_BYTES = 2**20


@frozen
class Manifest:
    """The description of a backup. `audit_number` and `audit_head` say up to where: what has a
    greater number in the audit chain is lost when it is put back. `damage`: what it has of the
    registry's damaged rows, as they are, a line each."""

    deployment_id: str
    made_at: str
    schema: str
    model_digest: str
    audit_number: int
    audit_head: str
    sequence: int
    rows: Mapping[str, int]
    bytes: int
    sha256: str
    damage: tuple[str, ...] = ()


@frozen
class Lost:
    """The loss by a restore: what the registry that was replaced had, and the backup has not, as
    far as it can be read: entries of the audit chain by action, and the documents whose erasure is
    to be repeated."""

    entries: Mapping[str, int]
    erased: tuple[str, ...]
    is_another_history: bool = False
    withdrawn: tuple[tuple[str, str], ...] = ()
    """Documents and carriers of withdrawals to be repeated; "" for all."""


@frozen
class RestoredBackup:
    """`lost` is None where no registry could be read in its place; `aside` is where that is now."""

    manifest: Manifest
    lost: Lost | None
    aside: Path | None


def make_backup(
    source: Store, writer: Writer | None, target: Path, *, actor: str, progress: Progress = untold
) -> Manifest:
    """Copies a registry to the new folder `target` while it is used, and checks the copy.

    SQLite is copied through its writer's connection, from any thread, beside what that commits;
    PostgreSQL by a snapshot, without a writer. The copy is an SQLite file either way. Damaged rows
    go along as they are, and the manifest names them. Nothing is left where it fails:
    `RegistryError` where the copy's structure is damaged or the target cannot be written.
    """
    if target.exists():
        raise RequestError(f"{target} exists already: name a new folder")
    _require_room(source.engine, target)
    with _new_folder(target) as partial:
        file = partial / DATABASE_FILE
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if sqlite_file(source.engine) is None:
            _copy_rows(source, file)
        else:
            assert writer is not None, "SQLite is copied by its writer"
            _copy_pages(writer, file, progress)
        manifest = _describe(file, source.vault, progress)
        signed = {**asdict(manifest), "mac": _mac(manifest, source.vault)}
        with replacing(partial / MANIFEST_FILE) as written:
            written.write_text(json.dumps(signed, indent=2) + "\n")
        flush(file)
        flush(partial)
        detail = {"audit_number": manifest.audit_number, "bytes": manifest.bytes}
        if manifest.damage:
            detail["damage"] = len(manifest.damage)
        with recorded(
            source.engine, source.vault, [AuditEntry(actor, "backup.made", "registry", detail)]
        ):
            pass
    return manifest


def move_backup(place: Path, target: Path) -> None:
    """Moves a backup to a new folder, on whatever disk."""
    with _new_folder(target) as partial:
        for name in (DATABASE_FILE, MANIFEST_FILE):
            with replacing(partial / name) as fresh:
                shutil.copyfile(place / name, fresh)
        flush(partial)
    shutil.rmtree(place)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target, which becomes the target where the block ends well."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(mode=0o700, parents=True)
        try:
            yield partial
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush(target.parent)
    except OSError as error:
        kind = StorageFull if error.errno == 28 else RegistryError
        raise kind(f"{target} cannot be written ({error.strerror}): choose another place") from None


def _require_room(engine: Engine, target: Path) -> None:
    path = sqlite_file(engine)
    near = next((one for one in target.resolve().parents if one.is_dir()), None)
    if path is not None and near is not None:
        needed = path.stat().st_size
        if shutil.disk_usage(near).free < needed + 64 * 2**20:
            raise StorageFull(f"{near} has no room for {needed / 2**20:,.0f} MiB: free some")


class _Outrun(Exception):
    """Writes come faster than the copy, which does not come to its end."""


def _copy_pages(writer: Writer, file: Path, progress: Progress) -> None:
    driver = writer.sqlite
    assert driver is not None
    for pages in (PAGES_PER_STEP, 16 * PAGES_PER_STEP, -1):
        # Without a journal nothing takes back what an attempt that was given up has written.
        os.truncate(file, 0)
        with closing(sqlite3.connect(file, isolation_level=None)) as copy:
            for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
                copy.execute(f"PRAGMA {pragma}")
            try:
                driver.backup(copy, pages=pages, progress=_pace(progress), sleep=0.01)
            except _Outrun:
                continue
            except sqlite3.Error as error:
                name = getattr(error, "sqlite_errorname", type(error).__name__)
                kind = StorageFull if name == "SQLITE_FULL" else RegistryError
                raise kind(f"the copy stopped ({name}): check both disks, try again") from None
            return
    raise AssertionError("a copy in one step cannot be outrun")


def _pace(progress: Progress) -> Callable[[int, int, int], None]:
    """Called between two steps: lets the writer go first, and ends a copy that is outrun."""
    done = restarts = without_gain = 0
    least = sys.maxsize

    def pause(status: int, remaining: int, total: int) -> None:
        nonlocal done, restarts, without_gain, least
        if status in _WAITING:
            return
        restarts += total - remaining < done
        without_gain = 0 if remaining < least else without_gain + 1
        if restarts > MOST_RESTARTS or without_gain > MOST_STEPS_WITHOUT_GAIN:
            raise _Outrun
        done, least = total - remaining, min(least, remaining)
        progress(done, total)
        time.sleep(PAUSE_S)

    return pause


def _copy_rows(source: Reader, file: Path) -> None:
    """Every row of one moment, read from PostgreSQL without keeping anybody waiting."""
    sinking = _sqlite_engine(file, source.vault.dim)
    with sinking as sink, storage_errors(), open_connection(source.engine) as plain:
        rows_of_source = plain.execution_options(
            isolation_level="REPEATABLE READ", stream_results=True, yield_per=_ROWS_AT_ONCE
        )
        with (
            rows_of_source.begin(),
            long_statements(rows_of_source),
            restructuring(sink) as writing,
        ):
            check(rows_of_source)
            upgrade_schema(writing)
            for table in every_table():
                for rows in rows_of_source.execute(select(table)).mappings().partitions():
                    writing.execute(insert(table), [dict(row) for row in rows])


@contextmanager
def _sqlite_engine(file: Path, dim: int = 0) -> Iterator[Engine]:
    """An engine for a copy, whose pages are those for templates of `dim` floats where it is new;
    its journal goes with it."""
    engine = connect(f"sqlite:///{file}", dim)
    try:
        yield engine
    finally:
        engine.dispose()
        journal = journal_of(engine)
        assert journal is not None
        journal.unlink(missing_ok=True)


def _describe(file: Path, vault: Vault, progress: Progress = untold) -> Manifest:
    """Checks a copy, and says what it holds; `RegistryError` where its structure is damaged."""
    with _sqlite_engine(file) as engine:
        reader = Reader(engine, vault)
        found = find_damage(reader, progress=progress)
        if is_torn(found):
            raise RegistryError(
                f"the copy is damaged ({'; '.join(found[:3])}): run sosie doctor, put back a backup"
            )
        first_bad = verify_chain(reader, progress=progress).first_bad
        if first_bad is not None:
            found.append(f"audit: the chain is broken at entry {first_bad:,}")
        damage = tuple(found)
        (row,) = reader.rows(select(DEPLOYMENT))
        with open_connection(engine) as connection:
            schema = version(connection) or ""
        rows = reader.counts()
    return Manifest(
        deployment_id=row.deployment_id,
        made_at=utc_now().isoformat(timespec="seconds"),
        schema=schema,
        model_digest=row.model_digest,
        audit_number=row.audit_number,
        audit_head=row.chain_head.hex(),
        sequence=row.sequence,
        rows=rows,
        bytes=file.stat().st_size,
        sha256=_digest(file),
        damage=damage,
    )


def read_backup(place: Path, vault: Vault) -> tuple[Path, Manifest | None]:
    """The database file of a backup and its manifest, which is None for a bare SQLite file.

    `RequestError` where there is none, or either was altered.
    """
    if place.is_file():
        return place, None
    file, manifest = place / DATABASE_FILE, _read_manifest(place, vault)
    if not file.is_file() or _digest(file) != manifest.sha256:
        raise RequestError(f"{file} is not the file that the manifest describes: take another copy")
    return file, manifest


def _read_manifest(place: Path, vault: Vault) -> Manifest:
    described = place / MANIFEST_FILE
    try:
        values = json.loads(described.read_bytes())
        mac = values.pop("mac")
        manifest = Manifest(**values | {"damage": tuple(values.get("damage", ()))})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise RequestError(
            f"{place} is no backup: name a folder that sosie backup made, or an SQLite file"
        ) from None
    if mac != _mac(manifest, vault):
        raise RequestError(f"{described} was altered, or is of another deployment's key ring")
    return manifest


def restore_backup(
    url: str,
    vault: Vault,
    place: Path,
    *,
    model_digest: str,
    actor: str,
    replaces: bool = False,
    conversion: Conversion | None = None,
    progress: Progress = untold,
) -> RestoredBackup:
    """Puts a backup in the place of a registry that no process writes to (`WriterBusy`).

    The backup is checked first, and brought to this version's schema and, by the conversion, to
    its model. Of damaged rows it has those that its manifest vouches for, and they stay damaged: a
    bare SQLite file must be sound, `RegistryError`. A registry that is there is replaced only with
    `replaces` (`RegistryExists`): an SQLite file is moved aside, with its journal, which would else
    be rolled back into the backup.
    """
    file, made = read_backup(place, vault)
    with ExitStack() as undo:
        engine = undo.enter_context(connected(url))
        path = sqlite_file(engine)
        undo.enter_context(closing(take_lease(engine)))
        if path is None:
            staged = Path(undo.enter_context(TemporaryDirectory())) / DATABASE_FILE
        else:
            staged = path.with_name(f".{path.name}.restoring")
            undo.callback(lambda: staged.unlink(missing_ok=True))
        end = _stage(file, staged, vault, model_digest, conversion)
        manifest = replace(_describe(staged, vault, progress), **end)
        if manifest.damage and made is None:
            raise RegistryError(
                f"{file} is damaged ({'; '.join(manifest.damage[:3])}): give a backup's folder, "
                "which says what was damaged when it was made"
            )
        lost, epoch = _compare(engine, vault, manifest)
        exists = lost is not None or (path is not None and path.exists())
        if exists and not replaces:
            told = f"{_tell(lost)}{' and the backup has damaged rows' if manifest.damage else ''}"
            raise RegistryExists(f"there is a registry already: {told}; give --replace")
        aside = None
        if path is None:
            _fill(engine, staged, vault)
        else:
            engine.dispose()
            aside = _exchange(path, staged)
        _record(engine, vault, manifest, lost, epoch, actor)
    return RestoredBackup(manifest, lost, aside)


def _tell(lost: Lost | None) -> str:
    if lost is None:
        return "it cannot be read"
    if lost.is_another_history:
        return "it has another history than the backup"
    return f"it has {sum(lost.entries.values()):,} entries that the backup lacks"


def _stage(
    file: Path, staged: Path, vault: Vault, model_digest: str, conversion: Conversion | None
) -> dict[str, Any]:
    """Copies a backup's file beside the registry, of this version; where its audit chain ended."""
    try:
        staged.unlink(missing_ok=True)
        with file.open("rb") as source, created(staged) as sink:
            shutil.copyfileobj(source, sink, _BLOCK_BYTES)
    except OSError as error:
        kind = StorageFull if error.errno == 28 else RegistryError
        raise kind(f"{staged} cannot be written ({error.strerror})") from None
    with _sqlite_engine(staged) as engine:
        with open_connection(engine) as connection:
            require_known(connection)
            # An upgrade adds an entry of its own, which the registry in place has not.
            number = connection.scalars(select(DEPLOYMENT.c.audit_number)).one()
            head = hash_at(connection, number) or b""
        bring_up_to_date(engine, vault, conversion=conversion)
        with open_connection(engine) as connection:
            deployment.check(connection, vault, model_digest)
            require_head(vault, read_head(connection))
    flush(staged)
    return {"audit_number": number, "audit_head": head.hex()}


def _compare(engine: Engine, vault: Vault, manifest: Manifest) -> tuple[Lost | None, int]:
    """The entries of the registry in place beyond the backup, and its writer's epoch."""
    path = sqlite_file(engine)
    if path is not None and not path.is_file():
        return None, 0
    reader = AuditReader(engine, vault)
    try:
        with open_connection(engine) as connection:
            if version(connection) is None:
                return None, 0
        # Columns that every version has.
        columns = DEPLOYMENT.c
        (row,) = reader.rows(select(columns.audit_number, columns.writer_epoch))
        if row.audit_number >= manifest.audit_number:
            found = reader.audit_hash_at(manifest.audit_number)
            is_another = found is None or found.hex() != manifest.audit_head
        else:
            is_another = False
        entries: dict[str, int] = {}
        erased, withdrawn = [], []
        for record in () if is_another else reader.audit_entries(manifest.audit_number):
            action = record.entry.action
            entries[action] = entries.get(action, 0) + 1
            if action in (DOCUMENT_ERASED, ERASURE_ASKED):
                erased.append(record.entry.subject)
            if action == CONSENT_WITHDRAWN:
                # The first is "" where it was from all.
                withdrawn.append((record.entry.subject, record.entry.detail["carriers"][0]))
        again = tuple(dict.fromkeys(withdrawn))
        return Lost(entries, tuple(dict.fromkeys(erased)), is_another, again), row.writer_epoch
    except (SosieError, ValueError, TypeError):
        return None, 0


def _exchange(path: Path, staged: Path) -> Path | None:
    """Moves the registry aside and the copy into its place; a power cut in between leaves the one,
    the other, or none."""
    aside = None
    stamp = utc_now().strftime("%Y%m%dT%H%M%S%f")
    try:
        # The database first: without its journal it would be damaged unseen.
        for suffix in ("", "-journal", "-wal", "-shm"):
            old = path.with_name(path.name + suffix)
            if old.exists():
                moved = path.with_name(f"{path.name}.replaced-{stamp}{suffix}")
                old.rename(moved)
                aside = aside or (moved if not suffix else None)
        flush(path.parent)
        staged.rename(path)
        flush(path.parent)
    except OSError as error:
        raise RegistryError(
            f"{path} cannot be replaced ({error.strerror}): mend the folder, restore again"
        ) from None
    return aside


def _fill(engine: Engine, staged: Path, vault: Vault) -> None:
    """Replaces every row of a PostgreSQL database, in one transaction."""
    with (
        _sqlite_engine(staged) as source,
        restructuring(engine) as connection,
        long_statements(connection),
    ):
        if version(connection) is None:
            upgrade_schema(connection)
        check(connection)
        names = ", ".join(f'"{table.name}"' for table in every_table())
        connection.execute(text(f"TRUNCATE {names}"))
        reader = Reader(source, vault)
        for table in every_table():
            for rows in pages_of(reader.rows, table):
                if any(UNREADABLE in row for row in rows):
                    raise RegistryError(
                        f"PostgreSQL takes no row as damaged as one of {table.name}: restore this "
                        "backup to SQLite, and an older one here"
                    )
                connection.execute(insert(table), [dict(row._mapping) for row in rows])


def _record(
    engine: Engine, vault: Vault, manifest: Manifest, lost: Lost | None, epoch: int, actor: str
) -> None:
    """Fences every writer of before, and puts the restoring into the chain."""
    detail: dict[str, Any] = {"backup": manifest.audit_number, "made_at": manifest.made_at}
    if lost is not None:
        detail["lost"] = dict(lost.entries)
    entry = AuditEntry(actor, "registry.restored", manifest.deployment_id, detail)
    with recorded(engine, vault, [entry]) as connection:
        deployment.raise_epoch(connection, epoch)


def _mac(manifest: Manifest, vault: Vault) -> str:
    said = asdict(manifest)
    if not manifest.damage:
        # As versions wrote it that made no backup of a damaged registry.
        del said["damage"]
    plain = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return vault.look_up("backup", plain).hex()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def list_backups(folder: Path, vault: Vault) -> list[tuple[str, Manifest]]:
    """The backups in a folder by name, without reading their databases."""
    found = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        with suppress(RequestError):
            found.append((place.name, _read_manifest(place, vault)))
    return found


def name_of(moment: datetime) -> str:
    """The name of a backup of that moment."""
    return moment.strftime("%Y%m%dT%H%M%S.%fZ")
