"""How a job stands, as `/query_result` says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from acestage.generation import STAGES
from services.gateway.jobs.record import JobRecord, JobState, Progress, Take

RUNNING, DONE, FAILED = 0, 1, 2

_NOT_KNOWN = "N/A"
_UNITS = {"dit": "steps", "vae": "tiles"}


def task_result(record: JobRecord) -> dict[str, Any]:
    """Where a task is; `result` is a list of its tracks as JSON text."""
    items = [_track(record, take) for take in record.takes] or [_item(record)]
    return {
        "task_id": record.job_id,
        "status": _status(record),
        "result": json.dumps(items, ensure_ascii=False),
        "progress_text": _progress_text(record),
    }


def unknown_task(task_id: str) -> dict[str, Any]:
    return {"task_id": task_id, "status": RUNNING, "result": "[]", "progress_text": ""}


def _status(record: JobRecord) -> int:
    if record.state is JobState.SUCCEEDED:
        return DONE
    return FAILED if record.state.is_final else RUNNING


def _track(record: JobRecord, take: Take) -> dict[str, Any]:
    name = quote(f"{record.job_id}/{take.file or take.master}", safe="")
    return _item(record) | {
        "file": f"/v1/audio?path={name}",
        "generation_info": "; ".join((*_made(record), *record.order.notes, *take.warnings)),
    }


def _item(record: JobRecord) -> dict[str, Any]:
    options: Mapping[str, Any] = record.settings or record.order.options
    model = options.get("model") or ""
    seeds = [take.seed for take in record.takes] or options.get("seeds") or [options.get("seed", "")]
    item = {
        "file": "",
        "wave": "",
        "status": _status(record),
        "create_time": int(record.created_at.timestamp()),
        "env": "acestage",
        "prompt": record.order.caption,
        "lyrics": options.get("lyrics") or "",
        "metas": {
            "bpm": options.get("bpm") or _NOT_KNOWN,
            "duration": options.get("duration_s") or _NOT_KNOWN,
            "genres": _NOT_KNOWN,
            "keyscale": options.get("key_scale") or _NOT_KNOWN,
            "timesignature": options.get("time_signature") or _NOT_KNOWN,
        },
        "generation_info": "; ".join(record.order.notes),
        "seed_value": ",".join(map(str, seeds)),
        "lm_model": "",
        "dit_model": model["name"] if isinstance(model, dict) else model,
        "progress": _fraction(record),
        "stage": record.progress.stage or record.state.value,
    }
    if record.failure is not None:
        item["error"] = f"{record.failure.reason}: {record.failure.message}"
    return item


def _made(record: JobRecord) -> list[str]:
    return [f"made in {record.run_s:.1f} s"] if record.run_s is not None else []


def _fraction(record: JobRecord) -> float:
    """Stages that are done, and the steps or tiles of the one at work, of all stages."""
    if record.state.is_final:
        return 1.0 if record.state is JobState.SUCCEEDED else 0.0
    progress = record.progress
    if progress.stage not in STAGES:
        return 0.0
    share = progress.done_count / progress.total_count if progress.total_count else 0.0
    return round((STAGES.index(progress.stage) + share) / len(STAGES), 4)


def _progress_text(record: JobRecord) -> str:
    if record.failure is not None:
        return record.failure.message
    if record.state.is_final:
        return record.state.value
    return _where(record.progress)


def _where(progress: Progress) -> str:
    if progress.queue_position:
        return f"queued, position {progress.queue_position}"
    if not progress.stage:
        return "queued"
    if progress.is_waiting:
        return f"{progress.stage}: waits for the device, position {progress.device_position}"
    if not progress.total_count:
        return progress.stage
    unit = _UNITS.get(progress.stage, "parts")
    text = f"{progress.stage}: {progress.done_count} of {progress.total_count} {unit}"
    left_s = progress.stage_left_s
    return text if left_s is None else f"{text}, about {left_s:.0f} s left"
