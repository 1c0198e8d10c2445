"""A job in the words of upstream's `/query_result`."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from services.gateway.jobs.record import JobRecord, JobState, Take
from services.gateway.rest.orders.field_names import limited_field

UNKNOWN = "N/A"
_STATUS = {JobState.SUCCEEDED: 1, JobState.FAILED: 2, JobState.CANCELLED: 2}


def task_answer(record: JobRecord, default_model: str) -> dict[str, Any]:
    """The entry of a job in the list that answers a query.

    Args:
        record: of the job.
        default_model: that a job takes which names none.
    """
    return {
        "task_id": record.job_id,
        "status": _STATUS.get(record.state, 0),
        "result": json.dumps(_items(record, default_model), ensure_ascii=False),
        "progress_text": progress_text(record),
    }


def unknown_task_answer(task_id: str) -> dict[str, Any]:
    return {"task_id": task_id, "status": 0, "result": "[]", "progress_text": ""}


def progress_text(record: JobRecord) -> str:
    """Where this job is, in words; nothing of any other."""
    progress = record.progress
    match record.state:
        case JobState.QUEUED:
            return f"queued, number {progress.queue_position}" if progress.queue_position else "queued"
        case JobState.RUNNING if progress.is_waiting:
            return f"{progress.stage}: waits for the device, number {progress.device_position}"
        case JobState.RUNNING if progress.total_count:
            return f"{progress.stage}: {progress.done_count} of {progress.total_count}"
        case JobState.RUNNING:
            return f"{progress.stage}: starts" if progress.stage else "starts"
        case _:
            return record.failure.message if record.failure else record.state.value


def audio_path(record: JobRecord, take: Take) -> str:
    """The address of a take's file, as upstream gives it."""
    return f"/v1/audio?path={quote(f'{record.job_id}/{take.file or take.master}', safe='')}"


def _items(record: JobRecord, default_model: str) -> list[dict[str, Any]]:
    return [_item(record, take, default_model) for take in record.takes or (None,)]


def _item(record: JobRecord, take: Take | None, default_model: str) -> dict[str, Any]:
    options, settings = record.order.options, record.settings or {}
    model = settings.get("model") or {}
    seeds = [str(entry.seed) for entry in record.takes]
    item = {
        "file": audio_path(record, take) if take else "",
        "wave": "",
        "status": _STATUS.get(record.state, 0),
        "create_time": int(record.created_at.timestamp()),
        "env": "production",
        "prompt": record.order.caption,
        "lyrics": options.get("lyrics", ""),
        "metas": {
            "bpm": settings.get("bpm") or options.get("bpm") or UNKNOWN,
            "duration": settings.get("duration_s") or options.get("duration_s") or UNKNOWN,
            "genres": UNKNOWN,
            "keyscale": settings.get("key_scale") or options.get("key_scale") or UNKNOWN,
            "timesignature": settings.get("time_signature") or options.get("time_signature") or UNKNOWN,
        },
        "generation_info": _generation_info(record, take),
        "seed_value": ",".join(seeds),
        "lm_model": "",
        "dit_model": model.get("name") or options.get("model") or default_model,
        "progress": round(record.fraction, 3),
        "stage": record.progress.stage or record.state.value,
    }
    if record.failure is not None:
        item["error"] = record.failure.message
    return item


def _generation_info(record: JobRecord, take: Take | None) -> str:
    """What a person wants to know of how it was made."""
    lines = [] if record.run_s is None else [f"{record.run_s:.1f} s of work"]
    lines += record.order.notes
    lines += [
        f"{limited_field(clamped['field'])}: {clamped['requested']:g} was lowered to "
        f"{clamped['limit']['value']:g} "
        f"({clamped['limit']['source']})"
        for clamped in record.clamped
    ]
    return "\n".join([*lines, *(take.warnings if take else ())])
