"""cn_clip's ``.pt`` files: read and written.

A file holds tensors and no configuration, so the sizes are read off the tensors. What no tensor
tells is what cn_clip's five published models have in common: heads of width 64 (80 in ViT-H),
QuickGELU in the image tower, BERT's usual erf GELU and epsilon, 52 tokens, and the vocabulary of
``hfl/chinese-roberta-wwm-ext``.
"""

import math
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig

from clip_text.checkpoints import keys
from clip_text.checkpoints.files import State
from clip_text.checkpoints.parts import (
    OPENAI_MEAN,
    OPENAI_STD,
    Checkpoint,
    Source,
    check_fits,
    default_context_length,
)
from clip_text.checkpoints.weights import stored
from clip_text.errors import CheckpointError
from clip_text.images import Preprocessing
from clip_text.storage import partial_file
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TowerConfig

VOCABULARY_SIZE = 21_128
_HEAD_WIDTH = 64
_HUGE = 80
"""ViT-H/14 has 16 heads of width 80 where all others have heads of width 64."""


def read(path: Path, state: State) -> Source:
    """Read a state dict of ``cn_clip.clip.model.CLIP``, with FlashAttention's names or without.

    Raises:
        CheckpointError: If sizes cannot be told from the tensors, or the vocabulary is another.
    """
    weights, dropped = keys.drop(state.weights, keys.COMPUTE_NOTHING)
    problems: list[str] = []
    if any(".Wqkv." in name for name in weights):
        plain = keys.to_right(weights, keys.FLASH)
        weights, problems = plain.weights, plain.problems
    mapped = keys.to_left(weights, keys.CN_CLIP)
    try:
        config = _tower_config(mapped.weights)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        lacks = isinstance(error, KeyError)
        reason = f"no {_their_name(str(error.args[0]))}" if lacks else str(error)
        raise CheckpointError(
            f"expected the tensors of a cn_clip model in {path}, got {reason}. "
            "Use a file that cn_clip's training saved, or clip-text convert wrote."
        ) from error
    vocabulary = int(config.backbone.vocab_size)
    if vocabulary != VOCABULARY_SIZE:
        raise CheckpointError(
            f"expected {VOCABULARY_SIZE} word embeddings (cn_clip's vocabulary) in {path}, "
            f"got {vocabulary}. Convert it to a folder with the library that knows its vocabulary."
        )
    size = config.vision["image_size"]
    return Source(
        "cn_clip",
        path,
        config,
        Preprocessing(size, OPENAI_MEAN, OPENAI_STD),
        chinese_tokenizer(config.context_length),
        mapped.weights,
        dropped,
        tuple(problems + mapped.problems),
        _their_name,
    )


def save_cn_clip(checkpoint: Checkpoint, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a file that cn_clip's ``load_from_name`` and its training's ``--resume`` read.

    Args:
        checkpoint: What to write.
        path: The file; its folder is created, and an older file stays whole until then.
        dtype: Of the stored weights.

    Raises:
        CheckpointError: If cn_clip has no such model, or the config is not the model's.
    """
    check_fits(checkpoint)
    check_expressible(checkpoint)
    mapped = keys.to_right(stored(checkpoint.model.state_dict(), dtype), keys.CN_CLIP)
    assert not mapped.problems, mapped.problems  # check_expressible saw to it
    # "module." because cn_clip resumes into DistributedDataParallel and strips it elsewhere
    state = {f"module.{name}": tensor for name, tensor in mapped.weights.items()}
    with partial_file(path) as unfinished:
        torch.save({"epoch": 0, "step": 0, "name": "clip-text", "state_dict": state}, unfinished)


def check_expressible(checkpoint: Checkpoint) -> None:
    """Refuse a model that cn_clip's code, or this reader, would run differently.

    Raises:
        CheckpointError: Naming what is different, and what cn_clip has.
    """
    config, backbone = checkpoint.config, checkpoint.config.backbone
    unlike = differences(config, vision_kinds=("ViT", "ResNet"))
    if not unlike:
        width, vision = config.vision["width"], config.vision
        resnet = isinstance(vision["layers"], list | tuple)
        conventions = {
            "quick_gelu": (config.quick_gelu or resnet, True),
            "head_width": (
                vision.get("head_width", _HEAD_WIDTH),
                _HEAD_WIDTH if resnet else _head_width(width),
            ),
            "mlp_ratio": (float(vision.get("mlp_ratio", 4.0)), 4.0),
            "norm_kwargs": (vision.get("norm_kwargs") or {}, {}),
            "hidden_act": (backbone.hidden_act, "gelu"),
            "layer_norm_eps": (backbone.layer_norm_eps, 1e-12),
            "num_attention_heads": (
                backbone.num_attention_heads,
                max(1, backbone.hidden_size // _HEAD_WIDTH),
            ),
            "preprocessing mean": (checkpoint.preprocessing.mean, OPENAI_MEAN),
            "preprocessing std": (checkpoint.preprocessing.std, OPENAI_STD),
            "image size": (checkpoint.preprocessing.size, vision["image_size"]),
        }
        unlike = [
            f"{name} {has!r}, not {needs!r}"
            for name, (has, needs) in conventions.items()
            if has != needs
        ]
        if checkpoint.tokenizer.backend.get_vocab() != _vocabulary():
            unlike.append("another vocabulary than chinese-roberta-wwm-ext's")
    if unlike:
        raise CheckpointError(
            f"expected a model that a cn_clip file can hold, got one with {'; '.join(unlike)}. "
            "Write open_clip's format, which holds every model."
        )


def differences(config: TowerConfig, vision_kinds: tuple[str, ...]) -> list[str]:
    """List how a pair of towers differs from every Chinese-CLIP, a phrase each."""
    unlike = []
    if config.backbone.model_type != "bert":
        unlike.append(f"a {config.backbone.model_type} backbone, not bert")
    if config.pooler != "cls":
        unlike.append(f"pooler {config.pooler}, not cls")
    if config.projection != "linear":
        unlike.append(f"projection {config.projection}, not linear")
    vision = config.vision
    layers = vision.get("layers")
    kind = "ResNet" if isinstance(layers, list | tuple) else "ViT"
    if not layers:
        unlike.append(f"image tower {vision.get('timm_model_name', 'of timm')}")
    elif kind not in vision_kinds:
        unlike.append(f"a {kind} image tower")
    known = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
    known |= {"norm_kwargs", "pool_type", "timm_model_pretrained", "patch_dropout"}
    if layers:
        unlike += [f"vision_cfg {name}" for name in vision if name not in known and vision[name]]
    if vision.get("pool_type", "tok") != "tok":
        unlike.append(f"pool_type {vision['pool_type']}")
    return unlike


def chinese_tokenizer(context_length: int) -> Tokenizer:
    """Make a tokenizer with the 21,128 tokens of chinese-roberta-wwm-ext, which the starter has."""
    return Tokenizer(_chinese().backend, context_length)


@cache
def _chinese() -> Tokenizer:
    """Read it once: tokenizers only read their backend."""
    return Tokenizer.from_folder(Path(__file__).parents[1] / "starter")


@cache
def _vocabulary() -> dict[str, int]:
    return _chinese().backend.get_vocab()


_their_name = partial(keys.their_name, table=keys.CN_CLIP)


def _tower_config(weights: Mapping[str, Tensor]) -> TowerConfig:
    backbone = bert_config(weights, "text.transformer.")
    return TowerConfig(
        embed_dim=int(weights["text.proj.weight"].shape[0]),
        vision=_vision(weights),
        backbone=backbone,
        pooler="cls",
        projection="linear",
        context_length=default_context_length(backbone.max_position_embeddings),
        quick_gelu="visual.proj" in weights,
    )


def bert_config(weights: Mapping[str, Tensor], prefix: str) -> BertConfig:
    """Tell a BERT's sizes from its tensors; heads have the width 64 they have in every size."""

    def shape(name: str) -> torch.Size:
        return weights[prefix + name].shape

    vocabulary, width = shape("embeddings.word_embeddings.weight")
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=_count(weights, f"{prefix}encoder.layer."),
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        intermediate_size=shape("encoder.layer.0.intermediate.dense.bias")[0],
        max_position_embeddings=shape("embeddings.position_embeddings.weight")[0],
        type_vocab_size=shape("embeddings.token_type_embeddings.weight")[0],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )


def _vision(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    if "visual.attnpool.positional_embedding" in weights:
        width = int(weights["visual.layer1.0.conv1.weight"].shape[0])
        return {
            "image_size": 32 * _grid(weights["visual.attnpool.positional_embedding"]),
            "layers": [_count(weights, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)],
            "width": width,
            "head_width": _HEAD_WIDTH,
        }
    width, _, patch, _ = weights["visual.conv1.weight"].shape
    vision = {
        "image_size": patch * _grid(weights["visual.positional_embedding"]),
        "layers": _count(weights, "visual.transformer.resblocks."),
        "width": width,
        "head_width": _head_width(width),
        "patch_size": patch,
    }
    ratio = weights["visual.transformer.resblocks.0.mlp.c_fc.bias"].shape[0] / width
    return vision if ratio == 4 else {**vision, "mlp_ratio": ratio}


def _head_width(width: int) -> int:
    if width == 1280 or (width % _HEAD_WIDTH and width % _HUGE == 0):
        return _HUGE
    if width % _HEAD_WIDTH:
        raise ValueError(f"an image tower of width {width}, which heads of 64 or 80 do not divide")
    return _HEAD_WIDTH


def _grid(positions: Tensor) -> int:
    """Side of the grid of patches; one more position is the class token's."""
    side = math.isqrt(positions.shape[0] - 1)
    if side * side + 1 != positions.shape[0]:
        raise ValueError(f"{positions.shape[0]} image positions, not a square and one more")
    return side


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {
        int(name.removeprefix(prefix).partition(".")[0])
        for name in weights
        if name.startswith(prefix)
    }
    if numbers != set(range(len(numbers))) or not numbers:
        raise ValueError(f"layers {sorted(numbers)} under {prefix}, not all from 0 on")
    return len(numbers)
