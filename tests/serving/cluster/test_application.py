"""The application that `sosie serve` and the Serve files deploy."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from engine.errors import RegistryMissing, RequestError
from serving.cluster.application import build

FOLDER = Path(__file__).parents[3] / "serving/deploy/ray"
FILES = sorted(FOLDER.glob("*.yaml"))


def _deployments(application: Any) -> dict[str, Any]:
    """The deployments that an application binds, by name."""
    found, pending = {}, [application]
    while pending:
        bound = pending.pop()._bound_deployment
        found[bound.name] = bound
        pending += [one for one in bound.init_args if hasattr(one, "_bound_deployment")]
    return found


def test_there_are_serve_files() -> None:
    assert {file.name for file in FILES} == {"cluster.yaml", "single.yaml"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_serve_file_is_what_ray_accepts_and_names_what_exists(
    file: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    monkeypatch.setenv("SOSIE_SERVE__EMBEDDER", "deployment")
    for application in config.applications:
        module, name = application.import_path.split(":")
        builder = getattr(import_module(module), name)
        assert application.args.keys() <= {"home", "config"}
        known = _deployments(builder({**application.args, "home": str(empty_home)}))
        assert {one.name for one in application.deployments} <= set(known)


def test_there_is_one_registrar_for_any_settings(empty_home: Path) -> None:
    known = _deployments(build({"home": str(empty_home)}))
    assert set(known) == {"Ingress", "Registrar"}
    assert known["Registrar"].num_replicas == 1


def test_every_queue_of_the_application_has_a_bound(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOSIE_SERVE__EMBEDDER", "deployment")
    for deployment in _deployments(build({"home": str(empty_home)})).values():
        assert deployment.max_queued_requests > 0
        assert deployment.max_ongoing_requests > 5  # the default of Serve


@pytest.mark.parametrize("embedder", ["ingress", "deployment"])
def test_each_ingress_knows_how_many_share_a_keys_rate(
    embedder: str, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOSIE_SERVE__EMBEDDER", embedder)
    monkeypatch.setenv("SOSIE_SERVE__INGRESS_REPLICAS", "3")
    ingress = _deployments(build({"home": str(empty_home)}))["Ingress"]
    assert ingress.num_replicas == ingress.init_args[-1] == 3


def test_misspelt_arguments_are_refused(empty_home: Path) -> None:
    with pytest.raises(RequestError, match="hoem"):
        build({"hoem": str(empty_home)})


def test_a_folder_that_is_no_home_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryMissing):
        build({"home": str(tmp_path)})
