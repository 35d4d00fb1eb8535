"""Chinese and multilingual text encoders for CLIP-style retrieval."""

from typing import TYPE_CHECKING, Any

from clip_text.errors import CheckpointError, ClipTextError, DataError

if TYPE_CHECKING:
    from clip_text.encoder import Encoder

__all__ = ["CheckpointError", "ClipTextError", "DataError", "Encoder"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import torch and transformers, which takes seconds, when an Encoder is asked for."""
    if name == "Encoder":
        from clip_text.encoder import Encoder  # noqa: PLC0415

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
