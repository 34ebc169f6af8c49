"""Settings of a deployment: one TOML file, overridden by the environment.

This is the only module that reads the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import platformdirs
from pydantic import SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from engine.errors import RegistryExists, RegistryMissing, RequestError
from serving.sections import (
    CropsSettings,
    GallerySettings,
    ModelSettings,
    RegistrarSettings,
    RegistrySettings,
    RetentionSettings,
    Section,
    ServeSettings,
    SweepSettings,
    ThresholdSettings,
)

SETTINGS_FILE = "sosie.toml"
KEY_RING_FILE = "keyring.json"
HOME_VARIABLE = "SOSIE_HOME"
CACHE_VARIABLE = "SOSIE_CACHE"
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client when it is imported: set for a process before it starts."""
Chosen = Mapping[str, Mapping[str, Any]]
"""Settings by section and key, as a settings file has them."""

_BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


class Settings(BaseSettings):
    """All settings; the environment's SOSIE_MODELS__PROVIDER overrides `[models] provider`."""

    model_config = SettingsConfigDict(
        env_prefix="SOSIE_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    registry: RegistrySettings = RegistrySettings()
    models: ModelSettings = ModelSettings()
    thresholds: ThresholdSettings = ThresholdSettings()
    registrar: RegistrarSettings = RegistrarSettings()
    gallery: GallerySettings = GallerySettings()
    serve: ServeSettings = ServeSettings()
    sweep: SweepSettings = SweepSettings()
    retention: RetentionSettings = RetentionSettings()
    crops: CropsSettings = CropsSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, dotenv_settings, file_secret_settings
        return (env_settings, init_settings)


def load_settings(home: Path | None, file: Path | None = None) -> Settings:
    """The settings of the deployment in `home`, or the defaults where there is none.

    `file` instead of the one in `home`, where given.
    """
    if home is None:
        return make_settings({})
    if file is not None and not file.is_file():
        raise RequestError(f"{file} is not a file: name one with settings, as {SETTINGS_FILE}")
    try:
        given = TomlConfigSettingsSource(Settings, file or home / SETTINGS_FILE)()
    except ValueError as error:
        name = SETTINGS_FILE if file is None else file.name
        raise RequestError(f"{name} is not TOML: {error}") from None
    return make_settings(_anchor_cards(given, home))


def make_settings(given: Chosen) -> Settings:
    """Settings from a file's values or a command's, overridden by the environment."""
    try:
        return Settings(**cast("dict[str, Any]", given))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        fault = first["msg"].removeprefix("Value error, ")
        raise RequestError(
            f"setting {where}: {fault}; mend {SETTINGS_FILE} or the environment"
        ) from None
    except SettingsError:
        # Its text quotes the value, which may be a secret.
        raise RequestError(
            "a SOSIE_ variable cannot be read: give one value each, as SOSIE_MODELS__PROVIDER=cpu"
        ) from None


def is_card_file(name: str) -> bool:
    """True for the path of a card, false for the name of a built-in one."""
    return name.endswith(".toml") or "/" in name


def _anchor_cards(given: dict[str, Any], home: Path) -> dict[str, Any]:
    """A card that the settings file names by a relative path lies in the home folder."""
    models = given.get("models")
    if not isinstance(models, dict):
        return given
    anchored = {
        key: str(home / models[key])
        for key in ("embedder", "detector")
        if isinstance(models.get(key), str) and is_card_file(models[key])
    }
    return given | {"models": models | anchored}


def find_home(given: Path | None) -> Path | None:
    """The home folder: the one given, else SOSIE_HOME, else here if this is one, else none."""
    if given is None and HOME_VARIABLE in os.environ:
        given = Path(os.environ[HOME_VARIABLE])
    if given is None:
        here = Path.cwd()
        return here if (here / SETTINGS_FILE).is_file() else None
    if not (given / SETTINGS_FILE).is_file():
        raise RegistryMissing(f"{given} is not a Sosie home: run `sosie init {given}`")
    return given


def require_home(given: Path | None) -> Path:
    """Like `find_home`, where a command can do nothing without one."""
    home = find_home(given)
    if home is None:
        raise RegistryMissing(
            f"no Sosie home here: run `sosie init DIR`, then give --home DIR or set {HOME_VARIABLE}"
        )
    return home


def find_cache() -> Path:
    """Where rewritten graphs are kept: SOSIE_CACHE, else the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path(platformdirs.user_cache_dir("sosie"))


def find_metrics_folder() -> Path | None:
    """Where this node's processes count together; None in a process that counts alone."""
    given = os.environ.get(METRICS_VARIABLE)
    return Path(given) if given else None


def node_environment(usual: Mapping[str, str], forced: Mapping[str, str]) -> dict[str, str]:
    """The environment of a node's processes: what an operator has set stands before `usual`."""
    return {**usual, **os.environ, **forced}


def benchmark_environment() -> dict[str, str]:
    """The environment of a benchmark's process: nothing in it tunes numpy's BLAS."""
    return {name: value for name, value in os.environ.items() if name not in _BLAS_VARIABLES}


def write_settings(home: Path, chosen: Chosen) -> None:
    """Writes a new settings file that shows every setting with what it means.

    The chosen ones are set; the others stand at their defaults, as comments. `RegistryExists`
    where there is a file.
    """
    lines = [
        "# Settings of this Sosie deployment. A commented line shows its default; where the\n"
        "# model's card has [thresholds] of its own, those stand before the defaults here.\n"
    ]
    for name, info in Settings.model_fields.items():
        section = info.default
        assert isinstance(section, Section)
        lines.append(f"\n[{name}]\n")
        for key, detail in type(section).model_fields.items():
            if detail.description:
                lines.append(f"# {detail.description}\n")
            if key in chosen.get(name, {}):
                lines.append(f"{key} = {_write_toml(chosen[name][key])}\n")
            else:
                lines.append(f"# {key} = {_write_toml(getattr(section, key))}\n")
    _write_new(home / SETTINGS_FILE, "".join(lines))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_new(path: Path, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8", opener=_open_private) as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                path.unlink()
                raise
    except FileExistsError:
        raise RegistryExists(f"{path} exists already: choose another folder") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from None


def _write_toml(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    # JSON's texts, numbers and truth values are TOML's too.
    return json.dumps(value, ensure_ascii=False)
