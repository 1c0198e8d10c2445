"""The page itself: its fields, and what its buttons do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from acestage.errors import AcestageError, InvalidArgumentError
from services.gateway.exports.formats import ExportFormat
from services.gateway.exports.stored_settings import read_settings
from services.gateway.gateway import Gateway
from services.gateway.jobs.record import JobState
from services.gateway.outputs.takes import settings_of
from services.gateway.page import views
from services.gateway.page.song_form import (
    COVER,
    CUSTOM,
    FIELDS,
    MODES,
    OPTION_FIELDS,
    REPAINT,
    SongForm,
    restored,
)
from services.gateway.page.texts import Texts

UPLOAD_TIMEOUT_S = 600.0
TICK_S = 0.5
KEPT_UPLOADS_S = 3600
LANGUAGES = ("en", "pt", "es", "fr", "de", "it", "ja", "ko", "zh", "ru")
NOTES = ("C", "C#", "D", "E♭", "E", "F", "F#", "G", "A♭", "A", "B♭", "B")
KEYS = tuple(f"{note} {mode}" for mode in ("major", "minor") for note in NOTES)


class SongPage:
    """The page in one language.

    Args:
        gateway: the parts behind it.
        texts: its words.
        other_url: of the page in the other language.
    """

    def __init__(self, gateway: Gateway, texts: Texts, other_url: str) -> None:
        self._gateway = gateway
        self._texts = texts
        self._fields: dict[str, Any] = {}
        with gr.Blocks(
            title="Acestage", analytics_enabled=False, delete_cache=(KEPT_UPLOADS_S, KEPT_UPLOADS_S)
        ) as self.blocks:
            gr.HTML(f'<header><h1>Acestage</h1><a href="{other_url}">{texts.other_language}</a></header>')
            with gr.Row():
                with gr.Column(min_width=320):
                    self._build_fields()
                with gr.Column(min_width=320):
                    self._build_results()

    def _build_fields(self) -> None:
        texts, fields = self._texts, self._fields
        modes = list(zip((texts.custom, texts.cover, texts.repaint), MODES, strict=True))
        fields["mode"] = gr.Radio(modes, value=CUSTOM, label=texts.mode)
        fields["caption"] = gr.Textbox("", label=texts.caption, placeholder=texts.caption_hint, lines=2)
        fields["lyrics"] = gr.Textbox("", label=texts.lyrics, placeholder=texts.lyrics_hint, lines=6)
        fields["is_instrumental"] = gr.Checkbox(label=texts.instrumental)
        fields["source"] = gr.File(label=texts.source, type="filepath", visible=False)
        with gr.Row():
            fields["start_s"] = gr.Number(label=texts.start, visible=False, value=0)
            fields["end_s"] = gr.Number(label=texts.end, visible=False, value=10)
        fields["cover_strength"] = gr.Slider(
            0, 1, value=1, step=0.05, label=texts.cover_strength, visible=False
        )
        with gr.Row():
            fields["duration_s"] = gr.Slider(10, 600, value=60, step=1, label=texts.duration)
            fields["take_count"] = gr.Slider(1, 8, value=1, step=1, label=texts.takes)
        fields["seed"] = gr.Number(label=texts.seed, info=texts.seed_hint, value=-1, precision=0)
        with gr.Accordion(texts.details, open=False):
            fields["vocal_language"] = gr.Dropdown(list(LANGUAGES), value="en", label=texts.vocal_language)
            fields["bpm"] = gr.Number(label=texts.bpm, value=None, precision=0)
            fields["key_scale"] = gr.Dropdown([(texts.unset, ""), *KEYS], value="", label=texts.key)
            fields["time_signature"] = gr.Dropdown(
                [(texts.unset, ""), "2", "3", "4", "6"], value="", label=texts.time_signature
            )
            fields["title"] = gr.Textbox("", label=texts.title)
        with gr.Accordion(texts.advanced, open=False):
            fields["step_count"] = gr.Slider(0, 200, value=0, step=1, label=texts.steps)
            fields["guidance_scale"] = gr.Slider(0, 30, value=0, step=0.1, label=texts.guidance)
            fields["shift"] = gr.Slider(0, 10, value=0, step=0.1, label=texts.shift)
            fields["infer_method"] = gr.Radio(["ode", "sde"], value="ode", label=texts.method)
            usable = [name.value for name, fault in self._gateway.formats.items() if not fault]
            fields["audio_format"] = gr.Dropdown(
                usable, value=ExportFormat.mp3.value, label=texts.audio_format
            )
        shown = [fields[name] for name in ("source", "start_s", "end_s", "cover_strength", "duration_s")]
        fields["mode"].change(_visibility, fields["mode"], shown, show_progress="hidden")

    def _build_results(self) -> None:
        texts = self._texts
        inputs = [self._fields[name] for name in FIELDS]
        with gr.Row():
            generate = gr.Button(texts.generate, variant="primary")
            stop = gr.Button(texts.stop, variant="stop")
        status = gr.Textbox(label=texts.status, value=texts.ready, lines=3, interactive=False)
        player = gr.HTML()
        takes = gr.HTML()
        job_id = gr.State("")
        with gr.Accordion(texts.history, open=True):
            history = gr.Dropdown([], label=texts.history_pick)
            with gr.Row():
                show = gr.Button(texts.show)
                restore = gr.Button(texts.restore)
            file = gr.File(label=texts.restore_file, type="filepath", height=150)
        with gr.Accordion(texts.machine, open=True):
            machine = gr.HTML()
            refresh = gr.Button(texts.refresh, size="sm")
        outputs = [status, player, takes, job_id, history]
        generate.click(self._generate, inputs, outputs, concurrency_limit=None, show_progress="hidden")
        stop.click(self._stop, job_id, status, concurrency_limit=None, show_progress="hidden")
        show.click(self._show, history, outputs, show_progress="hidden")
        restore.click(self._restore, history, [status, *inputs], show_progress="hidden")
        file.upload(self._restore_file, file, [status, *inputs], show_progress="hidden")
        limited = [self._fields["duration_s"], self._fields["take_count"]]
        opened = [machine, history, *limited]
        self.blocks.load(self._opened, None, opened, show_progress="hidden")
        refresh.click(self._machine, None, machine, show_progress="hidden")

    async def _generate(self, *values: Any) -> AsyncIterator[list[Any]]:
        form = SongForm(*values)
        try:
            job = await self._gateway.book.submit(form.order(await self._upload(form)))
        except InvalidArgumentError as error:
            yield [self._in_labels(error), gr.skip(), gr.skip(), gr.skip(), gr.skip()]
            return
        except AcestageError as error:
            yield [self._texts.failed.format(message=error.message), *[gr.skip()] * 4]
            return
        plays = False
        yield [views.progress(job, self._gateway, self._texts), "", "", job.job_id, self._history(job.job_id)]
        while not job.record.state.is_final:
            try:
                async with asyncio.timeout(TICK_S):
                    await job.changed()
            except TimeoutError:
                pass
            begins = not plays and job.live_take(0) is not None
            plays = plays or begins
            sound = views.player(job, int(form.take_count), plays=True) if begins else gr.skip()
            yield [views.progress(job, self._gateway, self._texts), sound, gr.skip(), gr.skip(), gr.skip()]
        succeeded = job.record.state is JobState.SUCCEEDED
        sound = gr.skip() if plays or not succeeded else views.player(job, len(job.record.takes), plays=False)
        yield [
            views.progress(job, self._gateway, self._texts),
            sound,
            views.takes(job, self._gateway, self._texts),
            gr.skip(),
            self._history(job.job_id),
        ]

    async def _upload(self, form: SongForm) -> str | None:
        if form.mode == CUSTOM or not form.source:
            return None
        return (await self._gateway.client.upload(Path(form.source), timeout_s=UPLOAD_TIMEOUT_S)).audio_id

    def _in_labels(self, error: InvalidArgumentError) -> str:
        """Each wrong field by the words that stand at it."""
        lines = []
        for violation in error.violations:
            name = violation.field.partition("[")[0]
            field = self._fields.get(OPTION_FIELDS.get(name, name))
            lines.append(f"{field.label if field is not None else violation.field}: {violation.description}")
        return "\n".join(lines) or error.message

    async def _stop(self, job_id: str) -> str:
        if not job_id:
            return self._texts.ready
        try:
            job = await self._gateway.book.cancel(job_id)
        except AcestageError as error:
            return self._texts.failed.format(message=error.message)
        return views.progress(job, self._gateway, self._texts)

    async def _show(self, job_id: str | None) -> list[Any]:
        try:
            job = self._gateway.book.find(job_id or "")
        except AcestageError as error:
            return [error.message, "", "", "", self._history("")]
        # Of a song that is being made, too: the player waits for its sound.
        is_over = job.record.state.is_final
        take_count = len(job.record.takes) if is_over else job.record.order.options.get("batch_size", 1)
        sound = views.player(job, take_count, plays=False)
        shown = views.takes(job, self._gateway, self._texts)
        text = views.progress(job, self._gateway, self._texts)
        return [text, sound, shown, job.job_id, self._history(job.job_id)]

    async def _restore(self, job_id: str | None) -> list[Any]:
        try:
            record = self._gateway.book.find(job_id or "").record
        except AcestageError as error:
            return [error.message, *[gr.skip()] * len(FIELDS)]
        if not record.takes:
            return [self._texts.failed.format(message=record.state), *[gr.skip()] * len(FIELDS)]
        return self._filled(settings_of(record, record.takes[0].seed))

    async def _restore_file(self, file: str | None) -> list[Any]:
        if file is None:
            return [gr.skip()] * (1 + len(FIELDS))
        try:
            settings = await asyncio.to_thread(read_settings, Path(file))
        except AcestageError as error:
            return [error.message, *[gr.skip()] * len(FIELDS)]
        return self._filled(settings)

    def _filled(self, settings: dict[str, Any]) -> list[Any]:
        values = restored(settings)
        return [self._texts.restored, *(values.get(name, gr.skip()) for name in FIELDS)]

    async def _opened(self) -> list[Any]:
        try:
            limits = await self._gateway.client.limits()
        except AcestageError:
            return [await self._machine(), self._history(""), gr.skip(), gr.skip()]
        longest, most = limits.max_duration_s, limits.max_batch_size
        return [
            await self._machine(),
            self._history(""),
            gr.update(maximum=longest.value, info=views.limit(longest, self._texts)),
            gr.update(maximum=most.value, info=views.limit(most, self._texts), interactive=most.value > 1),
        ]

    async def _machine(self) -> str:
        try:
            return views.machine(await self._gateway.client.status(), self._texts)
        except AcestageError as error:
            return escape(self._texts.no_services.format(message=error.message))

    def _history(self, job_id: str) -> Any:
        return gr.update(choices=views.history_choices(self._gateway), value=job_id or None)


def _visibility(mode: str) -> list[Any]:
    is_repaint = mode == REPAINT
    visible = [mode != CUSTOM, is_repaint, is_repaint, mode == COVER, mode == CUSTOM]
    return [gr.update(visible=is_visible) for is_visible in visible]
