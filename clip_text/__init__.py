"""Chinese and multilingual text encoders for CLIP-style retrieval."""

from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError, ClipTextError

__all__ = ["CheckpointError", "ClipTextError", "Encoder"]
