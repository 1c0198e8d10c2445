"""Which settings each service takes as flags, besides its port and the addresses of others."""

from __future__ import annotations

_GRPC_SETTINGS = ("host", "insecure", "tls_cert", "tls_key", "tls_ca", "run_dir", "log_level", "max_vram_gb")
_ORCHESTRATOR_SETTINGS = (
    *("queue_max_count", "concurrent_job_count", "metrics_port", "lease_ttl_s", "offload_to_cpu"),
    *("quantization", "vae_tile_frame_count"),
    *("limits", "max_duration_s", "max_batch_size", "init_language_model", "language_model"),
    *("tmp_dir", "max_audio_bytes", "max_audio_age_h"),
)
_STAGE_SETTINGS = (
    *("checkpoint", "checkpoints_dir", "variant", "device", "dtype", "threads"),
    *("max_hold_s", "progress_timeout_s", "cache_dir"),
)
_SETTINGS_OF_ONE_STAGE = {
    "text_encoder": ("quantization",),
    "dit": ("quantization", "adapters_dir", "offload_dit_to_cpu"),
    "vae": ("vae_tile_frame_count",),
}
_GATEWAY_SETTINGS = (
    *("doors", "rest_host", "rest_port", "page_host", "page_port", "language"),
    *("insecure", "tls_cert", "tls_key", "tls_ca", "log_level"),
    *("output_dir", "max_output_bytes", "max_output_age_h", "tmp_dir"),
)
_WARMUP_SETTINGS = ("checkpoint", "checkpoints_dir", "variant", "device", "dtype", "cache_dir", "log_level")


def settings_of(service: str) -> tuple[str, ...]:
    """The names of the settings of `service`: "gateway", "warmup", "orchestrator" or a stage."""
    match service:
        case "gateway":
            return _GATEWAY_SETTINGS
        case "warmup":
            return _WARMUP_SETTINGS
        case "orchestrator":
            return _ORCHESTRATOR_SETTINGS + _GRPC_SETTINGS
        case _:
            return _SETTINGS_OF_ONE_STAGE[service] + _STAGE_SETTINGS + _GRPC_SETTINGS
