"""The application that `sosie serve` and a Serve file deploy."""

from importlib import import_module
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from engine.errors import RegistryMissing, RequestError
from serving.cluster.application import build, describe
from serving.cluster.environment import Site, node_timeout_s, supervisor_timeout_s
from serving.cluster.node import _explain


def _deployments(application: Any) -> dict[str, Any]:
    """The deployments that an application binds, by name."""
    found, pending = {}, [application]
    while pending:
        bound = pending.pop()._bound_deployment
        found[bound.name] = bound
        pending += [one for one in bound.init_args if hasattr(one, "_bound_deployment")]
    return found


def test_the_printed_file_is_what_ray_accepts_and_has_the_settings_once(
    empty_home, sosie, monkeypatch
) -> None:
    environment = {"SOSIE_SERVE__PORT": "9000", "SOSIE_SERVE__INGRESS_REPLICAS": "3"}
    printed = sosie("serve-config", "--home", empty_home, env=environment)
    assert printed.code == 0, printed.err
    config = ServeDeploySchema.model_validate(yaml.safe_load(printed.out))
    assert config.http_options.port == 9000
    (application,) = config.applications
    assert application.deployments == []
    module, name = application.import_path.split(":")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    known = _deployments(getattr(import_module(module), name)(application.args))
    assert known["Ingress"].num_replicas == 3


def test_other_settings_or_another_version_replace_every_replica(empty_home, monkeypatch) -> None:
    def revision() -> Any:
        return describe(Site.of(empty_home, None))["applications"][0]["args"]["revision"]

    before = revision()
    assert revision() == before
    monkeypatch.setenv("SOSIE_REGISTRY__URL", "postgresql+psycopg://sosie:secret@db/sosie")
    assert revision() == before  # a digest would help to guess what is secret
    monkeypatch.setenv("SOSIE_SERVE__KEY_SHARE", "0.25")
    assert revision() != before


def test_a_node_with_other_settings_is_refused_by_name(empty_home, monkeypatch) -> None:
    site = Site.of(empty_home, None)
    agreed = site.agreed_with(site.load())
    monkeypatch.setenv("SOSIE_SERVE__METRICS_PORT", "9100")  # a matter of each node
    assert agreed.load().serve.metrics_port == 9100
    monkeypatch.setenv("SOSIE_SERVE__RATE_LIMIT", "7")
    with pytest.raises(RequestError, match=r"serve.rate_limit is 7.0 on .* and 100.0 where"):
        agreed.load()


def test_why_a_replica_does_not_start_is_the_reason_that_is_given() -> None:
    text = "Deploying sosie failed: …\nengine.errors.RequestError: setting a.b is 1\x1b[0m\n"
    assert _explain(RuntimeError(text), "the service").message == "setting a.b is 1"
    other = _explain(RuntimeError("somebody's data"), "the service").message
    assert "data" not in other
    assert "node.log" in other


def test_what_is_agreed_has_no_secret(empty_home, monkeypatch) -> None:
    monkeypatch.setenv("SOSIE_REGISTRY__URL", "postgresql+psycopg://sosie:hidden@db/sosie")
    site = Site.of(empty_home, None)
    agreed = site.agreed_with(site.load())
    assert "hidden" not in repr(agreed)
    assert len(agreed.agreed) > 50


def test_the_load_may_ask_for_more_replicas_where_the_settings_allow_it(
    empty_home, monkeypatch
) -> None:
    monkeypatch.setenv("SOSIE_SERVE__INGRESS_REPLICAS", "2")
    monkeypatch.setenv("SOSIE_SERVE__MAX_INGRESS_REPLICAS", "8")
    monkeypatch.setenv("SOSIE_SERVE__REPLICA_CPUS", "1")
    known = _deployments(build({"home": str(empty_home)}))
    scaling = known["Ingress"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 8)
    # What a cluster that adds nodes goes by.
    assert {one.ray_actor_options["num_cpus"] for one in known.values()} == {1}
    monkeypatch.setenv("SOSIE_SERVE__INGRESS_REPLICAS", "0")
    with pytest.raises(RequestError, match="max_ingress_replicas needs ingress_replicas"):
        build({"home": str(empty_home)})


def test_there_is_one_registrar_for_any_settings(empty_home) -> None:
    known = _deployments(build({"home": str(empty_home)}))
    assert set(known) == {"Ingress", "Registrar"}
    assert known["Registrar"].num_replicas == 1


@pytest.mark.parametrize("drain_s", [0.5, 30.0])
def test_the_time_limits_of_a_stop_contain_each_other(
    empty_home, monkeypatch, drain_s: float
) -> None:
    """The proxies drain, then the application ends with its snapshot, then Serve and Ray do."""
    monkeypatch.setenv("SOSIE_SERVE__DRAIN_S", str(drain_s))
    bound = _deployments(build({"home": str(empty_home)}))["Registrar"]
    registrar = bound._deployment_config.graceful_shutdown_timeout_s
    assert registrar >= drain_s + 30
    assert node_timeout_s(drain_s) >= drain_s + registrar + 20
    assert supervisor_timeout_s(drain_s) > node_timeout_s(drain_s)


def test_every_queue_of_the_application_has_a_bound(empty_home, monkeypatch) -> None:
    monkeypatch.setenv("SOSIE_SERVE__EMBEDDER", "deployment")
    for deployment in _deployments(build({"home": str(empty_home)})).values():
        assert deployment.max_queued_requests > 0
        assert deployment.max_ongoing_requests > 5  # the default of Serve


def test_misspelt_arguments_are_refused(empty_home) -> None:
    with pytest.raises(RequestError, match="hoem"):
        build({"hoem": str(empty_home)})


def test_a_folder_that_is_no_home_is_refused(tmp_path) -> None:
    with pytest.raises(RegistryMissing):
        build({"home": str(tmp_path)})
