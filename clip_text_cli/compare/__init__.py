"""The command ``clip-text compare``: several models on the same data, each in its own process."""

from clip_text_cli.compare.command import compare

__all__ = ["compare"]
