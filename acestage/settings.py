"""All settings, read once at the edge from flags, the environment and `.env`, and passed down from there.

A flag wins over the environment, the environment over `.env`. Names that upstream ACE-Step users already
have in their `.env` (`ACESTEP_…`) are honoured.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from acestage.setting_types import (
    Address,
    ApiKeyText,
    Checkpoints,
    Device,
    Doors,
    DTypeChoice,
    LanguageChoice,
    LimitsBasis,
    LogLevel,
    QuantizationChoice,
    Switch,
    UserPath,
    language_of_system,
    split_list,
)

EMBEDDED_CHECKPOINT = "tiny-turbo"
"""The checkpoint in the package: untrained, a few MB, the default where no other is named."""

SERVICES = ("orchestrator", "text_encoder", "dit", "vae")
"""Those that talk gRPC; the gateway, which opens the front doors, is a client of the orchestrator."""


def _default_run_dir() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "acestage" if base else Path(f"/tmp/acestage-{os.getuid()}")


def _default_tmp_dir() -> Path:
    return Path(f"/tmp/acestage-{os.getuid()}")


def _default_cache_dir() -> Path:
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "acestage"
    home = os.path.expanduser("~")
    # A user without a home has it where temporary files are, as in a container with a user of its own.
    return Path(home, ".cache", "acestage") if os.path.isabs(home) else _default_tmp_dir() / "cache"


def _names(*names: str) -> AliasChoices:
    return AliasChoices(*names)


def _port(service: str, default: int) -> Any:
    alias = _names(f"ACESTAGE_{service.upper()}_PORT")
    return Field(default, ge=1, le=65535, validation_alias=alias, description=f"Port of the {service}.")


def _address(service: str) -> Any:
    alias = _names(f"ACESTAGE_{service.upper()}")
    return Field(None, validation_alias=alias, description=f"Where the {service} answers, host:port.")


class Settings(BaseSettings):
    """Settings of every process of Acestage; each process uses those that concern it."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        # Which no variable can have: else the name of a field alone, such as HOST, would be a setting too.
        env_prefix="-",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    variant: str | None = Field(
        None,
        validation_alias=_names("ACESTAGE_VARIANT", "ACESTEP_CONFIG_PATH"),
        description="Which model of an original-layout folder to use, for example acestep-v15-base; "
        "where no checkpoint is named, the checkpoint's name.",
    )
    checkpoint: Checkpoints = Field(
        default_factory=lambda given: given.get("variant") or EMBEDDED_CHECKPOINT,
        validation_alias=_names("ACESTAGE_CHECKPOINT"),
        description="A checkpoint folder, or the name of one in the checkpoints folder; several with commas.",
    )
    checkpoints_dir: UserPath = Field(
        Path("checkpoints"),
        validation_alias=_names("ACESTAGE_CHECKPOINTS_DIR", "ACESTEP_CHECKPOINTS_DIR"),
        description="Where downloaded checkpoints lie.",
    )
    adapters_dir: UserPath = Field(
        Path("adapters"),
        validation_alias=_names("ACESTAGE_ADAPTERS_DIR"),
        description="Where LoRA adapters lie: folders of PEFT's, and .safetensors files.",
    )
    device: Device = Field(
        "auto",
        validation_alias=_names("ACESTAGE_DEVICE", "ACESTEP_DEVICE"),
        description="auto, cpu, cuda or cuda:N.",
    )
    dtype: DTypeChoice = Field(
        "auto",
        validation_alias=_names("ACESTAGE_DTYPE"),
        description="auto, float32, bfloat16 or float16: what the models compute in.",
    )
    quantization: QuantizationChoice = Field(
        "auto",
        validation_alias=_names("ACESTAGE_QUANTIZATION"),
        description="auto, none or int8: auto takes int8 where the weights do not fit otherwise.",
    )
    max_vram_gb: float | None = Field(
        None,
        gt=0,
        validation_alias=_names("MAX_CUDA_VRAM"),
        description="Treat the device as one of so many gigabytes.",
    )
    offload_to_cpu: Switch = Field(
        None,
        validation_alias=_names("ACESTEP_OFFLOAD_TO_CPU"),
        description="auto, true or false; true: one stage on the device at a time, whatever its size.",
    )
    offload_dit_to_cpu: Switch = Field(
        None,
        validation_alias=_names("ACESTEP_OFFLOAD_DIT_TO_CPU"),
        description="auto, true or false; true: the DiT leaves the device after each job.",
    )
    vae_tile_frame_count: int | None = Field(
        None,
        ge=1,
        validation_alias=_names("ACESTAGE_VAE_TILE_FRAMES", "ACESTEP_VAE_DECODE_CHUNK_SIZE"),
        description="The most latent frames that the VAE decodes at once.",
    )
    pytorch_cuda_alloc_conf: str | None = Field(
        None,
        validation_alias=_names("PYTORCH_CUDA_ALLOC_CONF"),
        description="How the workers' allocator on the GPU works, in PyTorch's own words.",
    )
    limits: LimitsBasis = Field(
        "planner",
        validation_alias=_names("ACESTAGE_LIMITS"),
        description="planner or tier: what fits on the device by plan, or a fixed table by its size.",
    )
    max_duration_s: float | None = Field(
        None,
        ge=10,
        validation_alias=_names("ACESTEP_MAX_DURATION"),
        description="The longest song in seconds, where the device allows as much.",
    )
    max_batch_size: int | None = Field(
        None,
        ge=1,
        validation_alias=_names("ACESTEP_MAX_BATCH_SIZE"),
        description="The most takes of one request.",
    )
    init_language_model: Switch = Field(
        None,
        validation_alias=_names("ACESTEP_INIT_LLM", "ACESTEP_INIT_LM_DEFAULT"),
        description="auto, true or false; false: no language model may be used.",
    )
    language_model: str | None = Field(
        None,
        validation_alias=_names("ACESTEP_LM_MODEL_PATH"),
        description="The only language model that may be used, for example acestep-5Hz-lm-0.6B.",
    )
    host: str = Field(
        "127.0.0.1", validation_alias=_names("ACESTAGE_HOST"), description="Address that servers bind."
    )
    port: int | None = Field(
        None,
        ge=0,
        le=65535,
        validation_alias=_names("ACESTAGE_PORT"),
        description="Port of this one service, whichever it is.",
    )
    orchestrator_port: int = _port("orchestrator", 50050)
    text_encoder_port: int = _port("text_encoder", 50051)
    dit_port: int = _port("dit", 50052)
    vae_port: int = _port("vae", 50053)
    orchestrator: Address | None = _address("orchestrator")
    text_encoder: Address | None = _address("text_encoder")
    dit: Address | None = _address("dit")
    vae: Address | None = _address("vae")
    api_key: ApiKeyText | None = Field(
        None,
        validation_alias=_names("ACESTAGE_API_KEY", "ACESTEP_API_KEY"),
        description="The key that clients must bring: of gRPC, of REST, of the web page.",
    )
    insecure: bool = Field(
        False,
        validation_alias=_names("ACESTAGE_INSECURE"),
        description="true: other machines may come without a key.",
    )
    tls_cert: UserPath | None = Field(
        None,
        validation_alias=_names("ACESTAGE_TLS_CERT"),
        description="Certificate of the servers, PEM, and those between it and its authority; needs tls_key.",
    )
    tls_key: UserPath | None = Field(
        None, validation_alias=_names("ACESTAGE_TLS_KEY"), description="Private key of tls_cert, PEM."
    )
    tls_ca: UserPath | None = Field(
        None,
        validation_alias=_names("ACESTAGE_TLS_CA"),
        description="Certificates, PEM, that may vouch for servers; with tls_cert and without this, itself.",
    )
    doors: Doors = Field(
        "both",
        validation_alias=_names("ACESTAGE_DOORS"),
        description="both, rest, page or none: what acestage up opens besides gRPC.",
    )
    rest_host: str = Field(
        "127.0.0.1",
        validation_alias=_names("ACESTAGE_REST_HOST", "ACESTEP_API_HOST"),
        description="Address that the REST interface binds.",
    )
    rest_port: int = Field(
        8001,
        ge=0,
        le=65535,
        validation_alias=_names("ACESTAGE_REST_PORT", "ACESTEP_API_PORT"),
        description="Port of the REST interface; 0 takes a free one.",
    )
    page_host: str = Field(
        "127.0.0.1",
        validation_alias=_names("ACESTAGE_PAGE_HOST", "SERVER_NAME"),
        description="Address that the web page binds.",
    )
    page_port: int = Field(
        7860,
        ge=0,
        le=65535,
        validation_alias=_names("ACESTAGE_PAGE_PORT", "PORT"),
        description="Port of the web page; 0 takes a free one.",
    )
    system_language: str | None = Field(
        None,
        validation_alias=_names("LANGUAGE"),
        description="Locale of the system: its language is the web page's where none is chosen.",
    )
    language: LanguageChoice = Field(
        "en",
        validation_alias=_names("ACESTAGE_LANGUAGE"),
        description="en or pt: the language in which the web page begins.",
    )
    output_dir: UserPath = Field(
        Path("outputs"),
        validation_alias=_names("ACESTAGE_OUTPUT_DIR"),
        description="Where the gateway keeps finished songs and their settings.",
    )
    max_output_bytes: int = Field(
        10 << 30,
        ge=1 << 20,
        validation_alias=_names("ACESTAGE_MAX_OUTPUT_BYTES"),
        description="Bytes of finished songs that are kept; the oldest go first.",
    )
    max_output_age_h: float = Field(
        168.0,
        gt=0,
        validation_alias=_names("ACESTAGE_MAX_OUTPUT_AGE_H"),
        description="Hours after which finished songs are dropped.",
    )
    run_dir: UserPath = Field(
        default_factory=_default_run_dir,
        validation_alias=_names("ACESTAGE_RUN_DIR"),
        description="Device locks and the ledger's epoch; shared by all services of a machine.",
    )
    cache_dir: UserPath = Field(
        default_factory=_default_cache_dir,
        validation_alias=_names("ACESTAGE_CACHE_DIR"),
        description="What takes long to find out and can be found again; it may be deleted at any time.",
    )
    warmup: bool = Field(
        True,
        validation_alias=_names("ACESTAGE_WARMUP"),
        description="true: acestage up compiles missing kernels for the CPU in the background.",
    )
    tmp_dir: UserPath = Field(
        default_factory=_default_tmp_dir,
        validation_alias=_names("ACESTAGE_TMPDIR", "ACESTEP_TMPDIR"),
        description="Where audio that clients send lies; ids stay valid as long as this folder does.",
    )
    max_audio_bytes: int = Field(
        4 << 30,
        ge=1 << 20,
        validation_alias=_names("ACESTAGE_MAX_AUDIO_BYTES"),
        description="Bytes of uploaded audio that are kept; what was not used for longest goes first.",
    )
    max_audio_age_h: float = Field(
        168.0,
        gt=0,
        validation_alias=_names("ACESTAGE_MAX_AUDIO_AGE_H"),
        description="Hours after which uploaded audio that nobody used is dropped.",
    )
    queue_max_count: int = Field(
        200,
        ge=1,
        validation_alias=_names("ACESTAGE_QUEUE_MAXSIZE", "ACESTEP_QUEUE_MAXSIZE"),
        description="Jobs that may wait at most.",
    )
    concurrent_job_count: int | None = Field(
        None,
        ge=1,
        validation_alias=_names("ACESTAGE_CONCURRENT_JOBS"),
        description="Jobs in work at the same time, which go through a stage together; "
        "else 1 on a CPU, where they would wait for each other, and 4 on a GPU.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        validation_alias=_names("ACESTAGE_METRICS_PORT"),
        description="Port on which the orchestrator serves metrics for Prometheus.",
    )
    lease_ttl_s: float = Field(
        10.0,
        ge=4.0,
        validation_alias=_names("ACESTAGE_LEASE_TTL"),
        description="Seconds after which a lease that is not renewed expires.",
    )
    max_hold_s: float = Field(
        5.0,
        ge=0,
        validation_alias=_names("ACESTAGE_MAX_HOLD"),
        description="Seconds after which a stage begins no further queued job while others wait.",
    )
    progress_timeout_s: float = Field(
        600.0,
        gt=0,
        validation_alias=_names("ACESTAGE_PROGRESS_TIMEOUT"),
        description="Seconds without a step or a tile after which a worker is replaced.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        validation_alias=_names("ACESTAGE_THREADS"),
        description="CPU threads of a worker, else one for each physical core that it has time on.",
    )
    log_level: LogLevel = Field(
        "INFO",
        validation_alias=_names("ACESTAGE_LOG_LEVEL"),
        description="DEBUG, INFO, WARNING or ERROR: the least severity that is logged.",
    )

    @model_validator(mode="before")
    @classmethod
    def _speak_as_the_system(cls, values: dict[str, Any]) -> dict[str, Any]:
        locale = values.get("LANGUAGE", values.get("system_language"))
        return values if locale is None else {"ACESTAGE_LANGUAGE": language_of_system(locale)} | values

    @property
    def max_device_bytes(self) -> int | None:
        """The size of the device to simulate, in bytes; None takes it as it is."""
        return None if self.max_vram_gb is None else round(self.max_vram_gb * 2**30)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Every checkpoint that is served; the first is the default."""
        return split_list(self.checkpoint)

    def ports(self) -> dict[str, int]:
        """The port of each service where all run on one machine."""
        return {service: getattr(self, f"{service}_port") for service in SERVICES}

    def address(self, service: str) -> str:
        """Where `service` answers: the address that was given, else its port on this machine."""
        given: str | None = getattr(self, service)
        return given or f"127.0.0.1:{self.ports()[service]}"


def load_settings(env_file: Path | None = None, **flags: Any) -> Settings:
    """The settings, where each of `flags` wins over the environment, and that over `env_file`, else `.env`.

    Raises:
        ValidationError: a setting is wrong, or the file is no text; `setting_errors` says which.
    """
    source: dict[str, Any] = {} if env_file is None else {"_env_file": env_file}
    try:
        return Settings(**source, **flags)
    except UnicodeDecodeError as error:
        raise ValidationError.from_exception_data(
            Settings.__name__,
            [
                {
                    "type": PydanticCustomError("encoding", "is no text in UTF-8"),
                    "loc": (str(env_file or ".env"),),
                    "input": error.object[error.start : error.end],
                }
            ],
        ) from error
