"""Long texts in windows that a text tower reads whole, where it would cut them."""

import re

__all__ = ["WINDOW", "windows"]

WINDOW = 48
"""How long a text may be to stay whole. Chinese-CLIP reads 50 tokens beside [CLS] and [SEP]; a
Chinese character is one, and of other scripts about three characters are."""

_FIRST_WIDE = "\u2e80"  # from here on: the scripts of East Asia and their signs
_NARROW = 0.3

# A sentence, or less: up to and with the signs that end it.
_PIECE = re.compile(r"[^。！？!?；;，,、\n]*[。！？!?；;，,、\n]+|[^。！？!?；;，,、\n]+")


def windows(text: str) -> list[str]:
    """Cut a long text at its signs into windows, each as long as it may be.

    What has no signs for longer than a window is cut anywhere.

    Args:
        text: Of any length, not blank.

    Returns:
        The windows, without white space around them, none blank; a short text as it is.
    """
    if _length(text) <= WINDOW:
        return [text]
    parts = [""]
    for piece in _PIECE.findall(text):
        for part in _short(piece):
            if _length(parts[-1]) + _length(part) <= WINDOW:
                parts[-1] += part
            else:
                parts.append(part)
    return [part.strip() for part in parts if part.strip()]


def _length(text: str) -> float:
    """Estimate how many tokens a text is."""
    wide = sum(char >= _FIRST_WIDE for char in text)
    return wide + _NARROW * (len(text) - wide)


def _short(piece: str) -> list[str]:
    if _length(piece) <= WINDOW:
        return [piece]
    return [piece[start : start + WINDOW] for start in range(0, len(piece), WINDOW)]
