"""The Helm chart: what it renders is valid, restricted, and agrees with its own settings."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serving.cluster.application import compose, describe
from serving.cluster.environment import Site

CHART = Path(__file__).parents[3] / "serving/deploy/helm"
VERSIONS = ("1.31.0", "1.35.0")
"""Of Kubernetes."""
EVERYTHING = {
    "settings": {
        "serve": {
            "embedder": "deployment",
            "embedder_gpus": 1,
            "embedder_replicas": 2,
            "max_embedder_replicas": 3,
        },
        "gallery": {"shards": 4, "shard_copies": 2, "shard_memory_gib": 20},
        "thresholds": {"review_fmr": 0.000002},
    },
    "home": {"existingClaim": "homes"},
    "gcs": {"backend": "redis", "redisAddress": "redis.prod:6380"},
    "secrets": {"environment": "sosie-more"},
    "image": {
        "pullSecrets": [{"name": "registry"}],
        "tag": "7",
        "digest": f"sha256:{'a' * 64}",
        "gpuDigest": f"sha256:{'b' * 64}",
    },
    "network": {
        "database": {"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]},
        "redis": {"to": [{"ipBlock": {"cidr": "10.0.1.0/24"}}]},
        "outward": [{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}],
    },
    "ingress": {"host": "sosie.example", "tlsSecret": "sosie-tls"},
    "gateway": {
        "parentRefs": [{"name": "front", "sectionName": "https"}],
        "hostnames": ["sosie.example"],
    },
    "monitoring": {
        "serviceMonitor": True,
        "prometheusRule": True,
        "dashboard": True,
        "labels": {"release": "prometheus"},
        "docs": "https://manual.example",
    },
}
OF_OPERATORS = {"RayService", "HTTPRoute", "ServiceMonitor", "PrometheusRule"}
"""Kinds that Kubernetes' own schemas do not have."""
# As KubeRay's API has them (ray-operator/apis/ray/v1).
SERVICE = {"upgradeStrategy", "serveConfigV2", "rayClusterConfig", "excludeHeadPodFromServeSvc"} | {
    "rayClusterDeletionDelaySeconds"
}
CLUSTER = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"} | {
    *("gcsFaultToleranceOptions", "headGroupSpec", "workerGroupSpecs")
}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


class Rendered:
    """What the chart makes of some values."""

    def __init__(self, values: dict[str, Any]) -> None:
        with helm_python.Chart.load(str(CHART)) as chart:
            files = chart.render(values, name="match", namespace="prod")
        self.text = "\n".join(files.values())
        self.objects = [
            one
            for name, file in files.items()
            if name.endswith(".yaml")
            for one in yaml.safe_load_all(file)
            if one is not None
        ]
        (self.service,) = (one["spec"] for one in self.objects if one["kind"] == "RayService")
        self.cluster = self.service["rayClusterConfig"]
        self.groups = {one["groupName"]: one for one in self.cluster["workerGroupSpecs"]}

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.objects if one["kind"] == kind]

    def pods(self) -> Iterator[dict[str, Any]]:
        """As KubeRay makes them."""
        for group in (self.cluster["headGroupSpec"], *self.groups.values()):
            template = group["template"]
            metadata = {"name": "ray", **template["metadata"]}
            yield {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": template["spec"],
            }

    def make_home(self, folder: Path) -> Site:
        """A home with the settings of the ConfigMap."""
        map_ = next(one for one in self.of("ConfigMap") if "sosie.toml" in one["data"])
        (folder / "sosie.toml").write_text(map_["data"]["sosie.toml"])
        return Site.of(folder, None)


@pytest.fixture(scope="module", params=[{}, EVERYTHING], ids=["defaults", "everything"])
def rendered(request) -> Rendered:
    return Rendered(request.param)


def test_helm_finds_no_fault() -> None:
    assert helm_python.lint(str(CHART))["errors"] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object_and_every_pod(rendered, version: str) -> None:
    own = [one for one in rendered.objects if one["kind"] not in OF_OPERATORS]
    for one in (*own, *rendered.pods()):
        kubernetes_validate.validate(one, version, strict=True)
    assert set(rendered.service) <= SERVICE
    assert set(rendered.cluster) <= CLUSTER
    assert all(set(group) == GROUP for group in rendered.groups.values())


def test_serve_is_told_what_sosie_itself_would_tell_it(rendered, tmp_path) -> None:
    told = yaml.safe_load(rendered.service["serveConfigV2"])
    ServeDeploySchema.model_validate(told)
    own = describe(rendered.make_home(tmp_path))
    for one in (told, own):
        arguments = one["applications"][0]["args"]
        assert len(arguments.pop("revision")) == 12
        arguments.pop("home")
    assert told == own


def test_kubernetes_has_the_cores_memory_and_shards_that_ray_will_ask_for(
    rendered, tmp_path
) -> None:
    site = rendered.make_home(tmp_path)
    settings = site.load()
    ingress = compose(site)._bound_deployment
    most = settings.serve.max_ingress_replicas
    assert ingress._deployment_config.autoscaling_config.max_replicas == most
    workers = rendered.groups["workers"]
    each = int(workers["rayStartParams"]["num-cpus"])
    assert each == workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    # With the registrar, and one more replica while a version takes over.
    cores = (most + 2) * settings.serve.replica_cpus
    assert each * (workers["maxReplicas"] - 1) < cores <= each * workers["maxReplicas"]
    if settings.serve.embedder_gpus:
        gpu = rendered.groups["gpu"]
        assert (gpu["minReplicas"], gpu["maxReplicas"]) == (2, 3)
        limits = gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == settings.serve.embedder_gpus
    gallery = settings.gallery
    if gallery.shards:
        shards = rendered.groups["shards"]
        start = shards["rayStartParams"]
        held = json.loads(json.loads(start["resources"]))[gallery.shard_resource]
        assert held * shards["replicas"] == gallery.shards * gallery.shard_copies
        assert int(start["memory"]) == held * gallery.shard_memory_gib * (1 << 30)


def test_no_pod_may_more_than_it_must(rendered) -> None:
    for pod in rendered.pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        # The autoscaler, beside the head, asks Kubernetes.
        is_head = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "head"
        assert spec["automountServiceAccountToken"] == is_head
        for container in (*spec["initContainers"], *spec["containers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert ":" in container["image"]
            assert not container["image"].endswith(":latest")
        (main,) = spec["containers"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(main)
        # The proxy drains first, then the registrar ends: as long as `sosie serve` itself may take.
        assert spec["terminationGracePeriodSeconds"] == 2 * 30 + 75
    assert {one["spec"]["maxUnavailable"] for one in rendered.of("PodDisruptionBudget")} == {1}


def reach(rendered: Rendered, component: str) -> dict[int, list[Any]]:
    """The ports beyond its own pods that those of a component may reach, and to what ends."""
    found: dict[int, list[Any]] = {}
    for policy in rendered.of("NetworkPolicy"):
        labels = {"app.kubernetes.io/name": "sosie", "app.kubernetes.io/instance": "match"}
        chosen = policy["spec"]["podSelector"]["matchLabels"]
        if chosen.items() <= (labels | {"app.kubernetes.io/component": component}).items():
            for rule in policy["spec"]["egress"]:
                for port in rule.get("ports", [{"port": 0}]):
                    found.setdefault(port["port"], rule.get("to", []))
    return found


def test_each_component_reaches_what_it_needs_and_nothing_else(rendered) -> None:
    first, *more = rendered.of("NetworkPolicy")
    assert first["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule.get("from") for rule in first["spec"]["ingress"])
    assert {tuple(policy["spec"]["policyTypes"]) for policy in more} == {("Egress",)}
    # Its own pods are those that it makes.
    (own,) = (rule for rule in first["spec"]["egress"] if "ports" not in rule)
    (expression,) = own["to"][0]["podSelector"]["matchExpressions"]
    components = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in rendered.pods()
    }
    assert components <= set(expression["values"])
    common = {0, 53}
    has_redis = bool(rendered.cluster["gcsFaultToleranceOptions"].get("redisAddress"))
    head, workers = reach(rendered, "head"), reach(rendered, "workers")
    assert set(head) == common | {443, 6443} | ({6380} if has_redis else set())
    assert set(workers) == common | {5432}
    for component in ("gpu", "shards"):
        assert set(reach(rendered, component)) == common
    assert head[53]
    assert not has_redis or (head[6380] and workers[5432])


def test_only_pods_with_ingresses_are_asked_and_only_while_they_are_ready(rendered) -> None:
    (service,) = rendered.of("Service")
    selector = service["spec"]["selector"]
    chosen = [
        pod for pod in rendered.pods() if selector.items() <= pod["metadata"]["labels"].items()
    ]
    (probe,) = (pod["spec"]["containers"][0]["readinessProbe"]["httpGet"] for pod in chosen)
    assert probe == {"path": "/health/ready", "port": "serve"}


def test_clients_come_in_over_tls_and_prometheus_knows_what_the_service_ships() -> None:
    nothing, rendered = Rendered({}), Rendered(EVERYTHING)
    assert not OF_OPERATORS - {"RayService"} & {one["kind"] for one in nothing.objects}
    (ingress,), (route,) = rendered.of("Ingress"), rendered.of("HTTPRoute")
    (service,) = rendered.of("Service")
    assert ingress["spec"]["tls"] == [{"hosts": ["sosie.example"], "secretName": "sosie-tls"}]
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": "match", "port": {"name": "http"}}
    (end,) = route["spec"]["rules"][0]["backendRefs"]
    assert end == {"name": "match", "port": service["spec"]["ports"][0]["port"]}
    (monitor,), (rule,) = rendered.of("ServiceMonitor"), rendered.of("PrometheusRule")
    chosen = monitor["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= service["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    shipped = [
        group
        for name in ("rules", "alerts")
        for group in yaml.safe_load((CHART / f"files/{name}.yml").read_text())["groups"]
    ]
    told = json.dumps(rule["spec"]["groups"])
    told = told.replace("https://manual.example", "{{ $externalLabels.docs }}")
    assert json.loads(told) == shipped
    (board,) = (one for one in rendered.of("ConfigMap") if "sosie.json" in one["data"])
    dashboard = (CHART / "files/sosie.json").read_text()
    assert json.loads(board["data"]["sosie.json"]) == json.loads(dashboard)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"workers": {"cpu": 2}}, "additional properties 'cpu' not allowed"),
        ({"home": {"size": "20"}}, "does not match pattern"),
        ({"ingress": {"host": "sosie.example"}}, "not sent in the clear"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_by_name(
    values: dict[str, Any], fault: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=fault):
        Rendered(values)


def test_secrets_are_named_and_never_rendered() -> None:
    rendered = Rendered({"secrets": {"database": "a-database", "keyRing": "a-ring"}})
    (pod, *_) = rendered.pods()
    variables = {one["name"]: one for one in pod["spec"]["containers"][0]["env"]}
    found = variables["SOSIE_REGISTRY__URL"]["valueFrom"]["secretKeyRef"]
    assert found == {"name": "a-database", "key": "url"}
    assert rendered.of("Secret") == []


def test_settings_that_change_reach_running_pods(rendered) -> None:
    # Kubernetes renews a ConfigMap that is mounted as a folder, and no single file of it.
    for pod in rendered.pods():
        (main,) = pod["spec"]["containers"]
        mounts = {one["name"]: one for one in main["volumeMounts"]}
        assert mounts["settings"] == {
            "name": "settings",
            "mountPath": "/etc/sosie",
            "readOnly": True,
        }
        (home,) = pod["spec"]["initContainers"]
        assert 'ln -sfn /etc/sosie/sosie.toml "$SOSIE_HOME/sosie.toml"' in home["command"][-1]


def test_an_image_may_be_held_to_its_digest() -> None:
    images = {
        container["image"]
        for pod in Rendered(EVERYTHING).pods()
        for container in pod["spec"]["containers"]
    }
    assert images == {
        f"registry.example/sosie:7@sha256:{'a' * 64}",
        f"registry.example/sosie-gpu:7@sha256:{'b' * 64}",
    }
