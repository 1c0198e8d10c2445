"""The command line that all services share; every flag overrides a setting."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from acestage.setting_types import Doors, DTypeChoice, LimitsBasis, LogLevel, QuantizationChoice
from acestage.settings import Settings, load_settings, setting_errors
from acestage.warmup import WARMUP_SETTINGS

_STAGE_FLAGS = (
    *("checkpoint", "checkpoints_dir", "adapters_dir", "variant"),
    *("device", "dtype", "threads", "orchestrator"),
    *("max_hold_s", "progress_timeout_s", "offload_dit_to_cpu", "cache_dir"),
)
_ORCHESTRATOR_FLAGS = (
    *("text_encoder", "dit", "vae", "queue_max_count", "concurrent_job_count", "metrics_port"),
    *("limits", "max_duration_s", "max_batch_size", "init_language_model", "language_model"),
    *("lease_ttl_s", "offload_to_cpu", "tmp_dir", "max_audio_bytes", "max_audio_age_h"),
)
_SERVICE_FLAGS = (
    *("host", "port", "insecure", "tls_cert", "tls_key", "tls_ca", "run_dir", "log_level"),
    *("max_vram_gb", "quantization", "vae_tile_frame_count"),
)
_GATEWAY_FLAGS = (
    *("orchestrator", "doors", "rest_host", "rest_port", "page_host", "page_port", "language"),
    *("insecure", "tls_cert", "tls_key", "tls_ca", "log_level"),
    *("output_dir", "max_output_bytes", "max_output_age_h"),
)
_CHOICES = {
    "doors": get_args(Doors),
    "dtype": get_args(DTypeChoice),
    "limits": get_args(LimitsBasis),
    "log_level": get_args(LogLevel),
    "quantization": get_args(QuantizationChoice),
}
_HELP = {
    "dtype": "data type to compute in",
    "log_level": "least severity that is logged",
}


def _flags(service: str) -> tuple[str, ...]:
    match service:
        case "gateway":
            return _GATEWAY_FLAGS
        case "orchestrator":
            return _ORCHESTRATOR_FLAGS + _SERVICE_FLAGS
        case "warmup":
            return WARMUP_SETTINGS
        case _:
            return _STAGE_FLAGS + _SERVICE_FLAGS


def parse(service: str, description: str, arguments: list[str] | None = None) -> tuple[Settings, int | None]:
    """The settings of `service` from its flags, the environment and `.env`, or what stands in for that.

    Returns:
        The settings, and the process with which this one must end (None: none).
    """
    parser = argparse.ArgumentParser(prog=f"python -m services.{service}", description=description)
    for name in _flags(service):
        field = Settings.model_fields[name]
        text = field.description or _HELP[name]
        if name == "port":
            text += f" Default {Settings.model_fields[f'{service}_port'].default}; 0 takes a free one."
        parser.add_argument(
            f"--{name.replace('_', '-')}", help=text, default=argparse.SUPPRESS, choices=_CHOICES.get(name)
        )
    parser.add_argument("--parent-pid", type=int, help="end when this process, the parent, ends")
    parser.add_argument("--env-file", type=Path, help="file to read in the place of .env")
    values: dict[str, Any] = vars(parser.parse_args(arguments))
    parent_pid: int | None = values.pop("parent_pid")
    env_file: Path | None = values.pop("env_file")
    if env_file is not None and not env_file.is_file():
        parser.error(f"--env-file: {env_file} is no file")
    try:
        return load_settings(env_file, **values), parent_pid
    except ValidationError as error:
        sys.exit("\n".join(setting_errors(error)))
