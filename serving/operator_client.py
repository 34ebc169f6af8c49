"""A client of the service that has a home open, for commands of its operator beside it, and how
they find where it listens."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from engine.errors import DeadlinePassed, NotInstalled, RegistryError, RequestError, advise_extra
from indexes.atomic_files import replacing
from schema.phases import BackupState
from serving.errors import NotReady

if TYPE_CHECKING:
    from engine.registry.backup import Manifest
    from serving.client.client import Client
    from serving.deployment.deployment import Deployment
    from serving.settings.sections import ServeSettings

ADDRESS_FILE = "serve.address"
START_S = 3.0
"""A service that runs answers within it that it is ready."""


@contextmanager
def leave_address(home: Path, serve: ServeSettings) -> Iterator[None]:
    """Says in the home where its service listens, for the block; a lock tells the file from one of
    a killed process."""
    path = home / ADDRESS_FILE
    with ExitStack() as stack:
        with replacing(path) as beside:
            file = stack.enter_context(beside.open("w", encoding="utf-8"))
            file.write(_reach(serve))
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def find_address(home: Path, serve: ServeSettings) -> str:
    """The address of this home's service: as it has said itself, else as the settings say."""
    with suppress(FileNotFoundError), (home / ADDRESS_FILE).open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read()
    return _reach(serve)


def _reach(serve: ServeSettings) -> str:
    if serve.host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        serve = serve.model_copy(update={"host": "127.0.0.1"})
    return serve.url


@contextmanager
def as_operator(deployment: Deployment, actor: str, what: str, hours: float) -> Iterator[Client]:
    """A client with a key labelled `what`, which ends with the block, or after so many hours.
    `NotReady` where no service answers, then or later; `RegistryError` for what it refuses."""
    try:
        import httpx  # noqa: PLC0415 - extras

        from serving.client.client import Client  # noqa: PLC0415
        from serving.client.transport import ApiError, CallFailed, Options  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise NotInstalled(
            f"a running service is asked with {missing.name}, which is not installed here: "
            f"{advise_extra('serve')}"
        ) from None
    from engine.registry.accounts import ApiKey  # noqa: PLC0415
    from engine.registry.database import utc_now  # noqa: PLC0415 - extras
    from serving.access.authentication import make_key  # noqa: PLC0415

    made, now = make_key(deployment.vault), utc_now()
    fields = (made.id, made.digest, "operator", None, None, now)
    ends = now + timedelta(hours=hours)
    key = ApiKey(*fields, label=what, expires_at=ends, person=actor)
    deployment.store.add_api_key(key, actor=actor)
    url = find_address(deployment.home, deployment.settings.serve)
    try:
        # With a transport of its own the key goes to no proxy that the environment names.
        direct = httpx.HTTPTransport()
        with Client(url, made.text, transport=direct) as client:
            client.ready(Options(timeout_s=START_S))
            yield client
    except ApiError as error:
        raise RegistryError(f"the service at {url} refused it: {error.message}") from None
    except (CallFailed, httpx.HTTPError) as error:
        raise NotReady(
            f"another process writes the registry, and no service that is ready answers at {url}: "
            "start it or stop that process, or set [serve] host and port to where it listens; "
            f"then the same command again ({_describe(error)})"
        ) from None
    finally:
        deployment.store.revoke_api_key(made.id, actor=actor)


def _describe(error: Exception) -> str:
    """The kind of a failure: texts of others may quote what was sent."""
    correlator = getattr(error, "correlator", None)
    return type(error).__name__ if correlator is None else f"correlator {correlator}"


LOOK_EVERY_S = 0.2
KEY_HOURS = 24
"""After so long a service's backup has hung."""


def back_up(
    deployment: Deployment, target: Path, actor: str, report: Callable[[int, int], None]
) -> Manifest:
    """Makes a backup of a home, served or not, in the new folder `target`."""
    from engine.registry.backup import make_backup, move_backup, read_backup  # noqa: PLC0415 - a supervisor loads no registry
    from serving.deployment.backups import FOLDER  # noqa: PLC0415

    store = deployment.store
    if target.exists():
        raise RequestError(f"{target} exists already: name a new folder")
    if store.engine.dialect.name != "sqlite":
        return make_backup(store, None, target, actor=actor, progress=report)
    if not store.has_writer():
        return make_backup(store, deployment.writer, target, actor=actor, progress=report)
    # The process that writes is the one that can copy: it is asked as any operator may ask it.
    with as_operator(deployment, actor, "sosie backup", KEY_HOURS) as client:
        name = _wait_for(client)
    place = deployment.home / FOLDER / name
    _, manifest = read_backup(place, deployment.vault)
    assert manifest is not None, "the service has written it"
    move_backup(place, target)
    return manifest


def _wait_for(client: Client) -> str:
    """The name of a backup that the service has made."""
    name = client.start_backup().name
    end = monotonic() + 3600 * KEY_HOURS
    while monotonic() < end:
        found = next((one for one in client.list_backups().backups if one.name == name), None)
        if found is None or found.state == BackupState.FAILED:
            fault = "it is gone" if found is None or found.fault is None else found.fault
            raise RegistryError(f"the service made no backup: {fault}")
        if found.state == BackupState.DONE:
            return name
        sleep(LOOK_EVERY_S)
    raise DeadlinePassed("the service's backup does not end: see its log")
