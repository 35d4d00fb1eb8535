"""What features are computed in, fp32, bf16 or int8: an index remembers it, and tells differences.

Rows of fp32 and bf16 belong to one fingerprint, so that an index built in one is searched by the
other; they are near each other, not equal.
"""

from collections.abc import Collection
from typing import Literal

from retrieval.protocols import Encoder

__all__ = ["as_note", "precision_of"]


def precision_of(encoder: Encoder, tower: Literal["text", "image"]) -> str | None:
    """Ask an encoder what a tower computes in; None where it does not say.

    Args:
        encoder: May have ``text_precision`` and ``image_precision``, as that of clip_text does.
        tower: Which of the two.
    """
    precision = getattr(encoder, f"{tower}_precision", None)
    return precision if isinstance(precision, str) else None


def as_note(indexed: Collection[str], computed: str | None, *, what: str) -> str | None:
    """Say that an index holds features of another precision; None where none is known to differ.

    Args:
        indexed: What its pictures were computed in; empty where that is not known.
        computed: What is computed in now; None where that is not known.
        what: Is computed now, such as ``queries``.

    Returns:
        A sentence or two without a line break.
    """
    if computed is None or not set(indexed) - {computed}:
        return None
    return (
        f"{what} are computed in {computed}, the pictures of this index in "
        f"{' and '.join(sorted(indexed))}: scores are near those of one precision, not equal to "
        "them. Name one runtime for both where that matters."
    )
