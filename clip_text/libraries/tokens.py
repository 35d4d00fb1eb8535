"""What identifies a library's tokenizer: its vocabulary, and what becomes of some texts."""

from collections.abc import Callable
from typing import Any

from clip_text.storage import digest

__all__ = ["vocabulary_of"]

_PROBES = [
    "一只狗在草地上奔跑",
    "“全角”ＡＢＣ，￥１２…",
    "A photo of a Cat, running!  <b>&amp;</b>",
    "",
    "繁體字 naïve İstanbul 🐶",
    "很长" * 300,
]


def vocabulary_of(tokenizer: Any, encode: Callable[[list[str]], Any]) -> str:  # noqa: ANN401
    """Digest a tokenizer: of its vocabulary, where it shows one, and of the tokens of some texts.

    Args:
        tokenizer: A library's; the vocabulary is looked for in it and in what it wraps.
        encode: Texts → token ids, lists of whole numbers, as the model is given them.

    Returns:
        32 hexadecimal digits.
    """
    vocabulary: Any = None
    for holder in (tokenizer, getattr(tokenizer, "tokenizer", None)):
        if callable(get := getattr(holder, "get_vocab", None)):
            vocabulary = sorted(get().items())
            break
        if isinstance(known := getattr(holder, "encoder", None), dict):
            vocabulary = sorted(known.items())
            break
    return digest(vocabulary, encode(list(_PROBES)))
