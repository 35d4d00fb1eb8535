"""open_clip's folders, which are ours: read and written.

The layout is open_clip's own, with the backbone's configuration and the tokenizer beside it as
Hugging Face saves them::

    open_clip_config.json        model_cfg (both towers) and preprocess_cfg; ours: matryoshka
    open_clip_model.safetensors  weights, fp32 or fp16
    config.json                  the text backbone, as transformers.AutoConfig reads it
    tokenizer.json, …            the tokenizer, as transformers.AutoTokenizer reads it
    README.md                    the model card
    heads/NAME/…                 what else reads the text backbone, see clip_text.checkpoints.heads

Read as well: ``open_clip_pytorch_model.bin``, and a checkpoint of open_clip's training script
(``epoch_5.pt``) that lies beside the config.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from open_clip import CLIPTextCfg
from transformers import AutoConfig, PreTrainedConfig

from clip_text.checkpoints import keys
from clip_text.checkpoints.files import State, read_json, write_weights
from clip_text.checkpoints.heads import drop_readers_of_another, save_heads
from clip_text.checkpoints.parts import (
    BROKEN,
    CONFIG_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    Source,
    check_fits,
    incomplete,
)
from clip_text.checkpoints.weights import stored
from clip_text.images import Preprocessing
from clip_text.storage import partial_folder, write_json
from clip_text.tokenizer import Tokenizer
from clip_text.towers import Pooler, Projection, TowerConfig

WEIGHTS_FILES = (WEIGHTS_FILE, "open_clip_pytorch_model.bin")

# our word: open_clip's word
_POOLERS: dict[Pooler, str] = {
    "cls": "cls_last_hidden_state_pooler",
    "mean": "mean_pooler",
    "max": "max_pooler",
}

_DEFAULTS = {
    name: getattr(CLIPTextCfg, name)
    for name in ("hf_pooler_type", "hf_proj_type", "context_length")
}


def read(folder: Path, path: Path, state: State) -> Source:
    """Read a folder's configuration and tokenizer, for weights that were read before.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    raw = read_json(folder / CONFIG_FILE)
    try:
        backbone = AutoConfig.from_pretrained(folder, local_files_only=True)
        shape = _tower_config(raw["model_cfg"], cast(PreTrainedConfig, backbone))
        # beside model_cfg, which open_clip takes for arguments of its own
        shape = replace(shape, matryoshka=tuple(int(each) for each in raw.get("matryoshka", ())))
        preprocessing = _preprocessing(raw["preprocess_cfg"])
        tokenizer = Tokenizer.from_folder(folder, shape.context_length)
    except BROKEN as error:
        raise incomplete(folder, error) from error
    kept, dropped = keys.drop(state.weights, keys.COMPUTE_NOTHING)
    return Source("open_clip", path, shape, preprocessing, tokenizer, kept, dropped)


def save_checkpoint(
    checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a checkpoint folder; an older one there stays whole until the new one is complete.

    Heads that lie there already stay beside the new towers, but for those that read the states of
    another text tower.

    Args:
        checkpoint: What to write.
        folder: Created with its parents.
        dtype: Of the stored floating-point weights; float16 halves the file.

    Raises:
        CheckpointError: If the config is not the model's, or a weight too large for the type.
    """
    check_fits(checkpoint)
    weights = stored(checkpoint.model.state_dict(), dtype)
    with partial_folder(folder) as partial:
        write_weights(weights, partial / WEIGHTS_FILE)
        checkpoint.config.backbone.save_pretrained(partial)
        checkpoint.tokenizer.save(partial)
        write_json(partial / CONFIG_FILE, _to_json(checkpoint))
        save_heads(checkpoint.heads, partial, dtype, checkpoint.model.text)
    if (folder / "heads").is_dir():
        drop_readers_of_another(folder, checkpoint.model.text, dtype)


def _tower_config(raw: Mapping[str, Any], backbone: PreTrainedConfig) -> TowerConfig:
    # what a config leaves out is what open_clip takes it for: its CLIPTextCfg says
    text = {**_DEFAULTS, **raw["text_cfg"]}
    pooler = text["hf_pooler_type"]
    ours = {theirs: name for name, theirs in _POOLERS.items()}
    if pooler not in ours:
        raise ValueError(f"expected hf_pooler_type {', '.join(ours)}, got {pooler!r}")
    known = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
    return TowerConfig(
        embed_dim=int(raw["embed_dim"]),
        vision=dict(raw["vision_cfg"]),
        backbone=backbone,
        pooler=ours[pooler],
        projection=cast(Projection, text["hf_proj_type"] or "none"),
        context_length=int(text["context_length"]),
        quick_gelu=bool(raw.get("quick_gelu", False)),
        extra={key: value for key, value in raw.items() if key not in known},
    )


def _preprocessing(raw: Mapping[str, Any]) -> Preprocessing:
    if raw.get("resize_mode") != "squash" or raw.get("interpolation") != "bicubic":
        raise ValueError(
            "expected resize_mode squash and interpolation bicubic, "
            f"got {raw.get('resize_mode')!r} and {raw.get('interpolation')!r}"
        )
    sides = raw["size"] if isinstance(raw["size"], list) else [raw["size"]]
    if len(sides) not in (1, 2) or sides[0] != sides[-1]:
        raise ValueError(f"expected pictures squashed to a square, got size {sides}")
    mean, std = (tuple(float(v) for v in raw[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"expected mean and std of three channels, got {mean} and {std}")
    return Preprocessing(
        size=int(sides[0]),
        mean=mean,
        std=std,
    )


def preprocess_cfg(preprocessing: Preprocessing) -> dict[str, Any]:
    """Say how pictures are prepared in open_clip's words."""
    return {
        "size": preprocessing.size,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }


def _to_json(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    return {
        "model_cfg": {
            **config.extra,
            "embed_dim": config.embed_dim,
            "quick_gelu": config.quick_gelu,
            "vision_cfg": config.vision,
            "text_cfg": {
                # "." is this folder; open_clip resolves names against the working directory
                "hf_model_name": ".",
                "hf_tokenizer_name": ".",
                "hf_model_pretrained": False,
                "hf_pooler_type": _POOLERS[config.pooler],
                "hf_proj_type": None if config.projection == "none" else config.projection,
                "context_length": config.context_length,
            },
        },
        "preprocess_cfg": preprocess_cfg(checkpoint.preprocessing),
        **({"matryoshka": list(config.matryoshka)} if config.matryoshka else {}),
    }
