"""What the page says, in each language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

NOTES = ("C", "C#", "D", "E♭", "E", "F", "F#", "G", "A♭", "A", "B♭", "B")


class _Figures(Formatter):
    """Fills in numbers as people of a language write them."""

    def __init__(self, decimal: str) -> None:
        self._decimal = decimal

    def format_field(self, value: Any, format_spec: str) -> str:
        shown = str(super().format_field(value, format_spec))
        return shown.replace(".", self._decimal) if isinstance(value, float) else shown


@dataclass(frozen=True, slots=True)
class Texts:
    """All words of the page. Those in braces are filled in.

    Attributes:
        code: of the language, as models have it.
        locale: the same, as browsers have it.
        decimal: what stands before the decimals of a number.
        phrases: patterns of what the services say, and words for them.
    """

    code: str
    locale: str
    decimal: str
    other_language: str
    mode: str
    modes: Mapping[str, str]
    caption: str
    caption_hint: str
    lyrics: str
    lyrics_hint: str
    instrumental: str
    source: str
    source_missing: str
    start: str
    start_hint: str
    end: str
    end_hint: str
    cover_strength: str
    track_name: str
    track_classes: str
    track_names: Mapping[str, str]
    details: str
    vocal_language: str
    languages: Mapping[str, str]
    bpm: str
    key: str
    notes: Mapping[str, str]
    scales: Mapping[str, str]
    time_signature: str
    duration: str
    seed: str
    seed_hint: str
    takes: str
    reference: str
    advanced: str
    model: str
    first_model: str
    steps: str
    guidance: str
    shift: str
    method: str
    timesteps: str
    timesteps_hint: str
    adapters: str
    adapters_hint: str
    audio_format: str
    edge_fade: str
    title: str
    unset: str
    generate: str
    stop: str
    status: str
    history: str
    history_pick: str
    show: str
    restore: str
    restore_file: str
    restored: str
    restored_but: str
    choose_again: str
    impossible: str
    fieldless: str
    machine: str
    ready: str
    queued: str
    starts: str
    starts_in: str
    waits: str
    works: str
    left: str
    reading: str
    writing: str
    made_already: str
    done: str
    failed: str
    stopped: str
    states: Mapping[str, str]
    no_services: str
    limit_source: str
    longest: str
    most_takes: str
    take: str
    take_name: str
    pick_first: str
    in_work: str
    download: str
    free: str
    held_by: str
    held_by_nobody: str
    own_choice: str
    text_encoder: str
    dit: str
    vae: str
    phrases: tuple[tuple[str, str], ...] = ()

    def filled(self, text: str, **values: Any) -> str:
        """One of these texts with `values` in the place of what stands in braces."""
        return _Figures(self.decimal).vformat(text, (), values)

    def translated(self, text: str) -> str:
        """What the services say, which is English, as far as `phrases` have patterns and words for it."""
        for pattern, phrase in self.phrases:
            text = re.sub(pattern, phrase, text)
        return text


ENGLISH = Texts(
    code="en",
    locale="en",
    decimal=".",
    other_language="Português",
    mode="Mode",
    modes={
        "text2music": "Custom",
        "cover": "Cover (remix)",
        "repaint": "Repaint",
        "extract": "Extract a track",
        "lego": "Add a track",
        "complete": "Complete a track",
    },
    caption="Music Caption",
    caption_hint="What the music is like: style, instruments, mood, voice",
    lyrics="Lyrics",
    lyrics_hint="Marks such as [verse] and [chorus] help; empty is instrumental",
    instrumental="Instrumental",
    source="Source audio",
    source_missing="is empty; choose the audio to work on",
    start="From (s)",
    start_hint="Empty: the source's start",
    end="To (s)",
    end_hint="Empty: the source's end",
    cover_strength="How close to the source",
    track_name="Track",
    track_classes="Tracks to add",
    track_names={
        "vocals": "vocals",
        "backing_vocals": "backing vocals",
        "drums": "drums",
        "bass": "bass",
        "guitar": "guitar",
        "keyboard": "keyboard",
        "percussion": "percussion",
        "strings": "strings",
        "synth": "synth",
        "fx": "effects",
        "brass": "brass",
        "woodwinds": "woodwinds",
    },
    details="Details",
    vocal_language="Vocal Language",
    languages={
        "en": "English",
        "pt": "Portuguese",
        "es": "Spanish",
        "fr": "French",
        "de": "German",
        "it": "Italian",
        "ja": "Japanese",
        "ko": "Korean",
        "zh": "Chinese",
        "ru": "Russian",
    },
    bpm="BPM",
    key="Key",
    notes={note: note for note in NOTES},
    scales={"major": "major", "minor": "minor"},
    time_signature="Time Signature",
    duration="Audio Duration (seconds)",
    seed="Seed",
    seed_hint="-1 draws one",
    takes="Takes",
    reference="Reference audio (its timbre)",
    advanced="Advanced",
    model="Model",
    first_model="the first that is served",
    steps="Steps",
    guidance="Guidance Scale",
    shift="Shift",
    method="Method",
    timesteps="Timesteps",
    timesteps_hint="In the place of steps and shift, such as 1, 0.75, 0.5, 0.25",
    adapters="LoRA adapters",
    adapters_hint="Names, with how much of each, such as drums:0.8, warm:0.5",
    audio_format="Audio Format",
    edge_fade="Fade at both ends (ms)",
    title="Title",
    unset="any",
    generate="Generate Music",
    stop="Stop",
    status="Generation Status",
    history="History",
    history_pick="Past songs",
    show="Show",
    restore="Restore settings",
    restore_file="Restore settings from a file",
    restored="The settings are back in the fields.",
    restored_but="The settings are back in the fields, but for:",
    choose_again="choose the file again",
    impossible="{value} is not possible here, so this stays as it was",
    fieldless="has no field on this page",
    machine="This machine",
    ready="Ready.",
    queued="In the queue, number {position}.",
    starts="Starting.",
    starts_in="Starts in about {seconds:.0f} s.",
    waits="{stage}: waits for the device.",
    works="{stage}: {done} of {total}.",
    left="About {seconds:.0f} s left in this stage.",
    reading="Reading the source",
    writing="Writing the files.",
    made_already="The song is made already; there is nothing to stop.",
    done="Done in {seconds:.1f} s.",
    failed="Failed: {message}",
    stopped="Stopped.",
    states={
        "queued": "in the queue",
        "running": "in work",
        "succeeded": "done",
        "failed": "failed",
        "cancelled": "stopped",
    },
    no_services="The services do not answer: {message}",
    limit_source="Up to {value:g}, set by: {source}",
    longest="Longest song: {value:g} s, set by {source}",
    most_takes="Takes at once: {value:g}, set by {source}",
    take="Take {number}, seed {seed}, {duration:.1f} s",
    take_name="Take {number}",
    pick_first="Pick a song first.",
    in_work="In work …",
    download="Download:",
    free="{device}: {free:.1f} of {total:.1f} GiB free",
    held_by="Held by {holders}",
    held_by_nobody="Held by nobody",
    own_choice="0: the model's own",
    text_encoder="Text encoder",
    dit="Diffusion",
    vae="Decoder",
)
PORTUGUESE = Texts(
    code="pt",
    locale="pt-BR",
    decimal=",",
    other_language="English",
    mode="Modo",
    modes={
        "text2music": "Personalizado",
        "cover": "Cover (remix)",
        "repaint": "Refazer um trecho",
        "extract": "Extrair uma faixa",
        "lego": "Acrescentar uma faixa",
        "complete": "Completar uma faixa",
    },
    caption="Descrição da música",
    caption_hint="Como é a música: estilo, instrumentos, clima, voz",
    lyrics="Letra",
    lyrics_hint="Marcas como [verse] e [chorus] ajudam; vazio é instrumental",
    instrumental="Instrumental",
    source="Áudio de origem",
    source_missing="está vazio; escolha o áudio de origem",
    start="De (s)",
    start_hint="Vazio: o começo da origem",
    end="Até (s)",
    end_hint="Vazio: o fim da origem",
    cover_strength="Proximidade da origem",
    track_name="Faixa",
    track_classes="Faixas a acrescentar",
    track_names={
        "vocals": "voz",
        "backing_vocals": "coro",
        "drums": "bateria",
        "bass": "baixo",
        "guitar": "guitarra",
        "keyboard": "teclado",
        "percussion": "percussão",
        "strings": "cordas",
        "synth": "sintetizador",
        "fx": "efeitos",
        "brass": "metais",
        "woodwinds": "madeiras",
    },
    details="Detalhes",
    vocal_language="Idioma do canto",
    languages={
        "en": "inglês",
        "pt": "português",
        "es": "espanhol",
        "fr": "francês",
        "de": "alemão",
        "it": "italiano",
        "ja": "japonês",
        "ko": "coreano",
        "zh": "chinês",
        "ru": "russo",
    },
    bpm="BPM",
    key="Tom",
    notes=dict(
        zip(
            NOTES,
            ("Dó", "Dó#", "Ré", "Mi♭", "Mi", "Fá", "Fá#", "Sol", "Lá♭", "Lá", "Si♭", "Si"),
            strict=True,
        )
    ),
    scales={"major": "maior", "minor": "menor"},
    time_signature="Compasso",
    duration="Duração (segundos)",
    seed="Semente",
    seed_hint="-1 sorteia uma",
    takes="Versões",
    reference="Áudio de referência (o timbre)",
    advanced="Avançado",
    model="Modelo",
    first_model="o primeiro disponível",
    steps="Passos",
    guidance="Escala de orientação (guidance)",
    shift="Deslocamento (shift)",
    method="Método",
    timesteps="Timesteps",
    timesteps_hint="No lugar de passos e deslocamento, como 1, 0.75, 0.5, 0.25",
    adapters="Adaptadores LoRA",
    adapters_hint="Nomes, e quanto de cada um, como bateria:0.8, quente:0.5",
    audio_format="Formato do áudio",
    edge_fade="Fade nas pontas (ms)",
    title="Título",
    unset="qualquer",
    generate="Gerar música",
    stop="Parar",
    status="Andamento",
    history="Histórico",
    history_pick="Músicas anteriores",
    show="Mostrar",
    restore="Restaurar ajustes",
    restore_file="Restaurar ajustes de um arquivo",
    restored="Ajustes restaurados.",
    restored_but="Ajustes restaurados, menos:",
    choose_again="escolha o arquivo de novo",
    impossible="{value} não é possível aqui; fica como estava",
    fieldless="não tem campo nesta página",
    machine="Esta máquina",
    ready="Pronto.",
    queued="Na fila, número {position}.",
    starts="Começando.",
    starts_in="Começa em cerca de {seconds:.0f} s.",
    waits="{stage}: espera pelo dispositivo.",
    works="{stage}: {done} de {total}.",
    left="Faltam cerca de {seconds:.0f} s nesta etapa.",
    reading="Leitura da origem",
    writing="Gravando os arquivos.",
    made_already="A música já está pronta; não há o que parar.",
    done="Pronto em {seconds:.1f} s.",
    failed="Falhou: {message}",
    stopped="Parado.",
    states={
        "queued": "na fila",
        "running": "em andamento",
        "succeeded": "pronta",
        "failed": "falhou",
        "cancelled": "parada",
    },
    no_services="Os serviços não respondem: {message}",
    limit_source="Até {value:g}, definido por: {source}",
    longest="Música mais longa: {value:g} s, definido por: {source}",
    most_takes="Versões de uma vez: {value:g}, definido por: {source}",
    take="Versão {number}, semente {seed}, {duration:.1f} s",
    take_name="Versão {number}",
    pick_first="Escolha uma música primeiro.",
    in_work="Em andamento …",
    download="Baixar:",
    free="{device}: {free:.1f} de {total:.1f} GiB livres",
    held_by="Em uso por {holders}",
    held_by_nobody="Em uso por ninguém",
    own_choice="0: o padrão do modelo",
    text_encoder="Codificador de texto",
    dit="Difusão",
    vae="Decodificador",
    phrases=(
        (
            r"^the model is untrained: .*$",
            "este modelo não foi treinado: o som é ruído, só para mostrar que tudo funciona, e não música",
        ),
        (
            r"^caption: the model reads (\d+) of its (\d+) tokens, and bpm, .* are the last ones$",
            r"descrição: o modelo lê \1 dos seus \2 tokens; bpm, compasso, tom e duração são os últimos",
        ),
        (
            r"^lyrics: the model reads (\d+) of its (\d+) tokens$",
            r"letra: o modelo lê \1 dos seus \2 tokens",
        ),
        (r"^is empty\b", "está vazio"),
        (r"^are empty\b", "estão vazios"),
        (r"^(is|are) set\b", "está preenchido"),
        (r"^is no audio that can be read\b", "não é um áudio que se possa ler"),
        (r"^is of no known kind\b", "não é de um tipo conhecido"),
        (r"^is (?=['\"-]?[\w.])", "é "),
        (r"^has (\d+) ", r"tem \1 "),
        (r"^leaves nothing to generate", "não deixa nada a gerar"),
        (r"^makes a song of ([\d.]+) s", r"faz uma música de \1 s"),
        (r"; accepted for (.*) alone$", r"; aceito só para \1"),
        (r"; accepted(:?) ", r"; aceito\1 "),
        (r"\bup to\b", "até"),
        (r"([\d.]) to ([\d.])", r"\1 a \2"),
        (r"\bor more\b", "ou mais"),
        (r"\bor less\b", "ou menos"),
        (r"; say what the music is like$", "; descreva a música"),
        (r"; the task (\S+) needs ", r"; a tarefa \1 precisa de "),
        (r"\bthe model\b", "o modelo"),
        (r"\bthe most for one request\b", "o máximo por pedido"),
        (r"\bplanner: (.*) on (.*) with ", r"planejador: \1 em \2 com "),
        (r"\btier (?=\S)", "faixa "),
        (r"^are (?=[\d-])", "são "),
        (r"\bcharacters\b", "caracteres"),
        (r"\bless than\b", "menos de"),
        (r"\bwhere the source ends\b", "onde a fonte termina"),
        (r"\bfalling values in\b", "valores decrescentes em"),
        (r"\bfalling numbers with commas between them, such as\b", "números decrescentes com vírgulas, como"),
        (r"\bnames with commas between them, such as\b", "nomes com vírgulas, como"),
        (r"^has no settings in its tags\b", "não tem ajustes nas etiquetas"),
        (r"\baudio or a \.json that Acestage wrote\b", "áudio ou .json que o Acestage escreveu"),
        (r"^the audio is silent$", "o áudio está em silêncio"),
        (
            r"^its peak is ([\d.]+) times full scale, which files of 16 and 24 bit cut off$",
            r"o pico é \1 vezes o máximo, e arquivos de 16 e 24 bits o cortam",
        ),
        (
            r"^the orchestrator was started anew and does not know this job any more$",
            "o orquestrador foi reiniciado e não conhece mais esta música",
        ),
        (r"^lasts ", "dura "),
        (r"\bwhole numbers, ", "números inteiros, "),
        (
            r"\ba note A to G, optionally # or b, and major or minor, such as\b",
            "uma nota de A a G, se preciso com # ou b, e major (maior) ou minor (menor), como",
        ),
        (r"\bFormat not recognised\b", "formato não reconhecido"),
        (
            r"\band whatever else libsndfile reads, or raw samples\b",
            "e o que mais a libsndfile ler, ou amostras sem cabeçalho",
        ),
        (r" \(not MP4", " (não MP4"),
        (r"\bsettings of a song made here\b", "ajustes de uma música feita aqui"),
        (r"^has settings that are damaged\b", "tem ajustes danificados"),
        (r"\bthey are not JSON\b", "não são JSON"),
        (r"\bthey are not a JSON object\b", "não são um objeto JSON"),
        (r"^has tags that are damaged or above (\d+) MiB", r"tem etiquetas danificadas ou acima de \1 MiB"),
        (r"^('.*') is not in (.*); ", r"\1 não está em \2; "),
        (r"\bnone, there are no adapters there\b", "nenhum, pois não há adaptadores lá"),
        # Numbers in lists keep their points, as fields take them.
        (r"(\d)\.(\d+)(?= (?:s|GiB|vezes)\b| a \d)", r"\1,\2"),
        (r"^(é -?\d+)\.(\d+)(?=;|$)", r"\1,\2"),
    ),
)
TEXTS = {"en": ENGLISH, "pt": PORTUGUESE}
