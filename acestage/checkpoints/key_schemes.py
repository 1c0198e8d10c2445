"""How the keys of weight files become keys of the modules that diffusers and transformers define.

The original layout keeps the transformer, the condition encoder and both audio tokenizers in one file with
names of its own. The renaming is that of diffusers' conversion of ACE-Step 1.5 checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from acestage.checkpoints.component_names import (
    AUDIO_TOKEN_DETOKENIZER,
    AUDIO_TOKENIZER,
    CONDITION_ENCODER,
    TRANSFORMER,
)


class KeyScheme(StrEnum):
    """Naming of the keys in a component's files."""

    MODULE = "module"
    """As in the module."""
    ORIGINAL = "original"
    """As ACE-Step publishes them: all components in one file, told apart by a prefix."""
    QWEN3 = "qwen3"
    """As in `Qwen3Model`, or as in `Qwen3ForCausalLM`: prefixed with `model.` and perhaps with a head."""


_PREFIXES = {
    TRANSFORMER: "decoder.",
    CONDITION_ENCODER: "encoder.",
    AUDIO_TOKENIZER: "tokenizer.",
    AUDIO_TOKEN_DETOKENIZER: "detokenizer.",
}
_TOP_LEVEL = {"null_condition_emb": CONDITION_ENCODER}
_ATTENTION = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "o_proj": "to_out.0",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
_ATTENTION_BACK = {new: old for old, new in _ATTENTION.items()}
_TRANSFORMER_ENDS = {"proj_in.1.": "proj_in_conv.", "proj_out.1.": "proj_out_conv."}


def _inside_attention(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile(r"((?:self|cross)_attn\.)(" + "|".join(map(re.escape, names)) + r")(?=\.)")


_ATTENTION_OF_FILE = _inside_attention(_ATTENTION)
_ATTENTION_OF_MODULE = _inside_attention(_ATTENTION_BACK)

# Tables that the original quantizer derives from `fsq_input_levels`; older files have them, the module
# makes its own.
_DERIVED = re.compile(
    r"tokenizer\.quantizer\."
    r"(layers\..*|scales|soft_clamp_input_value|(.*\.)?(implicit_codebook|_levels|_basis))"
)


def module_key(scheme: KeyScheme, component: str, file_key: str) -> str | None:
    """The key in the module of `component` for `file_key`.

    Returns:
        None for a tensor that the component does not use: it is another component's, it is derived from
        settings, or it is a language model head. A key of an unknown kind is returned as it is, so that
        the check against the module reports it.
    """
    match scheme:
        case KeyScheme.MODULE:
            return file_key
        case KeyScheme.QWEN3:
            # The embedding model has no head; a file of the language model has one, tied to the embedding.
            return None if file_key == "lm_head.weight" else file_key.removeprefix("model.")
        case KeyScheme.ORIGINAL:
            return _of_original(component, file_key)


def file_key(scheme: KeyScheme, component: str, key: str) -> str:
    """The key in the files for `key` of the module: the inverse of `module_key`."""
    if scheme is not KeyScheme.ORIGINAL or key in _TOP_LEVEL:
        return key
    key = _ATTENTION_OF_MODULE.sub(lambda found: found[1] + _ATTENTION_BACK[found[2]], key)
    if component == TRANSFORMER:
        for old, new in _TRANSFORMER_ENDS.items():
            if key.startswith(new):
                key = old + key.removeprefix(new)
    return _PREFIXES[component] + key


def _of_original(component: str, file_key: str) -> str | None:
    if _DERIVED.fullmatch(file_key):
        return None
    if file_key in _TOP_LEVEL:
        return file_key if component == _TOP_LEVEL[file_key] else None
    owner = next((name for name, prefix in _PREFIXES.items() if file_key.startswith(prefix)), None)
    if owner is None:
        return file_key
    if owner != component:
        return None
    key = file_key.removeprefix(_PREFIXES[owner])
    key = _ATTENTION_OF_FILE.sub(lambda found: found[1] + _ATTENTION[found[2]], key)
    if component == TRANSFORMER:
        for old, new in _TRANSFORMER_ENDS.items():
            if key.startswith(old):
                key = new + key.removeprefix(old)
    return key
