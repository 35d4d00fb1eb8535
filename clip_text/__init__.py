"""Chinese and multilingual text encoders for CLIP-style retrieval."""

from typing import TYPE_CHECKING, Any

from clip_text.errors import CheckpointError, ClipTextError, DataError

if TYPE_CHECKING:
    from clip_text.encoder import Encoder
    from clip_text.loading import load_encoder
    from clip_text.plugin import register_with_open_clip

__all__ = [
    "CheckpointError",
    "ClipTextError",
    "DataError",
    "Encoder",
    "load_encoder",
    "register_with_open_clip",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import torch and transformers, which takes seconds, when something needs them."""
    if name == "Encoder":
        from clip_text.encoder import Encoder  # noqa: PLC0415

        return Encoder
    if name == "load_encoder":
        from clip_text.loading import load_encoder  # noqa: PLC0415

        return load_encoder
    if name == "register_with_open_clip":
        from clip_text.plugin import register_with_open_clip  # noqa: PLC0415

        return register_with_open_clip
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
