"""What the page says, in each language."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Texts:
    """All words of the page. Those in braces are filled in."""

    other_language: str
    mode: str
    custom: str
    cover: str
    repaint: str
    caption: str
    caption_hint: str
    lyrics: str
    lyrics_hint: str
    instrumental: str
    source: str
    start: str
    end: str
    cover_strength: str
    details: str
    vocal_language: str
    bpm: str
    key: str
    time_signature: str
    duration: str
    seed: str
    seed_hint: str
    takes: str
    advanced: str
    steps: str
    guidance: str
    shift: str
    method: str
    audio_format: str
    title: str
    unset: str
    generate: str
    stop: str
    status: str
    player: str
    history: str
    history_pick: str
    show: str
    restore: str
    restore_file: str
    restored: str
    machine: str
    refresh: str
    ready: str
    queued: str
    starts: str
    starts_in: str
    waits: str
    works: str
    left: str
    done: str
    failed: str
    stopped: str
    no_services: str
    limit_source: str
    take: str
    download: str
    free: str
    held_by: str
    held_by_nobody: str
    untrained: str
    text_encoder: str
    dit: str
    vae: str


ENGLISH = Texts(
    other_language="Português",
    mode="Mode",
    custom="Custom",
    cover="Cover (remix)",
    repaint="Repaint",
    caption="Music Caption",
    caption_hint="What the music is like: style, instruments, mood, voice",
    lyrics="Lyrics",
    lyrics_hint="Marks such as [verse] and [chorus] help; empty is instrumental",
    instrumental="Instrumental",
    source="Source audio",
    start="Repaint from (s)",
    end="to (s)",
    cover_strength="How close to the source",
    details="Details",
    vocal_language="Vocal Language",
    bpm="BPM",
    key="Key",
    time_signature="Time Signature",
    duration="Audio Duration (seconds)",
    seed="Seed",
    seed_hint="-1 draws one",
    takes="Takes",
    advanced="Advanced",
    steps="Steps (0: the model's own)",
    guidance="Guidance Scale (0: the model's own)",
    shift="Shift (0: the model's own)",
    method="Method",
    audio_format="Audio Format",
    title="Title",
    unset="any",
    generate="Generate Music",
    stop="Stop",
    status="Generation Status",
    player="Listen",
    history="History",
    history_pick="Past songs",
    show="Show",
    restore="Restore settings",
    restore_file="Restore settings from a file (audio made here, or its .json)",
    restored="The settings are back in the fields.",
    machine="This machine",
    refresh="Refresh",
    ready="Ready.",
    queued="In the queue, number {position}.",
    starts="Starting.",
    starts_in="Starts in about {seconds:.0f} s.",
    waits="{stage}: waits for the device.",
    works="{stage}: {done} of {total}.",
    left="About {seconds:.0f} s left in this stage.",
    done="Done in {seconds:.1f} s.",
    failed="Failed: {message}",
    stopped="Stopped.",
    no_services="The services do not answer: {message}",
    limit_source="Up to {value:g}, set by: {source}",
    take="Take {number}, seed {seed}, {duration:.1f} s",
    download="Download:",
    free="{device}: {free:.1f} of {total:.1f} GiB free",
    held_by="Held by {holders}",
    held_by_nobody="Held by nobody",
    untrained="This model is untrained: what it makes is noise that proves the path, not music.",
    text_encoder="Text encoder",
    dit="Diffusion",
    vae="Decoder",
)
PORTUGUESE = Texts(
    other_language="English",
    mode="Modo",
    custom="Personalizado",
    cover="Cover (remix)",
    repaint="Refazer um trecho",
    caption="Descrição da música",
    caption_hint="Como é a música: estilo, instrumentos, clima, voz",
    lyrics="Letra",
    lyrics_hint="Marcas como [verse] e [chorus] ajudam; vazio é instrumental",
    instrumental="Instrumental",
    source="Áudio de origem",
    start="Refazer de (s)",
    end="até (s)",
    cover_strength="Proximidade da origem",
    details="Detalhes",
    vocal_language="Idioma do canto",
    bpm="BPM",
    key="Tom",
    time_signature="Compasso",
    duration="Duração (segundos)",
    seed="Semente",
    seed_hint="-1 sorteia uma",
    takes="Versões",
    advanced="Avançado",
    steps="Passos (0: o padrão do modelo)",
    guidance="Guidance (0: o padrão do modelo)",
    shift="Shift (0: o padrão do modelo)",
    method="Método",
    audio_format="Formato do áudio",
    title="Título",
    unset="qualquer",
    generate="Gerar música",
    stop="Parar",
    status="Andamento",
    player="Ouvir",
    history="Histórico",
    history_pick="Músicas anteriores",
    show="Mostrar",
    restore="Restaurar ajustes",
    restore_file="Restaurar ajustes de um arquivo (áudio feito aqui, ou o seu .json)",
    restored="Os ajustes estão de volta nos campos.",
    machine="Esta máquina",
    refresh="Atualizar",
    ready="Pronto.",
    queued="Na fila, número {position}.",
    starts="Começando.",
    starts_in="Começa em cerca de {seconds:.0f} s.",
    waits="{stage}: espera pelo dispositivo.",
    works="{stage}: {done} de {total}.",
    left="Faltam cerca de {seconds:.0f} s nesta etapa.",
    done="Pronto em {seconds:.1f} s.",
    failed="Falhou: {message}",
    stopped="Parado.",
    no_services="Os serviços não respondem: {message}",
    limit_source="Até {value:g}, definido por: {source}",
    take="Versão {number}, semente {seed}, {duration:.1f} s",
    download="Baixar:",
    free="{device}: {free:.1f} de {total:.1f} GiB livres",
    held_by="Em uso por {holders}",
    held_by_nobody="Em uso por ninguém",
    untrained="Este modelo não foi treinado: o som é ruído que prova o caminho, não música.",
    text_encoder="Codificador de texto",
    dit="Difusão",
    vae="Decodificador",
)
TEXTS = {"en": ENGLISH, "pt": PORTUGUESE}
