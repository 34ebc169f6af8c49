"""The sections of a deployment's settings: what each means, its bounds, its default."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

CARD = "a built-in card's name, or the path of a card"

Fmr = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    # A misspelt setting would silently mean its default.
    model_config = ConfigDict(extra="forbid", frozen=True)


class RegistrySettings(Section):
    """Where the store is. A relative SQLite path lies in the home folder."""

    url: SecretStr = Field(
        default=SecretStr("sqlite:///registry.sqlite"),
        description="SQLAlchemy URL: sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME",
    )


class ModelSettings(Section):
    """Which models run, and how."""

    embedder: str = Field(default="sface", description=CARD)
    detector: str = Field(default="yunet", description=CARD)
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = Field(
        default="auto", description="of ONNX Runtime; auto: the fastest that is installed"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="bfloat16: openvino alone; float16: cuda, tensorrt"
    )
    threads: int = Field(default=0, ge=0, description="threads for a batch; 0: one for each core")
    flip: bool = Field(
        default=False, description="average each face with its mirror image: twice the time"
    )


class ThresholdSettings(Section):
    """False match rates; the model's calibration turns them into scores."""

    verify_fmr: Fmr = Field(default=1e-4, description="live photograph against portrait")
    same_document_fmr: Fmr = Field(default=1e-4, description="returning subscriber")
    review_fmr: Fmr = Field(default=1e-6, description="1:N: possible duplicate")
    certain_margin: float = Field(
        default=0.06, ge=0, lt=1, description="1:N: score above the calibration's highest impostor"
    )


class RegistrarSettings(Section):
    """How many decisions one transaction holds, and how many may wait."""

    batch_size: int = Field(
        default=32, ge=1, le=1024, description="decisions in one transaction, at most"
    )
    queue_size: int = Field(
        default=1024, ge=1, description="that wait; beyond, they are refused with 429"
    )


class GallerySettings(Section):
    """How the gallery is searched, and where its vectors are kept."""

    kind: Literal["exact8", "flat", "fastscan", "ivf", "hnsw"] = Field(
        default="exact8",
        description="exact8 and flat find all; the others miss some (see sosie index advise)",
    )
    rows: Literal["float32", "float16"] = Field(
        default="float32", description="exact8: float16 takes 256 bytes a reference less at 128-d"
    )
    mapped: bool = Field(
        default=False, description="exact8: vectors stay in the snapshot's files, read on demand"
    )
    head_rows: int = Field(
        default=8192, ge=64, le=1 << 20, description="exact8: references that make a segment"
    )
    erasure_deadline_h: float = Field(
        default=24,
        ge=0,
        le=8760,
        description="hours until segments are rewritten without what was removed",
    )

    shards: int = Field(
        default=0,
        ge=0,
        le=256,
        description="service: actors on Ray that hold the gallery, by turns; 0: in the registrar",
    )
    shard_resource: str = Field(
        default="",
        description="service: the Ray resource that a shard takes one of, to place it by node",
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind != "exact8" and (self.mapped or self.rows != "float32"):
            raise ValueError("rows and mapped are for kind exact8")
        if self.mapped and self.shards:
            raise ValueError("mapped galleries have no shards: choose one of both")
        return self


class ServeSettings(Section):
    """The service: where it listens, how much it runs, and how much may wait."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8700, ge=1, le=65535, description="port to listen on")
    ray_address: str = Field(
        default="", description='a running Ray cluster ("auto", HOST:PORT); empty starts one here'
    )
    ingress_replicas: int = Field(default=0, ge=0, le=1024, description="0: one for each core")
    embedder: Literal["ingress", "deployment"] = Field(
        default="ingress",
        description="where faces are embedded: in each ingress (CPU) or apart, in batches (GPU)",
    )
    embedder_replicas: int = Field(default=1, ge=1, le=256, description="embedders of a deployment")
    embedder_gpus: float = Field(default=0, ge=0, description="GPUs that each embedder takes")
    max_body_mib: float = Field(
        default=32, gt=0, le=1024, description="a larger body is refused before it is read"
    )
    body_timeout_s: float = Field(default=10, gt=0, description="a slower client is sent away")
    request_timeout_s: float = Field(
        default=30, gt=0, description="deadline of a request that brings none"
    )
    requests_ongoing: int = Field(default=256, ge=1, description="at once, in each ingress")
    matches_ongoing: int = Field(
        default=16, ge=0, le=1024, description="/v1/match at once, for each ingress; 0: no bound"
    )
    enrollments_ongoing: int = Field(
        default=5, ge=0, le=1024, description="enrollments at once, for each ingress; 0: no bound"
    )
    photographs_waiting: int = Field(default=64, ge=2, description="in each ingress")
    probes_waiting: int = Field(default=2048, ge=1, description="for a search, in the registrar")
    template_ttl_h: float = Field(
        default=24, gt=0, description="how long an issued template is taken"
    )
    key_cache_s: float = Field(
        default=5, ge=0, description="how long a revoked key may still be taken"
    )
    rate_limit: float = Field(
        default=0, ge=0, description="items a second for a key without its own; 0: no limit"
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="/metrics without a key, on loopback; 0: not"
    )
    log_file: str = Field(default="log/service.jsonl", description="in the home folder")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="what is logged, and all that is graver"
    )
    trace_endpoint: str = Field(
        default="", description="OTLP over HTTP, as http://127.0.0.1:4318/v1/traces; empty: none"
    )
    trace_ratio: float = Field(default=0.01, ge=0, le=1, description="share of requests traced")
    drain_s: float = Field(default=30, ge=0, description="how long a stop waits for what runs")
    proxy: Literal["haproxy", "ray"] = Field(
        default="haproxy", description="ray: Serve's own proxy, ten times slower; for comparison"
    )


class SweepSettings(Section):
    """Sweeps of the whole gallery: where they keep what they find, and what they may take."""

    folder: str = Field(default="sweeps", description="in the home folder")
    threads: int = Field(default=0, ge=0, le=1024, description="0: one for each core")
    fmr: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="false match rate that chooses the threshold; 0: the one that is proposed",
    )
    false_pairs: float = Field(
        default=0.01,
        gt=0,
        le=1000,
        description="how many false pairs for each new reference a proposal may bring",
    )
    keep_days: int = Field(
        default=365,
        ge=0,
        le=36500,
        description="how long the files of a done sweep are kept; 0: for good",
    )


class RetentionSettings(Section):
    """How many days what is no longer needed is kept; 0 keeps it. What stands under a document
    that an open case names stays until that is closed."""

    rejected_days: int = Field(
        default=180,
        ge=0,
        le=36500,
        description="scores, consent and stored answer of a rejected attempt, and a document that "
        "nobody was ever approved under; 0: kept",
    )
    review_days: int = Field(
        default=180,
        ge=0,
        le=36500,
        description="the same of an attempt that went to review, since its case was closed, or "
        "since its decision where it had none; 0: kept",
    )
    closed_lines_days: int = Field(
        default=730, ge=0, le=36500, description="the number of a line since it was closed; 0: kept"
    )
    answers_days: int = Field(
        default=30,
        ge=0,
        le=36500,
        description="stored answers: an Idempotency-Key sent again later is judged anew; 0: kept",
    )
    daily_at: str = Field(
        default="02:30",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$",
        description="service: when all this leaves, UTC; empty: only by sosie retention run",
    )


class CropsSettings(Section):
    """Aligned faces, 112 pixels wide and high, sealed, for those who decide cases."""

    keep: Literal["none", "cases", "all"] = Field(
        default="none", description="none, those of attempts that opened a case, or all"
    )
    days: int = Field(
        default=30, ge=1, le=3650, description="how long a crop is kept, whatever is open about it"
    )
