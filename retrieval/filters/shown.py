"""What somebody sent, in a message: on one short line that any terminal and any JSON takes."""

import json

__all__ = ["clipped", "shown"]

_LONGEST = 40  # characters
_LARGEST = 2**64


def shown(value: object) -> str:
    """Write a value as JSON has it; of a list or an object only that it is one."""
    if isinstance(value, list | tuple | set):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a larger number"
    if value is None or isinstance(value, str | int | float):
        text = json.dumps(value, ensure_ascii=False)
        return clipped(text if text.isprintable() else json.dumps(value))
    return type(value).__name__


def clipped(text: str) -> str:
    """Write a text without quotes, as long as it is printable."""
    if not text.isprintable():
        text = json.dumps(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
