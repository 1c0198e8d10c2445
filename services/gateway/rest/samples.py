"""Songs that one might ask for, for clients that fill in a form."""

from __future__ import annotations

from typing import TypedDict


class Sample(TypedDict):
    """A request, in the words of `/create_random_sample`; `duration` in seconds."""

    caption: str
    lyrics: str
    bpm: int
    duration: int
    key_scale: str
    time_signature: str
    vocal_language: str


def _sample(
    caption: str, lyrics: str, bpm: int, duration: int, key_scale: str, time_signature: str, language: str
) -> Sample:
    return Sample(
        caption=caption,
        lyrics=lyrics,
        bpm=bpm,
        duration=duration,
        key_scale=key_scale,
        time_signature=time_signature,
        vocal_language=language,
    )


SAMPLES: tuple[Sample, ...] = (
    _sample(
        "bright indie pop with jangling guitars and handclaps",
        "[Verse]\n"
        "Morning on the rooftops, coffee in the sun\n"
        "Every street is singing that the day has just begun\n"
        "[Chorus]\n"
        "Run with me, run with me, all along the light",
        118,
        150,
        "G major",
        "4",
        "en",
    ),
    _sample(
        "slow soul ballad, warm organ, brushed drums, a low female voice",
        "[Verse]\n"
        "You left the porch lamp burning\n"
        "and I found my way by that\n"
        "[Chorus]\n"
        "Stay a little longer, let the river wait",
        68,
        180,
        "Eb major",
        "6",
        "en",
    ),
    _sample(
        "driving synthwave with a night road feeling and analog bass",
        "[Instrumental]",
        104,
        160,
        "A minor",
        "4",
        "en",
    ),
    _sample(
        "fingerpicked folk song with harmonica and one close voice",
        "[Verse]\n"
        "There is snow on the orchard and smoke on the hill\n"
        "[Chorus]\n"
        "Bring me home by the long road, I am listening still",
        92,
        170,
        "D major",
        "3",
        "en",
    ),
    _sample(
        "hard rock with two guitars, big drums and a shouted chorus",
        "[Verse]\nThe wire is humming, the engines are warm\n[Chorus]\nStand up, stand up, we are the storm",
        140,
        150,
        "E minor",
        "4",
        "en",
    ),
    _sample(
        "gentle solo piano for a late evening",
        "[Instrumental]",
        72,
        120,
        "F major",
        "4",
        "en",
    ),
    _sample(
        "deep house with rounded bass, soft chords and shuffled hats",
        "[Instrumental]",
        122,
        240,
        "C minor",
        "4",
        "en",
    ),
    _sample(
        "swing jazz quintet with muted trumpet and walking bass",
        "[Instrumental]",
        168,
        150,
        "Bb major",
        "4",
        "en",
    ),
    _sample(
        "country waltz with pedal steel and fiddle",
        "[Verse]\n"
        "She danced with the moon on the kitchen floor\n"
        "[Chorus]\n"
        "One more turn, love, and then one more",
        96,
        160,
        "A major",
        "3",
        "en",
    ),
    _sample(
        "lo-fi hip hop with dusty drums, vinyl crackle and electric piano",
        "[Instrumental]",
        82,
        120,
        "D minor",
        "4",
        "en",
    ),
    _sample(
        "epic orchestral theme with low brass, choir and war drums",
        "[Instrumental]",
        88,
        180,
        "C minor",
        "4",
        "en",
    ),
    _sample(
        "reggae with offbeat guitar, deep bass and sweet harmonies",
        "[Verse]\nEasy on the water, easy on the land\n[Chorus]\nWe take it slow, we take it hand in hand",
        76,
        170,
        "G major",
        "4",
        "en",
    ),
    _sample(
        "ambient pads, slow bells and distant rain",
        "[Instrumental]",
        60,
        200,
        "E major",
        "4",
        "en",
    ),
    _sample(
        "bossa nova com violão, percussão leve e voz suave",
        "[Verse]\n"
        "A tarde cai devagar no mar\n"
        "e o vento aprende o teu nome\n"
        "[Chorus]\n"
        "Fica, que a noite vem cantar",
        128,
        160,
        "D major",
        "2",
        "pt",
    ),
    _sample(
        "samba animado com cavaquinho, cuíca e coro",
        "[Verse]\nAbre a roda que o tambor chegou\n[Chorus]\nHoje a rua é minha casa, hoje a casa é do amor",
        132,
        150,
        "C major",
        "2",
        "pt",
    ),
    _sample(
        "fado lento com guitarra portuguesa e voz dramática",
        "[Verse]\n"
        "As pedras da calçada sabem de cor\n"
        "o peso dos passos que eu dei\n"
        "[Chorus]\n"
        "Saudade, deixa-me dormir",
        70,
        180,
        "A minor",
        "4",
        "pt",
    ),
    _sample(
        "forró com sanfona, zabumba e triângulo",
        "[Verse]\nPoeira sobe, a sanfona chamou\n[Chorus]\nVem dançar, morena, que o dia não raiou",
        110,
        150,
        "G major",
        "2",
        "pt",
    ),
    _sample(
        "pop eletrônico brasileiro com baixo forte e refrão claro",
        "[Verse]\nLuz na janela, a cidade acordou\n[Chorus]\nEu vou, eu vou, onde o som me levar",
        120,
        170,
        "F# minor",
        "4",
        "pt",
    ),
    _sample(
        "MPB intimista com piano, cordas e voz feminina",
        "[Verse]\nGuardei um bilhete no bolso do tempo\n[Chorus]\nVolta quando a chuva passar",
        84,
        180,
        "Bb major",
        "4",
        "pt",
    ),
    _sample(
        "cinematic trailer music with rising strings and deep pulses",
        "[Instrumental]",
        100,
        120,
        "B minor",
        "4",
        "en",
    ),
)
