"""Settings: one file, overridden by the environment; what is misspelt is refused."""

import pytest

from engine.errors import ModelError, RegistryExists, RequestError
from serving.deployment.models import embedder_card
from serving.settings.sections import ENROLLMENTS_ONGOING, ServeSettings
from serving.settings.settings import (
    SETTINGS_FILE,
    Settings,
    benchmark_environment,
    list_fields,
    load_settings,
    write_settings,
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch) -> None:
    for name in ("SOSIE_HOME", "SOSIE_MODELS__EMBEDDER"):
        monkeypatch.delenv(name, raising=False)


def test_a_file_written_without_choices_means_the_defaults_and_the_first_calibration(
    tmp_path,
) -> None:
    write_settings(tmp_path, {})
    first = {"models": Settings().models.model_copy(update={"calibration": 1})}
    assert load_settings(tmp_path) == Settings().model_copy(update=first)
    assert load_settings(None) == Settings()
    (tmp_path / "own").mkdir()
    write_settings(tmp_path / "own", {"models": {"embedder": "own.toml"}})
    assert load_settings(tmp_path / "own").models.calibration == 0


def test_every_setting_has_a_description() -> None:
    for name in Settings.model_fields:
        section = getattr(Settings(), name)
        assert [key for key, description in list_fields(section) if not description] == []


def test_chosen_settings_are_read_back_and_nothing_else_is_set(tmp_path) -> None:
    awkward = 'sqlite:////tmp/a "b" \\ ü.db'
    write_settings(tmp_path, {"registry": {"url": awkward}, "models": {"flip": True, "threads": 3}})
    found = load_settings(tmp_path)
    assert found.registry.url.get_secret_value() == awkward
    assert (found.models.flip, found.models.threads) == (True, 3)
    assert found.thresholds == Settings().thresholds


def test_the_environment_overrides_the_file(tmp_path, monkeypatch) -> None:
    write_settings(tmp_path, {"models": {"threads": 3, "flip": True}})
    monkeypatch.setenv("SOSIE_MODELS__THREADS", "5")
    found = load_settings(tmp_path)
    assert (found.models.threads, found.models.flip) == (5, True)


def test_a_variable_fills_a_table_of_an_engine_type(monkeypatch) -> None:
    monkeypatch.setenv("SOSIE_CASES__DUE_DAYS", '{"dispute": 5}')
    assert Settings().cases.due_days == {"dispute": 5}


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("[crops]\ndays = 0", "crops.days: Input should be greater than or equal to 1"),
        ("[crops]\nhold = 3", "crops.hold: Extra inputs are not permitted"),
        ("[cases]\ndue_days = { dispute = -1 }", "cases: give days between 0 and 3650"),
        ("[quality.live]\nmin_contrast = -1", "quality.live.min_contrast: Input should be"),
    ],
)
def test_types_of_the_engine_are_bounded_as_sections_are(tmp_path, given: str, fault: str) -> None:
    (tmp_path / SETTINGS_FILE).write_text(given)
    with pytest.raises(RequestError, match=f"setting {fault}"):
        load_settings(tmp_path)


def test_a_card_named_in_the_file_lies_in_the_home(tmp_path) -> None:
    write_settings(tmp_path, {"models": {"embedder": "cards/own.toml", "folder": "kept"}})
    found = load_settings(tmp_path).models
    assert found.embedder == str(tmp_path / "cards" / "own.toml")
    assert (found.folder, Settings().models.folder) == (str(tmp_path / "kept"), "")
    assert load_settings(tmp_path).models.detector == "yunet"
    other = tmp_path / "other"
    other.mkdir()
    write_settings(other, {"quality": {"models": ["range.toml", "/etc/blur.toml"]}})
    assert load_settings(other).quality.models == (str(other / "range.toml"), "/etc/blur.toml")


@pytest.mark.parametrize("name", ["cards/own", "own.toml", "cards/own.toml"])
def test_what_is_read_as_a_file_is_looked_for_in_the_home(name: str, tmp_path) -> None:
    write_settings(tmp_path, {"models": {"embedder": name}})
    with pytest.raises(ModelError) as refused:
        embedder_card(load_settings(tmp_path))
    assert str(tmp_path / name) in str(refused.value)


def test_a_settings_file_is_never_overwritten(tmp_path) -> None:
    write_settings(tmp_path, {"models": {"threads": 3}})
    with pytest.raises(RegistryExists):
        write_settings(tmp_path, {})
    assert load_settings(tmp_path).models.threads == 3


@pytest.mark.parametrize(
    "text",
    [
        "[models]\nthread = 1\n",
        "[thresholds]\nverify_fmr = 0\n",
        '[serve]\npublic_url = "sosie.example"\n',
        '[serve]\npublic_url = "https://sosie.example/#/case"\n',
        '[serve]\npublic_url = "https://sosie.example:99999"\n',
        '[audit]\nexport = "syslog+tls://log.example:99999"\n',
        '[audit]\nexport = "syslog+tls://log.example:0"\n',
        '[audit]\nanchor = "syslog://log.example:port"\n',
        "[nonsense]\n",
        "= =",
        '[gallery]\nkind = "annoy"\n',
        "[gallery]\nhead_rows = 1\n",
        "[gallery]\nerasure_deadline_h = -1\n",
        '[gallery]\nrows = "float64"\n',
        '[gallery]\ndevice = "gpu"\n',
    ],
)
def test_what_is_misspelt_or_out_of_range_is_refused(text: str, tmp_path) -> None:
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(RequestError, match=SETTINGS_FILE):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("host", "url"), [("10.0.0.5", "http://10.0.0.5:8700"), ("::1", "http://[::1]:8700")]
)
def test_the_url_of_a_service_is_one_for_ipv6_too(host: str, url: str) -> None:
    assert ServeSettings(host=host).url == url


@pytest.mark.parametrize("kind", ["fastscan", "flat", "ivf", "hnsw"])
def test_a_kind_that_has_gone_is_refused_with_what_to_set_instead(kind: str, tmp_path) -> None:
    (tmp_path / SETTINGS_FILE).write_text(f'[gallery]\nkind = "{kind}"\n')
    with pytest.raises(RequestError, match=rf"gallery\.kind: {kind} .* set exact8; mend sosie"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("text", "ongoing"),
    [
        ("", ENROLLMENTS_ONGOING),
        ('embedder = "deployment"\n', 16),
        ('embedder = "deployment"\nenrollments_ongoing = 5\n', 5),
    ],
)
def test_an_embedder_apart_has_more_enrollments_at_once_where_none_is_set(
    text: str, ongoing: int, tmp_path
) -> None:
    (tmp_path / SETTINGS_FILE).write_text(f"[serve]\n{text}")
    assert load_settings(tmp_path).serve.enrollments_ongoing == ongoing


def test_no_secret_shows_in_the_text_of_settings(monkeypatch) -> None:
    monkeypatch.setenv("SOSIE_REGISTRY__URL", "postgresql+psycopg://me:s3cret@host/base")
    settings = load_settings(None)
    assert "s3cret" in settings.registry.url.get_secret_value()
    assert "s3cret" not in repr(settings) + str(settings)


def test_a_refused_setting_does_not_repeat_its_value(monkeypatch) -> None:
    monkeypatch.setenv("SOSIE_REGISTRY", "s3cret")
    with pytest.raises(RequestError) as refused:
        load_settings(None)
    assert "s3cret" not in str(refused.value)


def test_a_benchmarks_environment_is_not_tuned(monkeypatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OTHER", "kept")
    found = benchmark_environment()
    assert "OPENBLAS_CORETYPE" not in found
    assert found["OTHER"] == "kept"
