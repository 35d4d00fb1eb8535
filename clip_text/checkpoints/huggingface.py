"""Hugging Face folders of a ``ChineseCLIPModel``: read and written.

Files: ``config.json`` (model_type chinese_clip), ``model.safetensors`` or ``pytorch_model.bin``
(whole or in shards), ``preprocessor_config.json`` and a BERT tokenizer. Transformers' model has
an image tower of the ViT kind only, so RN50 cannot be written.

The format has no place for the context length. We write it as ``context_length`` into
``config.json``, where transformers keeps but does not read it; without it, it is 52.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, ChineseCLIPConfig

from clip_text.checkpoints import keys
from clip_text.checkpoints.cn_clip import VOCABULARY_SIZE, chinese_tokenizer, differences
from clip_text.checkpoints.files import State, read_json, write_weights
from clip_text.checkpoints.parts import (
    BROKEN,
    OPENAI_MEAN,
    OPENAI_STD,
    Checkpoint,
    Source,
    check_fits,
    default_context_length,
    incomplete,
)
from clip_text.checkpoints.places import HUGGING_FACE
from clip_text.checkpoints.weights import stored
from clip_text.errors import CheckpointError
from clip_text.images import Preprocessing
from clip_text.storage import check_new, partial_folder, write_json
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TowerConfig

MODEL_TYPE = "chinese_clip"
WEIGHTS_FILES = HUGGING_FACE

# fields that a BertConfig and a ChineseCLIPTextConfig share
_TEXT_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("max_position_embeddings", "type_vocab_size", "initializer_range", "layer_norm_eps"),
    "pad_token_id",
)
_LAYER_NORM_EPS = 1e-5
_BICUBIC = 3


def read(folder: Path, path: Path, state: State) -> Source:
    """Read a folder's configuration and tokenizer, for weights that were read before.

    Raises:
        CheckpointError: If a file is missing or damaged, or says what we do not compute.
    """
    raw = read_json(folder / "config.json")
    try:
        if raw.get("model_type") != MODEL_TYPE:
            raise ValueError(f"expected model_type {MODEL_TYPE}, got {raw.get('model_type')!r}")
        theirs = ChineseCLIPConfig.from_dict(raw)
        config = _tower_config(theirs, raw.get("context_length"))
        preprocessing = _preprocessing(folder / "preprocessor_config.json", theirs.vision_config)
        tokenizer = _tokenizer(folder, config)
    except CheckpointError:
        raise
    except BROKEN as error:
        raise incomplete(folder, error) from error
    kept, dropped = keys.drop(state.weights, keys.COMPUTE_NOTHING)
    mapped = keys.to_left(kept, keys.HUGGING_FACE)
    return Source(
        "hf",
        path,
        config,
        preprocessing,
        tokenizer,
        mapped.weights,
        dropped,
        tuple(mapped.problems),
        partial(keys.their_name, table=keys.HUGGING_FACE),
    )


def save_hugging_face(
    checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a new folder that ``ChineseCLIPModel.from_pretrained`` reads.

    Args:
        checkpoint: What to write.
        folder: Created with its parents; must not exist yet.
        dtype: Of the stored weights.

    Raises:
        CheckpointError: If transformers has no such model, or the config is not the model's.
        FileExistsError: If the folder exists.
    """
    check_fits(checkpoint)
    check_expressible(checkpoint)
    check_new(folder)
    mapped = keys.to_right(stored(checkpoint.model.state_dict(), dtype), keys.HUGGING_FACE)
    assert not mapped.problems, mapped.problems  # check_expressible saw to it
    with partial_folder(folder) as unfinished:  # "partial" is functools' here
        write_weights(mapped.weights, unfinished / "model.safetensors")
        _to_theirs(checkpoint, dtype).save_pretrained(unfinished)
        checkpoint.tokenizer.save(unfinished)
        settings = _preprocessor(checkpoint.preprocessing)
        write_json(unfinished / "preprocessor_config.json", settings)


def check_expressible(checkpoint: Checkpoint) -> None:
    """Refuse a model that transformers' ``ChineseCLIPModel`` cannot be.

    Raises:
        CheckpointError: Naming what is different.
    """
    config = checkpoint.config
    unlike = differences(config, vision_kinds=("ViT",))
    eps = _norm_kwargs(config)
    if set(eps) - {"eps"}:
        unlike.append(f"norm_kwargs {eps}")
    if checkpoint.preprocessing.size != config.vision.get("image_size"):
        unlike.append("pictures of another size than the image tower's")
    if unlike:
        raise CheckpointError(
            "expected a model that transformers' ChineseCLIPModel can be (a ViT and a BERT), got "
            f"one with {'; '.join(unlike)}. Write cn_clip's or open_clip's format."
        )


def _tower_config(theirs: ChineseCLIPConfig, context_length: int | None) -> TowerConfig:
    vision: Any = theirs.vision_config
    if vision.hidden_act not in ("quick_gelu", "gelu"):
        raise ValueError(f"expected hidden_act quick_gelu or gelu, got {vision.hidden_act!r}")
    shape: dict[str, Any] = {
        "image_size": int(vision.image_size),
        "layers": int(vision.num_hidden_layers),
        "width": int(vision.hidden_size),
        "head_width": int(vision.hidden_size // vision.num_attention_heads),
        "patch_size": int(vision.patch_size),
    }
    if vision.intermediate_size != 4 * vision.hidden_size:
        shape["mlp_ratio"] = vision.intermediate_size / vision.hidden_size
    if vision.layer_norm_eps != _LAYER_NORM_EPS:
        shape["norm_kwargs"] = {"eps": vision.layer_norm_eps}
    backbone = BertConfig(**{name: getattr(theirs.text_config, name) for name in _TEXT_FIELDS})
    return TowerConfig(
        embed_dim=int(theirs.projection_dim or 0),
        vision=shape,
        backbone=backbone,
        pooler="cls",
        projection="linear",
        context_length=int(
            context_length or default_context_length(backbone.max_position_embeddings)
        ),
        quick_gelu=vision.hidden_act == "quick_gelu",
    )


def _preprocessing(file: Path, vision: Any) -> Preprocessing:  # noqa: ANN401
    """Read how pictures are prepared; Chinese-CLIP's own way where the file is missing."""
    side = int(vision.image_size)
    if not file.is_file():
        return Preprocessing(side, OPENAI_MEAN, OPENAI_STD)
    raw = read_json(file)
    size = raw.get("size", side)
    if isinstance(size, dict):
        size = (size.get("height"), size.get("width"))
    if size not in (side, (side, side)) or raw.get("do_center_crop", False):
        raise ValueError(
            f"expected pictures squashed to {side} x {side} without a centre crop in {file.name}, "
            f"got size {raw.get('size')} and do_center_crop {raw.get('do_center_crop')}"
        )
    if raw.get("resample", _BICUBIC) != _BICUBIC:
        raise ValueError(f"expected resample {_BICUBIC} (bicubic), got {raw['resample']}")
    mean_r, mean_g, mean_b = map(float, raw.get("image_mean", OPENAI_MEAN))
    std_r, std_g, std_b = map(float, raw.get("image_std", OPENAI_STD))
    return Preprocessing(side, (mean_r, mean_g, mean_b), (std_r, std_g, std_b))


def _tokenizer(folder: Path, config: TowerConfig) -> Tokenizer:
    """Read the folder's tokenizer, or take the vocabulary of all published Chinese-CLIPs."""
    files = ("tokenizer.json", "vocab.txt")
    if (
        not any((folder / name).is_file() for name in files)
        and config.backbone.vocab_size == VOCABULARY_SIZE
    ):
        return chinese_tokenizer(config.context_length)
    return Tokenizer.from_folder(folder, config.context_length)


def _norm_kwargs(config: TowerConfig) -> dict[str, Any]:
    return dict(config.vision.get("norm_kwargs") or {})


def _to_theirs(checkpoint: Checkpoint, dtype: torch.dtype) -> ChineseCLIPConfig:
    config, vision = checkpoint.config, checkpoint.config.vision
    width = vision["width"]
    settings: dict[str, Any] = {
        "text_config": {name: getattr(config.backbone, name) for name in _TEXT_FIELDS},
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": int(width * vision.get("mlp_ratio", 4)),
            "projection_dim": config.embed_dim,
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": width // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": "quick_gelu" if config.quick_gelu else "gelu",
            "layer_norm_eps": _norm_kwargs(config).get("eps", _LAYER_NORM_EPS),
        },
        "projection_dim": config.embed_dim,
        "architectures": ["ChineseCLIPModel"],
        "dtype": dtype,
        "context_length": config.context_length,
    }
    return ChineseCLIPConfig(**settings)


def _preprocessor(preprocessing: Preprocessing) -> dict[str, Any]:
    side = {"height": preprocessing.size, "width": preprocessing.size}
    return {
        "image_processor_type": "ChineseCLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": side,
        "resample": _BICUBIC,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
