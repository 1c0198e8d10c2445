"""A byte-level BPE tokenizer of 512 tokens: encodes any text, and gives it back unchanged."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY_SIZE = 512
END_OF_TEXT = "<|endoftext|>"

_TEXT = """\
# Instruction
Fill the audio semantic mask based on the given conditions:
Repaint the mask area based on the given conditions:
Generate audio semantic tokens based on the given conditions:

# Caption
A warm acoustic folk song with fingerpicked guitar, soft female vocals and a slow, steady rhythm.
Energetic electronic dance music with a driving bass line, bright synthesizers and heavy drums.
A melancholic piano ballad with strings that grows into a wide, dramatic chorus.
Upbeat jazz trio: upright bass, brushed drums, swinging piano, a short trumpet solo.
Dark ambient drone with deep pads, distant bells and slowly moving textures.
Classic rock with distorted guitars, loud drums, a shouted chorus and a long guitar solo.
Lo-fi hip hop beat with a dusty sample, mellow keys and vinyl noise.

# Metas
- bpm: 120
- timesignature: 4
- keyscale: C major
- duration: 30 seconds
- bpm: N/A
- timesignature: N/A
- keyscale: N/A
- duration: 60 seconds

# Languages
en

# Lyric
[Intro]
[Instrumental]
[Verse 1]
Walking down the empty street, the morning light is in my eyes
I hear the music in the rain, the river and the open sky
[Chorus]
Sing with me, sing with me tonight, the stars are burning and the fire is bright
[Bridge]
And when the night is over, we will find the way back home
[Outro]
"""


def write_tokenizer(folder: Path) -> None:
    """Trains the tokenizer, always to the same result, and writes it for `transformers`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "model_max_length": 32_768,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
