"""Checkpoints: models on disk, in the three formats that Chinese-CLIP comes in.

=========  ==============================================================================
cn_clip    one ``.pt`` file, as github.com/OFA-Sys/Chinese-CLIP publishes and trains them
hf         a folder of transformers' ``ChineseCLIPModel``
open_clip  a folder with ``open_clip_config.json``: our own format, see :mod:`.folder`
=========  ==============================================================================

:func:`load_checkpoint` tells the format by itself, :func:`recognise` says what it found, and
:func:`save_as` writes any of them. :func:`load_text_tower` starts a text tower from a plain
encoder, and :meth:`Checkpoint.with_text_tower` puts it beside an image tower.
"""

from pathlib import Path

import torch

from clip_text.checkpoints.backbones import load_text_tower, start_backbone
from clip_text.checkpoints.cn_clip import save_cn_clip
from clip_text.checkpoints.folder import save_checkpoint
from clip_text.checkpoints.heads import export_head, load_answers, load_entities, load_head
from clip_text.checkpoints.huggingface import save_hugging_face
from clip_text.checkpoints.parts import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    LoadedTextTower,
)
from clip_text.checkpoints.places import STARTER, resolve
from clip_text.checkpoints.recognition import Description, load_checkpoint, recognise
from clip_text.checkpoints.weights import load_weights
from clip_text.images import Preprocessing
from clip_text.names import Format

__all__ = [
    "CONFIG_FILE",
    "STARTER",
    "WEIGHTS_FILE",
    "Checkpoint",
    "Description",
    "Format",
    "LoadedTextTower",
    "Preprocessing",
    "export_head",
    "load_answers",
    "load_checkpoint",
    "load_entities",
    "load_head",
    "load_text_tower",
    "load_weights",
    "recognise",
    "resolve",
    "save_as",
    "save_checkpoint",
    "start_backbone",
]


def save_as(
    checkpoint: Checkpoint, path: Path, to: Format, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a checkpoint in a format.

    Args:
        checkpoint: What to write.
        path: A new folder, or for cn_clip a file.
        to: cn_clip, hf or open_clip.
        dtype: Of the stored floating-point weights.

    Raises:
        CheckpointError: If the format has no place for something of the model, or the config is
            not the model's.
    """
    writers = {"cn_clip": save_cn_clip, "hf": save_hugging_face, "open_clip": save_checkpoint}
    writers[to](checkpoint, path, dtype=dtype)
