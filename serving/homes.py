"""Home folders: made here, with settings, key ring and an empty registry."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from engine.errors import RegistryExists, RequestError
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from serving.models import embedder_card, model_digest
from serving.settings import KEY_RING_FILE, SETTINGS_FILE, Chosen, Settings, write_settings


def create_home(home: Path, settings: Settings, chosen: Chosen | None = None) -> None:
    """Makes a home folder: settings, key ring (0600), an empty registry.

    `chosen` settings are written down; the others stay at their defaults, as comments. Whatever
    fails leaves the folder as it was: nothing that was there before is overwritten or removed.
    """
    _require_free(home)
    dimension, digest = embedder_card(settings).dimension, model_digest(settings)
    with ExitStack() as undo:
        if not home.exists():
            # Only if it is empty: another process may be making a home here too.
            undo.callback(_ignoring_errors(home.rmdir))
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"{home} cannot be a folder: {error.strerror}") from None
        _close_to_others(home)
        vault = Vault(KeyRing.create(home / KEY_RING_FILE), dimension)
        undo.callback((home / KEY_RING_FILE).unlink)
        write_settings(home, chosen or {})
        undo.callback((home / SETTINGS_FILE).unlink)
        Store.create(registry_url(home, settings), vault, model_digest=digest).close()
        undo.pop_all()


def _require_free(home: Path) -> None:
    if not any((home / name).exists() for name in (SETTINGS_FILE, KEY_RING_FILE)):
        return
    if not (home / KEY_RING_FILE).exists():
        raise RegistryExists(
            f"{home} is a Sosie home that has lost its key ring: restore {KEY_RING_FILE} from your "
            "backup, or choose another folder"
        )
    raise RegistryExists(f"{home} is a Sosie home already: choose another folder")


def _close_to_others(home: Path) -> None:
    """An empty folder that was there before becomes its owner's alone, as a new one is."""
    if stat.S_IMODE(home.stat().st_mode) == 0o700 or any(home.iterdir()):
        return
    try:
        home.chmod(0o700)
    except OSError as error:
        raise RequestError(
            f"others may look into {home} and it cannot be closed ({error.strerror}): "
            "choose a folder of your own"
        ) from None


def _ignoring_errors(undo: Callable[[], None]) -> Callable[[], None]:
    def attempt() -> None:
        with suppress(OSError):
            undo()

    return attempt


def registry_url(home: Path, settings: Settings) -> str:
    """The database URL; a relative SQLite file lies in the home folder."""
    url = settings.registry.url.get_secret_value()
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith(prefix + "/"):
        return f"{prefix}{(home / url.removeprefix(prefix)).resolve()}"
    return url
