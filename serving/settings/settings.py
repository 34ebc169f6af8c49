"""Settings of a deployment: one TOML file, overridden by the environment.

This is the only module that reads the environment.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, cast, get_type_hints
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from engine.errors import RegistryExists, RegistryMissing, RequestError
from schema.cases import DueDates
from schema.options import NO_RULES, CropPolicy, Limits, PeopleRules, Retention
from serving.settings.sections import (
    AuditSettings,
    GallerySettings,
    ModelSettings,
    QualitySettings,
    RegistrarSettings,
    RegistrySettings,
    Section,
    ServeSettings,
    SweepSettings,
    ThresholdSettings,
    is_private_address,
)
from serving.settings.terms import (
    AuthoritySettings,
    LinesSettings,
    LivenessSettings,
    ProofSettings,
    SignInSettings,
    WebhookSettings,
)

SETTINGS_FILE = "sosie.toml"
KEY_RING_FILE = "keyring.json"
SANDBOX_FILE = "sandbox.json"
"""In the home of a sandbox alone, with its keys."""
HOME_VARIABLE = "SOSIE_HOME"
_MODELS_VARIABLE = "SOSIE_MODELS__FOLDER"
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client when it is imported: set for a process before it starts."""
Chosen = Mapping[str, Mapping[str, Any]]
"""Settings by section and key, as a settings file has them."""

STEERING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE")


class Settings(BaseSettings):
    """All settings; the environment's SOSIE_MODELS__PROVIDER overrides `[models] provider`."""

    model_config = SettingsConfigDict(
        env_prefix="SOSIE_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    registry: RegistrySettings = RegistrySettings()
    models: ModelSettings = ModelSettings()
    quality: QualitySettings = QualitySettings()
    thresholds: ThresholdSettings = ThresholdSettings()
    registrar: RegistrarSettings = RegistrarSettings()
    limits: Limits = Limits()
    gallery: GallerySettings = GallerySettings()
    serve: ServeSettings = ServeSettings()
    sweep: SweepSettings = SweepSettings()
    retention: Retention = Retention()
    cases: DueDates = DueDates()
    crops: CropPolicy = CropPolicy()
    audit: AuditSettings = AuditSettings()
    liveness: LivenessSettings = LivenessSettings()
    proofs: ProofSettings = ProofSettings()
    authority: AuthoritySettings = AuthoritySettings()
    lines: LinesSettings = LinesSettings()
    people: PeopleRules = NO_RULES
    sign_in: SignInSettings = SignInSettings()
    webhooks: WebhookSettings = WebhookSettings()

    @model_validator(mode="after")
    def _has_address_to_sign_in_at(self) -> Self:
        url = self.serve.public_url
        if self.sign_in.issuer:
            if not is_private_address(url):
                raise ValueError("an issuer needs [serve] public_url, https or on loopback")
            if urlsplit(url).path not in ("", "/"):
                raise ValueError("with an issuer [serve] public_url has no path")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del env_settings, dotenv_settings, file_secret_settings
        return (_Environment(settings_cls), init_settings)


class _Environment(EnvSettingsSource):
    """Reads a table from a variable into a type of the engine too, as the library does into its
    own models."""

    def next_field(
        self, field: FieldInfo | Any | None, key: str, case_sensitive: bool | None = None
    ) -> FieldInfo | None:
        section = field.annotation if isinstance(field, FieldInfo) else None
        if is_dataclass(section) and (kind := get_type_hints(section).get(key)):
            return FieldInfo.from_annotation(kind)
        return super().next_field(field, key, case_sensitive)


def load_settings(home: Path | None, file: Path | None = None) -> Settings:
    """The settings of the deployment in `home`, or of `file`, or the defaults where there is none.
    A home older than calibrations' versions keeps the first of a built-in card until its settings
    name another."""
    if home is None:
        return make_settings({})
    if file is not None and not file.is_file():
        raise RequestError(f"{file} is not a file: name one with settings, as {SETTINGS_FILE}")
    try:
        given = TomlConfigSettingsSource(Settings, file or home / SETTINGS_FILE)()
    except ValueError as error:
        name = SETTINGS_FILE if file is None else file.name
        raise RequestError(f"{name} is not TOML: {error}") from None
    return make_settings(_anchor_paths(_pin_calibration(given), home))


def make_settings(given: Chosen) -> Settings:
    """Settings from a file's values or a command's, overridden by the environment."""
    try:
        return Settings(**cast("dict[str, Any]", given))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        fault = first["msg"].removeprefix("Value error, ")
        if first["type"] == "unexpected_keyword_argument":
            fault = "Extra inputs are not permitted"
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


def _pin_calibration(given: dict[str, Any]) -> dict[str, Any]:
    models = given.get("models", {})
    if not isinstance(models, dict) or is_card_file(str(models.get("embedder", ""))):
        return given
    return given | {"models": {"calibration": 1} | models}


_ANCHORED = {
    "models": ("embedder", "second", "detector", "folder"),
    "liveness": ("judge",),
    "quality": ("models",),
}
_PATHS = frozenset({"folder", "judge"})
"""Those that are a path in any case, and never the name of a built-in card."""


def _anchor_paths(given: dict[str, Any], home: Path) -> dict[str, Any]:
    """Resolves relative paths of cards and models in the settings file against the home folder."""
    for section, keys in _ANCHORED.items():
        values = given.get(section)
        if isinstance(values, dict):
            anchored = {
                key: [str(home / str(one)) for one in value]
                if isinstance(value, list)
                else str(home / value)
                for key, value in values.items()
                if key in keys and isinstance(value, str | list)
                if isinstance(value, list) or is_card_file(value) or (value and key in _PATHS)
            }
            given = given | {section: values | anchored}
    return given


def find_home(given: Path | None) -> Path | None:
    """The home folder: the given one, else SOSIE_HOME, else this folder if it is one, else None."""
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


def require_no_sandbox(home: Path) -> None:
    if (home / SANDBOX_FILE).exists():
        raise RequestError(f"{home} is a sandbox's: use `sosie sandbox {home}`")


def choose_models(folder: Path) -> None:
    """Has this process, and those that it starts, take the built-in models from a folder."""
    os.environ[_MODELS_VARIABLE] = str(folder.resolve())


def find_user_cache() -> Path:
    """The folder where the packages that Sosie stands on keep what they like, for this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def find_metrics_folder() -> Path | None:
    """The folder of the node's shared metrics; None in a process with its own."""
    given = os.environ.get(METRICS_VARIABLE)
    return Path(given) if given else None


def find_node_folder() -> Path | None:
    """The folder of this process's node, which the metrics are in; None in a process with none."""
    metrics = find_metrics_folder()
    return None if metrics is None else metrics.parent


def node_environment(usual: Mapping[str, str], forced: Mapping[str, str]) -> dict[str, str]:
    """The environment of a node's processes; the operator's variables override `usual`."""
    return {**usual, **os.environ, **forced}


def benchmark_environment() -> dict[str, str]:
    """The environment of a benchmark's process: numpy's BLAS untuned, and sources compiled once."""
    return {name: value for name, value in os.environ.items() if name not in STEERING}


def write_settings(home: Path, chosen: Chosen) -> None:
    """Writes a new settings file with every setting and its description, those not chosen as
    comments with their defaults; `RegistryExists` where the file exists."""
    lines = [
        "# Settings of this Sosie deployment. A commented line shows its default; where the\n"
        "# model's card has [thresholds] of its own, those stand before the defaults here.\n"
    ]
    for name, info in Settings.model_fields.items():
        lines.extend(_write_section(name, info.default, chosen.get(name, {})))
    path = home / SETTINGS_FILE
    text = "".join(lines)
    try:
        with open(path, "x", encoding="utf-8", opener=partial(os.open, mode=0o600)) as file:
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


def _write_section(name: str, section: object, chosen: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n[{name}]\n"
    for key, description in list_fields(section):
        default = getattr(section, key)
        if isinstance(default, Section) or is_dataclass(default):
            yield from _write_section(f"{name}.{key}", default, chosen.get(key, {}))
            continue
        if description:
            yield f"# {description}\n"
        if key in chosen:
            yield f"{key} = {_write_toml(chosen[key])}\n"
        else:
            yield f"# {key} = {_write_toml(default)}\n"


def list_fields(section: object) -> list[tuple[str, str | None]]:
    """Each key of a section, or of a type of the engine that is one, with its description."""
    if isinstance(section, Section):
        return [(key, one.description) for key, one in type(section).model_fields.items()]
    assert is_dataclass(section)
    return [(one.name, one.metadata.get("description")) for one in fields(section)]


def _write_toml(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    # JSON's texts, numbers and truth values are TOML's too.
    return json.dumps(value, ensure_ascii=False)
