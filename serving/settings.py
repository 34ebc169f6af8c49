"""Settings of a deployment: one TOML file, overridden by the environment.

This is the only module that reads the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from engine.errors import RegistryMissing, RequestError

SETTINGS_FILE = "sosie.toml"
KEY_RING_FILE = "keyring.json"
HOME_VARIABLE = "SOSIE_HOME"
CACHE_VARIABLE = "SOSIE_CACHE"
CARD = "a built-in card's name, or the path of a card"

Fmr = Annotated[float, Field(gt=0, lt=1)]


class _Section(BaseModel):
    # A misspelt setting would silently mean its default.
    model_config = ConfigDict(extra="forbid", frozen=True)


class RegistrySettings(_Section):
    """Where the store is. A relative SQLite path lies in the home folder."""

    url: SecretStr = Field(
        default=SecretStr("sqlite:///registry.sqlite"),
        description="SQLAlchemy URL: sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME",
    )


class ModelSettings(_Section):
    """Which models run, and how."""

    embedder: str = Field(
        default="sface", description="a built-in card's name, or the path of a card"
    )
    detector: str = Field(
        default="yunet", description="a built-in card's name, or the path of a card"
    )
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=0, ge=0, description="threads for a batch; 0: one for each core")
    flip: bool = Field(
        default=False, description="average each face with its mirror image: twice the time"
    )


class ThresholdSettings(_Section):
    """False match rates; the model's calibration turns them into scores."""

    verify_fmr: float = Field(
        default=1e-4, gt=0, lt=1, description="live photograph against portrait"
    )
    same_document_fmr: float = Field(default=1e-4, gt=0, lt=1, description="returning subscriber")
    review_fmr: float = Field(default=1e-6, gt=0, lt=1, description="1:N: possible duplicate")
    certain_margin: float = Field(
        default=0.06, ge=0, lt=1, description="1:N: score above the calibration's highest impostor"
    )


class RegistrarSettings(_Section):
    """How many decisions one transaction holds, and how many may wait."""

    batch_size: int = Field(default=32, ge=1, le=1024)
    queue_size: int = Field(default=1024, ge=1)


class Settings(BaseSettings):
    """All settings; the environment's SOSIE_MODELS__PROVIDER overrides `[models] provider`."""

    model_config = SettingsConfigDict(
        env_prefix="SOSIE_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    registry: RegistrySettings = RegistrySettings()
    models: ModelSettings = ModelSettings()
    thresholds: ThresholdSettings = ThresholdSettings()
    registrar: RegistrarSettings = RegistrarSettings()

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


def load_settings(home: Path | None) -> Settings:
    """The settings of the deployment in `home`, or the defaults where there is none."""
    given: dict[str, Any] = {}
    try:
        if home is not None:
            given = TomlConfigSettingsSource(Settings, home / SETTINGS_FILE)()
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"setting {where}: {first['msg']}; mend {SETTINGS_FILE}") from None
    except ValueError as error:
        raise RequestError(f"{SETTINGS_FILE} is not TOML: {error}") from None


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


def write_settings(home: Path) -> None:
    """Writes a settings file that shows every setting at its default, with what it means."""
    lines = ["# Settings of this Sosie deployment. Every line shows its default.\n"]
    for name, info in Settings.model_fields.items():
        section = info.default
        assert isinstance(section, _Section)
        lines.append(f"\n[{name}]\n")
        for key, detail in type(section).model_fields.items():
            if detail.description:
                lines.append(f"# {detail.description}\n")
            lines.append(f"# {key} = {_write_toml(getattr(section, key))}\n")
    (home / SETTINGS_FILE).write_text("".join(lines), encoding="utf-8")


def _write_toml(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
