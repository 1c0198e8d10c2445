"""The page says the same in each language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from string import Formatter

import pytest

from acestage.generation_options import TRACK_NAMES
from services.gateway.jobs.record import JobState
from services.gateway.outputs.takes import UNTRAINED
from services.gateway.page.fields import LANGUAGES
from services.gateway.page.languages import TEXTS
from services.gateway.page.song_form import MODES, TRACK_MODES
from services.gateway.page.texts import Texts


def placeholders(text: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(text) if field}


def test_both_languages_fill_in_the_same() -> None:
    english, portuguese = TEXTS["en"], TEXTS["pt"]
    for field in fields(Texts):
        one, other = getattr(english, field.name), getattr(portuguese, field.name)
        if isinstance(one, str):
            assert placeholders(one) == placeholders(other), field.name


@pytest.mark.parametrize("language", TEXTS)
def test_there_is_a_word_for_each_mode_track_state_and_language(language: str) -> None:
    texts = TEXTS[language]
    known: list[tuple[Mapping[str, str], object]] = [
        (texts.modes, {*MODES, *TRACK_MODES}),
        (texts.track_names, set(TRACK_NAMES)),
        (texts.states, set(JobState)),
        (texts.languages, set(LANGUAGES)),
    ]
    for words, names in known:
        assert set(words) == names
    assert texts.code == language


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("is empty; say what the music is like", "está vazio; descreva a música"),
        ("is 700; accepted: 10 to 600 (the model)", "é 700; aceito: 10 a 600 (o modelo)"),
        (
            "is empty; the task 'repaint' needs source_id",
            "está vazio; a tarefa 'repaint' precisa de source_id",
        ),
        ("has 9 tracks; accepted: up to 8", "tem 9 tracks; aceito: até 8"),
        ("is set; accepted for extract, lego alone", "está preenchido; aceito só para extract, lego"),
        ("the model", "o modelo"),
        ("the most for one request", "o máximo por pedido"),
        ("planner: dit on cuda:0 with 4.0 GiB", "planejador: dit em cuda:0 com 4,0 GiB"),
        ("tier 1 (up to 4 GB)", "faixa 1 (até 4 GB)"),
        ("ACESTEP_MAX_DURATION", "ACESTEP_MAX_DURATION"),
        ("has 16000 characters; accepted: up to 10000", "tem 16000 caracteres; aceito: até 10000"),
        ("is 15; accepted: less than Até (s), 5", "é 15; aceito: menos de Até (s), 5"),
        ("is 30; accepted: up to 20, where the source ends", "é 30; aceito: até 20, onde a fonte termina"),
        (
            "are 0.2, 0.9; accepted: up to 200 falling values in (0, 1]",
            "são 0.2, 0.9; aceito: até 200 valores decrescentes em (0, 1]",
        ),
        (
            "is 'um'; accepted: falling numbers with commas between them, such as 1, 0.6",
            "é 'um'; aceito: números decrescentes com vírgulas, como 1, 0.6",
        ),
        (
            "has no settings in its tags; accepted: audio or a .json that Acestage wrote",
            "não tem ajustes nas etiquetas; aceito: áudio ou .json que o Acestage escreveu",
        ),
        ("the audio is silent", "o áudio está em silêncio"),
        (
            UNTRAINED,
            "este modelo não foi treinado: o som é ruído, só para mostrar que tudo funciona, e não música",
        ),
        (
            "caption: the model reads 256 of its 300 tokens, and bpm, time signature, key and duration are "
            "the last ones",
            "descrição: o modelo lê 256 dos seus 300 tokens; bpm, compasso, tom e duração são os últimos",
        ),
        ("lyrics: the model reads 2048 of its 3000 tokens", "letra: o modelo lê 2048 dos seus 3000 tokens"),
        (
            "the orchestrator was started anew and does not know this job any more",
            "o orquestrador foi reiniciado e não conhece mais esta música",
        ),
        ("lasts 0.5 s; accepted: 1 to 600 s", "dura 0,5 s; aceito: 1 a 600 s"),
        ("is 2.5; accepted: 0.1 to 10", "é 2,5; aceito: 0,1 a 10"),
        ("is 1e30; accepted: whole numbers, -5 to 5", "é 1e30; aceito: números inteiros, -5 a 5"),
        (
            "is 'H'; accepted: a note A to G, optionally # or b, and major or minor, such as 'F# minor'",
            "é 'H'; aceito: uma nota de A a G, se preciso com # ou b, e major (maior) ou minor (menor), "
            "como 'F# minor'",
        ),
        (
            "is no audio that can be read: Format not recognised; accepted: WAV",
            "não é um áudio que se possa ler: formato não reconhecido; aceito: WAV",
        ),
        ("is '5'; accepted: settings of a song made here", "é '5'; aceito: ajustes de uma música feita aqui"),
        (
            "is of no known kind; accepted: audio or a .json that Acestage wrote",
            "não é de um tipo conhecido; aceito: áudio ou .json que o Acestage escreveu",
        ),
        ("has settings that are damaged: they are not JSON", "tem ajustes danificados: não são JSON"),
        (
            "'drums' is not in adapters; accepted: none, there are no adapters there",
            "'drums' não está em adapters; aceito: nenhum, pois não há adaptadores lá",
        ),
        ("source: the audio is silent", "origem: o áudio está em silêncio"),
        ("reference: 6 channels were mixed down to 2", "referência: 6 canais foram reduzidos a 2"),
        (
            "source: samples go up to 1.21, above full scale",
            "origem: as amostras chegam a 1,21 vezes o máximo",
        ),
        (
            "source: the file is cut off or damaged, 4.87 s of it were read: its header promises 1.5 s more",
            "origem: o arquivo está cortado ou danificado, e 4,87 s dele foram lidos: "
            "o cabeçalho promete mais 1,5 s",
        ),
        (
            "source: 3.05 s of the file were read; the 24000 bytes behind them are another one",
            "origem: 3,05 s do arquivo foram lidos; os 24000 bytes seguintes são outro",
        ),
        (
            "its peak is 1.21 times full scale, which files of 16 and 24 bit cut off",
            "o pico é 1,21 vezes o máximo, e arquivos de 16 e 24 bits o cortam",
        ),
    ],
)
def test_what_the_services_say_is_put_into_portuguese(said: str, meant: str) -> None:
    assert TEXTS["pt"].translated(said) == meant
    assert TEXTS["en"].translated(said) == said


def test_figures_have_the_decimals_of_the_language() -> None:
    english, portuguese = TEXTS["en"], TEXTS["pt"]
    assert english.filled(english.done, seconds=5.04) == "Done in 5.0 s."
    assert portuguese.filled(portuguese.done, seconds=5.04) == "Pronto em 5,0 s."
    take = portuguese.filled(portuguese.take, number=1, seed=7, duration=12.5)
    assert take == "Versão 1, semente 7, 12,5 s"
    assert portuguese.filled(portuguese.failed, message="a.b") == "Falhou: a.b"
