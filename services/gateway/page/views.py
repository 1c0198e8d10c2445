"""Parts of the page that show something: progress, takes, the machine."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from acestage.limits import Limit, Limits
from acestage.planning import GIB
from acestage.status import Status
from services.gateway.gateway import Gateway
from services.gateway.jobs.job import Job
from services.gateway.jobs.record import JobRecord, JobState
from services.gateway.page.restoring import Restored
from services.gateway.page.texts import Texts

MAX_NAMED_COUNT = 12
"""Of settings that anybody's file may have."""
LISTED_COUNT = 100
"""Of jobs, whose list Gradio keeps for each page."""


def progress(job: Job, gateway: Gateway, texts: Texts) -> str:
    """Where a job is, in a sentence or two."""
    record = job.record
    match record.state:
        case JobState.SUCCEEDED:
            notes = map(texts.translated, [*record.order.notes, *record.warnings])
            return "\n".join([texts.filled(texts.done, seconds=record.took_s or 0.0), *notes])
        case JobState.FAILED:
            message = record.failure.message if record.failure else ""
            return texts.filled(texts.failed, message=texts.translated(message))
        case JobState.CANCELLED:
            return texts.stopped
        case JobState.QUEUED if record.progress.queue_position:
            return _queued(record, gateway, texts)
        case _:
            return _stage(record, texts)


def _queued(record: JobRecord, gateway: Gateway, texts: Texts) -> str:
    position = record.progress.queue_position
    text = texts.filled(texts.queued, position=position)
    wait_s = gateway.book.starts_in_s(position)
    return text + _about(texts.starts_in, wait_s, texts)


def _stage(record: JobRecord, texts: Texts) -> str:
    current = record.progress
    if current.is_writing:
        return texts.writing
    if not current.stage:
        return texts.starts
    stage = texts.reading if current.is_source else getattr(texts, current.stage)
    if current.is_waiting or not current.total_count:
        return texts.filled(texts.waits, stage=stage) if current.is_waiting else f"{stage}: {texts.starts}"
    text = texts.filled(texts.works, stage=stage, done=current.done_count, total=current.total_count)
    return text + _about(texts.left, current.stage_left_s, texts)


def _about(text: str, seconds: float | None, texts: Texts) -> str:
    """` ` and `text` with `seconds`, unless they are none that are worth saying."""
    return "" if seconds is None or seconds < 1 else f" {texts.filled(text, seconds=seconds)}"


def figures(job: Job, gateway: Gateway, texts: Texts, *, plays: bool = False) -> str:
    """Each take with its player, which streams while it is decoded; once it is finished, with its pictures
    and a link for each format.

    Args:
        plays: `page.js` starts the first one.
    """
    finished = finished_takes(job, gateway, texts)
    count = len(finished) if job.record.state.is_final else job.record.order.take_count
    parts = []
    for index in range(count):
        name = _figure_id(job, index)
        take = finished.get(name, {"title": texts.filled(texts.take_name, number=index + 1), "details": ""})
        title = escape(take["title"])
        parts.append(
            f'<figure id="{name}"><figcaption>{title}</figcaption>'
            f'<audio class="take" aria-label="{title}" controls '
            f'preload="{"metadata" if finished else "none"}" {"data-plays" if plays and not index else ""} '
            f'src="{_url(job, "audio", index)}&format=mp3"></audio>'
            f'<div class="details">{take["details"]}</div></figure>'
        )
    return "".join(parts)


def finished_takes(job: Job, gateway: Gateway, texts: Texts) -> dict[str, dict[str, str]]:
    """By the id of its figure the title of each finished take, and what else there is of it."""
    usable = [name for name, fault in gateway.formats.items() if not fault]
    found = {}
    for index, take in enumerate(job.record.takes):
        links = " · ".join(
            f'<a href="{_url(job, "audio", index)}&format={name}&download=1" download>{name}</a>'
            for name in usable
        )
        spectrogram = f"{_url(job, 'spectrogram.png', index)}&width=900&height=120"
        found[_figure_id(job, index)] = {
            "title": texts.filled(texts.take, number=index + 1, seed=take.seed, duration=take.duration_s),
            "details": (
                f'<img class="wave" alt="" loading="lazy" src="{_url(job, "waveform.svg", index)}">'
                f'<img alt="" loading="lazy" src="{spectrogram}">'
                f"<p>{texts.download} {links}</p>"
            ),
        }
    return found


def _figure_id(job: Job, index: int) -> str:
    return f"take-{job.job_id}-{index}"


def machine(status: Status, limits: Limits, texts: Texts) -> str:
    """Memory of the device, who has it, and what it allows."""
    lines = [
        texts.filled(
            texts.free,
            device=f"{device.name or device.device}",
            free=device.free_bytes / GIB,
            total=device.total_bytes / GIB,
        )
        for device in status.devices
    ]
    holders = ", ".join(_holder(lease.holder, texts) for lease in status.leases)
    lines.append(texts.filled(texts.held_by, holders=holders) if holders else texts.held_by_nobody)
    for text, limit in ((texts.longest, limits.max_duration_s), (texts.most_takes, limits.max_batch_size)):
        lines.append(texts.filled(text, value=limit.value, source=texts.translated(limit.source)))
    return "<br>".join(escape(line) for line in lines)


def restored(back: Restored, labels: Mapping[str, str], texts: Texts) -> str:
    """What has come back into the fields, which are called `labels`, and what has not."""
    but = [f"{labels[name]}: {texts.choose_again}" for name in back.to_choose]
    but += [
        f"{labels[name]}: {texts.filled(texts.impossible, value=str(value)[:80])}"
        for name, value in back.impossible.items()
    ]
    but += [f"{name[:80]}: {texts.fieldless}" for name in back.fieldless[:MAX_NAMED_COUNT]]
    return "\n".join([texts.restored_but, *but]) if but else texts.restored


def limit_info(limit: Limit, texts: Texts) -> str:
    return texts.filled(texts.limit_source, value=limit.value, source=texts.translated(limit.source))


def history_choices(gateway: Gateway, texts: Texts, shown_id: str) -> list[tuple[str, str]]:
    """A label and the id of each of the last jobs, the newest first, and of the one that is shown.

    On a phone a label is cut off at its end.
    """
    return [
        (
            f"{texts.states[job.record.state]} · {job.record.created_at.astimezone():%Y-%m-%d %H:%M} · "
            f"{job.record.order.name[:60]}",
            job.job_id,
        )
        for index, job in enumerate(gateway.book.jobs())
        if index < LISTED_COUNT or job.job_id == shown_id
    ]


def _holder(name: str, texts: Texts) -> str:
    """Who holds the device: a stage, which adds the machine and its process to its name, or somebody else."""
    stages = {"text_encoder": texts.text_encoder, "dit": texts.dit, "vae": texts.vae}
    return stages.get(name.partition("@")[0], name)


def _url(job: Job, what: str, take: int) -> str:
    return f"/v1/jobs/{job.job_id}/{what}?take={take}"
