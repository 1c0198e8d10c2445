"""The page itself: what its buttons do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr

from acestage.audio import Audio
from acestage.errors import AcestageError, FieldViolation, InvalidArgumentError
from services.gateway.exports.stored_settings import read_settings
from services.gateway.gateway import UPLOAD_TIMEOUT_S, Gateway
from services.gateway.option_names import renamed
from services.gateway.outputs.takes import settings_of
from services.gateway.page import views
from services.gateway.page.fields import build_fields, keep_fields, limited, lowered, visibility
from services.gateway.page.job_view import JobView, Shown
from services.gateway.page.machine import Machine
from services.gateway.page.restoring import Served, ordered, restored
from services.gateway.page.song_form import FIELDS, OPTION_FIELDS, SHOWN_IN, SongForm
from services.gateway.page.texts import Texts

MACHINE_TICK_S = 5.0
KEPT_UPLOADS_S = 3600
KEPT_PAGE_COUNT = 100
"""Of so many pages that were opened Gradio keeps what they show, 150 KiB each; whichever asked last is kept.
An open one asks at every tick. One that is dropped all the same begins anew, with no song shown."""

QUEUE_POLL_S = 0.05
"""How often Gradio's queue looks whether there is anything to do. Its own 0.001 takes 7 % of an idle CPU."""


class SongPage:
    """The page in one language.

    Args:
        gateway: the parts behind it.
        machine: what the services are; shared by all pages.
        texts: what is written on it.
        other_url: where the page in the other language is.
    """

    def __init__(self, gateway: Gateway, machine: Machine, texts: Texts, other_url: str) -> None:
        self._gateway = gateway
        self._machine = machine
        self._texts = texts
        self._jobs = JobView(gateway, texts)
        with gr.Blocks(
            title="Acestage", analytics_enabled=False, delete_cache=(KEPT_UPLOADS_S, KEPT_UPLOADS_S)
        ) as self.blocks:
            gr.HTML(f'<header><h1>Acestage</h1><a href="{other_url}">{texts.other_language}</a></header>')
            with gr.Row():
                with gr.Column(min_width=320):
                    usable = [name.value for name, fault in gateway.formats.items() if not fault]
                    self._fields = build_fields(texts, usable)
                with gr.Column(min_width=320):
                    self._build_results()
        self.blocks.state_session_capacity = KEPT_PAGE_COUNT
        queue = self.blocks._queue
        queue.sleep_when_free = queue.progress_update_sleep_when_free = QUEUE_POLL_S
        self._labels = {name: field.label for name, field in self._fields.items()}
        self._labels["file"] = texts.restore_file
        self._options = {option: self._labels[name] for option, name in OPTION_FIELDS.items()}

    def _build_results(self) -> None:
        texts, fields = self._texts, self._fields
        inputs = [fields[name] for name in FIELDS]
        with gr.Row():
            generate = gr.Button(texts.generate, variant="primary", elem_id="generate")
            stop = gr.Button(texts.stop, variant="stop")
        status = gr.Textbox(label=texts.status, value=texts.ready, lines=3, interactive=False)
        faults = gr.JSON(visible=False)
        figures = gr.HTML(elem_classes="maybe-empty")
        finished = gr.JSON(visible=False)
        shown = gr.State(Shown())
        with gr.Accordion(texts.history, open=True):
            history = gr.Dropdown([], label=texts.history_pick)
            with gr.Row():
                show = gr.Button(texts.show)
                restore = gr.Button(texts.restore)
            file = gr.File(label=texts.restore_file, type="filepath", height=140, elem_id="restore-file")
        with gr.Accordion(texts.machine, open=True):
            machine = gr.HTML()
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        outputs = [status, faults, figures, finished, history]
        begun = generate.click(self._in_work, None, generate, **quiet).then(
            self._generate, [shown, *inputs], outputs, concurrency_limit=None, **quiet
        )
        # What is wrong comes at once; a song that goes on has nothing to show there.
        begun.then(None, faults, None, js="acestage.showFaults")
        # A value that is none of a field's choices ends it before it begins.
        for ended in (begun.then, begun.failure):
            ended(self._not_in_work, None, generate, **quiet)
        stages = json.dumps([texts.reading, texts.text_encoder, texts.dit, texts.vae])
        status.change(None, status, None, js=f"status => acestage.announce(status, {stages})")
        stop.click(self._jobs.stop, shown, status, concurrency_limit=None, **quiet)
        followed: dict[str, Any] = quiet | {"concurrency_limit": None}
        picked = show.click(self._jobs.picked, [shown, history], outputs, trigger_mode="multiple", **followed)
        rejoined = self.blocks.load(self._jobs.rejoined, shown, outputs, **followed)
        for over in (begun, picked, rejoined):
            over.then(None, finished, None, js="acestage.finishTakes")
        for refilled in (
            restore.click(self._restore, history, [status, *inputs], **quiet),
            file.upload(self._restore_file, file, [status, *inputs], **quiet),
        ):
            refilled.then(None, None, None, js="acestage.refilled")
        history.focus(self._jobs.choices, shown, history, **quiet)

        some = [fields[name] for name in SHOWN_IN]
        changed = fields["mode"].change(visibility, [fields["mode"], *some], some, **quiet)
        changed.then(None, None, None, js="acestage.redraw")
        fields["source"].change(None, fields["source"], None, js="acestage.showSource")
        bounded = [fields[name] for name in ("duration_s", "take_count", "mode", "model")]
        known = gr.State("")
        asked, looked = [known, *bounded[:3]], [machine, known, *bounded]
        # Values beyond what fields allow are what it is to mend, so they have to reach it.
        raw: dict[str, Any] = quiet | {"preprocess": False}
        keep_fields(self.blocks, fields).then(self._look, asked, looked, **raw)
        gr.Timer(MACHINE_TICK_S).tick(self._look, asked, looked, **raw)

    def _in_work(self) -> Any:
        return gr.update(interactive=False, value=self._texts.in_work)

    def _not_in_work(self) -> Any:
        return gr.update(interactive=True, value=self._texts.generate)

    async def _generate(self, shown: Shown, *values: Any) -> AsyncIterator[list[Any]]:
        form = SongForm(*values)
        needs_source = form.mode in SHOWN_IN["source"]
        try:
            if needs_source and not form.source:
                raise InvalidArgumentError.at("source_id", self._texts.source_missing)
            source = await self._upload(form.source if needs_source else None, "source")
            reference = await self._upload(form.reference, "reference")
            order = form.order(_id(source), _id(reference))
            notes = (*_warnings("source", source), *_warnings("reference", reference))
            job = await self._gateway.book.submit(replace(order, notes=notes))
        except InvalidArgumentError as error:
            faults = self._faults(error)
            yield [self._in_labels(faults, error), faults, *[gr.skip()] * 3]
            return
        except AcestageError as error:
            yield [self._jobs.failed(error), {}, *[gr.skip()] * 3]
            return
        async for update in self._jobs.begun(job, shown):
            yield update

    async def _upload(self, file: str | None, field: str) -> Audio | None:
        if not file:
            return None
        try:
            return await self._gateway.client.upload(Path(file), timeout_s=UPLOAD_TIMEOUT_S)
        except InvalidArgumentError as error:
            raise error.retold(lambda wrong: FieldViolation(field, wrong.description)) from error

    def _faults(self, error: InvalidArgumentError) -> dict[str, str]:
        """What is wrong with each field of the page, or of the request where the page has none."""
        faults: dict[str, list[str]] = {}
        for violation in error.violations:
            name = violation.field.partition("[")[0]
            fault = self._texts.translated(renamed(violation.description, self._options))
            faults.setdefault(OPTION_FIELDS.get(name, name), []).append(fault)
        return {name: "; ".join(found) for name, found in faults.items()}

    def _in_labels(self, faults: dict[str, str], error: InvalidArgumentError) -> str:
        """Each wrong field by the words that stand at it."""
        lines = [f"{self._labels.get(name, name)}: {fault}" for name, fault in faults.items()]
        return "\n".join(lines) or self._texts.translated(error.message)

    async def _restore(self, job_id: str | None) -> list[Any]:
        try:
            record = self._gateway.book.find(job_id or "").record
        except AcestageError as error:
            said = self._jobs.failed(error) if job_id else self._texts.pick_first
            return [said, *[gr.skip()] * len(FIELDS)]
        order = record.order
        made = settings_of(record, record.takes[0].seed) if record.takes else ordered(order)
        handed_over: dict[str, Any] = {"edge_fade_ms": order.edge_fade_ms}
        if not self._gateway.formats[order.audio_format]:
            handed_over["audio_format"] = order.audio_format.value
        return await self._filled(made, handed_over)

    async def _restore_file(self, file: str | None) -> list[Any]:
        if file is None:
            return [gr.skip()] * (1 + len(FIELDS))
        try:
            return await self._filled(await asyncio.to_thread(read_settings, Path(file)))
        except InvalidArgumentError as error:
            return [self._in_labels(self._faults(error), error), *[gr.skip()] * len(FIELDS)]

    async def _filled(
        self, settings: dict[str, Any], handed_over: Mapping[str, Any] = MappingProxyType({})
    ) -> list[Any]:
        """What is said of `settings`, and the fields with them and with how the song was `handed_over`."""
        try:
            served = Served.of(*await self._machine.look())
        except AcestageError:  # the fields are those of a machine that is not known
            served = Served()
        back = restored(settings, served)
        values = {**back.values, **handed_over}
        said = views.restored(back, self._labels, self._texts)
        return [said, *(values.get(name, gr.skip()) for name in FIELDS)]

    async def _look(self, known: str, duration_s: float, take_count: int, mode: str) -> list[Any]:
        """What the machine is; and limits and choices of the fields, where those `known` are others or a
        value is beyond them."""
        texts = self._texts
        try:
            limits, status = await self._machine.look()
        except AcestageError as error:
            problem = escape(texts.filled(texts.no_services, message=error.message))
            return [problem, "", *[gr.skip()] * 4]
        shown = views.machine(status, limits, texts)
        served = Served.of(limits, status)
        values = lowered(served, duration_s, take_count, mode)
        found = repr((limits.max_duration_s, limits.max_batch_size, served.modes, status.served_models))
        if found == known and not values:
            return [shown, *[gr.skip()] * 5]
        return [shown, found, *limited(limits, status, values, texts)]


def _id(audio: Audio | None) -> str | None:
    return audio.audio_id if audio else None


def _warnings(field: str, audio: Audio | None) -> Iterator[str]:
    for warning in audio.warnings if audio else ():
        yield f"{field}: {warning}"
