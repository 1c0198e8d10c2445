"""Texts that are longer than what the model reads."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from services.text_encoder.prompt import MAX_LYRICS_TOKENS, MAX_TEXT_TOKENS, Prompt


def prompt_cuts(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> list[dict[str, str | int]]:
    """The fields of a `PromptCut` for each text of `prompt` whose end is left out."""
    texts = {
        "caption": (prompt.text(), MAX_TEXT_TOKENS),
        "lyrics": (prompt.lyrics_text(), MAX_LYRICS_TOKENS),
    }
    cuts: list[dict[str, str | int]] = []
    for field, (text, most) in texts.items():
        count = len(tokenizer(text, verbose=False).input_ids)
        if count > most:
            cuts.append({"field": field, "token_count": count, "read_token_count": most})
    return cuts
