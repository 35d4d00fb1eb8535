"""Exported folders that several test files read; each takes seconds to write."""

import functools
import tempfile
from pathlib import Path

from models import shared_checkpoint

from clip_text.checkpoints import save_checkpoint
from clip_text.exporting import export


@functools.cache
def exported(target: str) -> Path:
    """The shared tiny model as onnx, openvino or immich; do not write to it."""
    base = Path(_base().name)
    source = base / "tiny"
    if not source.exists():
        save_checkpoint(shared_checkpoint(), source)
    export(source, base / target, target)
    return base / target


@functools.cache
def _base() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()
