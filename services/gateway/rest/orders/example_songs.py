"""Songs to begin with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SongSample:
    """What a request says of a song; `duration` in seconds."""

    caption: str
    lyrics: str
    bpm: int
    duration: int
    key_scale: str
    time_signature: str
    vocal_language: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


SAMPLES = (
    SongSample(
        "warm lo-fi hip hop, dusty piano, vinyl crackle, soft rain",
        "[Instrumental]",
        78,
        90,
        "D minor",
        "4",
        "en",
    ),
    SongSample(
        "bright indie pop, jangling guitars, female voice, handclaps",
        "[verse]\nThe bus is late, the sky is wide\nI count the windows on your side\n"
        "[chorus]\nHold on to the morning\nHold on to the light",
        124,
        120,
        "G major",
        "4",
        "en",
    ),
    SongSample(
        "slow piano ballad, male voice, strings that swell in the chorus",
        "[verse]\nThe letters in the drawer are thin\nYour name is where the lines begin\n"
        "[chorus]\nAnd I will keep the porch light on",
        68,
        150,
        "C major",
        "4",
        "en",
    ),
    SongSample(
        "driving synthwave, analog bass, gated drums, night drive",
        "[Instrumental]",
        110,
        120,
        "A minor",
        "4",
        "en",
    ),
    SongSample(
        "bossa nova suave, violão de nylon, voz feminina, escovas na caixa",
        "[verse]\nO mar devolve o que levou\nA tarde inteira se deitou\n[chorus]\nFica mais um pouco aqui",
        130,
        120,
        "F major",
        "4",
        "pt",
    ),
    SongSample(
        "samba de roda, cavaquinho, pandeiro, coro animado",
        "[verse]\nAcorda, rua, que já é domingo\n[chorus]\nRoda, roda, deixa rodar",
        100,
        90,
        "D major",
        "2",
        "pt",
    ),
    SongSample(
        "forró pé de serra, sanfona, zabumba e triângulo, voz masculina",
        "[verse]\nA poeira subiu no terreiro\n[chorus]\nVem dançar que a noite é curta",
        116,
        100,
        "G major",
        "2",
        "pt",
    ),
    SongSample(
        "solo classical guitar, intimate room, gentle arpeggios",
        "[Instrumental]",
        72,
        90,
        "E minor",
        "3",
        "en",
    ),
    SongSample(
        "heavy metal, double kick drums, palm-muted riffs, screaming lead guitar",
        "[verse]\nIron rain on a broken crown\n[chorus]\nRise from the ember, burn it down",
        168,
        120,
        "E minor",
        "4",
        "en",
    ),
    SongSample(
        "gospel choir, Hammond organ, claps on two and four",
        "[verse]\nWhen the road is steep I know\n[chorus]\nLift me higher, lift me higher",
        96,
        120,
        "A♭ major",
        "4",
        "en",
    ),
    SongSample(
        "deep house, warm pads, rolling bass line, shuffled hats",
        "[Instrumental]",
        122,
        180,
        "F minor",
        "4",
        "en",
    ),
    SongSample(
        "country waltz, pedal steel, fiddle, weathered male voice",
        "[verse]\nThe creek runs slow where we were young\n[chorus]\nTurn me once more round the floor",
        92,
        120,
        "D major",
        "3",
        "en",
    ),
    SongSample(
        "orchestral film score, low brass, taiko drums, rising tension",
        "[Instrumental]",
        90,
        120,
        "C minor",
        "4",
        "en",
    ),
    SongSample(
        "reggae, one drop drums, offbeat guitar, deep bass, easy voice",
        "[verse]\nSalt on the window, sun on the wall\n[chorus]\nNo hurry, no hurry at all",
        74,
        120,
        "A major",
        "4",
        "en",
    ),
    SongSample(
        "acoustic folk duet, fingerpicked guitar, close harmonies",
        "[verse]\nTwo cups of tea and a map of the moor\n[chorus]\nWe will walk till the rain is through",
        84,
        120,
        "C major",
        "4",
        "en",
    ),
    SongSample(
        "trap, sliding 808, sparse bells, half-time drums, confident rap",
        "[verse]\nCity on mute but the block on loud\n[hook]\nUp, up, we don't come down",
        140,
        120,
        "B minor",
        "4",
        "en",
    ),
    SongSample(
        "ambient drones, glassy textures, no drums, slow evolution",
        "[Instrumental]",
        60,
        180,
        "D major",
        "4",
        "en",
    ),
    SongSample(
        "jazz trio, walking double bass, brushed drums, late-night piano",
        "[Instrumental]",
        132,
        120,
        "B♭ major",
        "4",
        "en",
    ),
    SongSample(
        "funk, slap bass, tight horns, clavinet, shouted chorus",
        "[verse]\nGot a pocket full of Saturday\n[chorus]\nMove it, move it, don't delay",
        108,
        100,
        "E minor",
        "4",
        "en",
    ),
    SongSample(
        "MPB acústica, piano e violoncelo, voz masculina serena",
        "[verse]\nGuardei no bolso a tua canção\n[chorus]\nE o tempo vem me perguntar de ti",
        80,
        120,
        "A minor",
        "4",
        "pt",
    ),
)
