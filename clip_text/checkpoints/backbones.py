"""Plain Hugging Face encoders as a text tower to start training from.

``hfl/chinese-roberta-wwm-ext(-large)``, ``hfl/rbt3``, ``xlm-roberta-*`` and their kind: a folder
with ``config.json``, weights and a tokenizer. What pretraining left on top of the encoder (a
masked-LM head, a tanh pooler) is dropped, and said so.

Taiyi-CLIP's first text towers (``IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese``, ``…-large-326M-…``)
are a ``BertForSequenceClassification`` whose logits are the text features: [CLS] through the tanh
pooler, then a linear layer *with* a bias. That is the projection ``tanh``.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from clip_text.checkpoints import keys
from clip_text.checkpoints.files import read_json, read_sharded
from clip_text.checkpoints.heads import CONFIG, read_head
from clip_text.checkpoints.huggingface import WEIGHTS_FILES
from clip_text.checkpoints.parts import (
    BROKEN,
    CONFIG_FILE,
    Checkpoint,
    LoadedTextTower,
    check_positions,
    check_tokenizer,
    default_context_length,
    incomplete,
    positions,
)
from clip_text.checkpoints.places import resolve
from clip_text.checkpoints.recognition import load_checkpoint
from clip_text.checkpoints.weights import load_weights
from clip_text.errors import CheckpointError
from clip_text.heads import StandaloneHead
from clip_text.heads.standalone import bare_tower
from clip_text.tokenizer import CONTEXT_LENGTH, Tokenizer
from clip_text.towers import Pooler, Projection, TextTower

_OF_HEADS = ("classifier.*", "classification_head.*")
"""What transformers' classes with a head call its tensors."""


def load_text_tower(
    name: str | Path,
    embed_dim: int,
    *,
    pooler: Pooler = "cls",
    projection: Projection = "linear",
    context_length: int | None = None,
    drop: tuple[str, ...] = (),
) -> LoadedTextTower:
    """Make a text tower of a plain encoder's weights.

    Args:
        name: A local folder or a Hugging Face hub name.
        embed_dim: Width of the shared space.
        pooler: How token states become one vector.
        projection: ``tanh`` takes Taiyi-CLIP's; the others start random, with the standard
            deviation width^-0.5 of CLIP (Radford et al. 2021, their code).
        context_length: Longest text in tokens; 52 by default, or all of a smaller model's.
        drop: Names of further tensors to leave out; ``*`` stands for anything.

    Raises:
        CheckpointError: If a file is missing or damaged, a tensor is missing, extra or misshapen,
            the context longer than the encoder's positions, or the tokenizer another encoder's.
        ValueError: If the pooler or projection is unknown or does not fit the width.
    """
    folder = resolve(name)
    if folder.is_file():
        folder = folder.parent
    config = _config(folder)
    path, state = read_sharded(folder, WEIGHTS_FILES)
    length = context_length or default_context_length(positions(config) or CONTEXT_LENGTH)
    check_positions(config, length, path)
    tower = TextTower(config, embed_dim, pooler, projection, length).eval()
    try:
        tokenizer = Tokenizer.from_folder(folder, length)
    except BROKEN as error:
        raise incomplete(folder, error) from error
    check_tokenizer(tokenizer, config, folder)
    modern = keys.to_left(state.weights, keys.LEGACY_LAYER_NORM)
    if projection == "tanh":
        return _taiyi(tower, tokenizer, modern, path, drop)
    prefix = f"{tower.transformer.base_model_prefix}."
    base = _without_prefix(modern.weights, prefix)
    unused = (*keys.TRAINING_HEADS, "pooler.*", "*embeddings.position_ids", *drop)
    kept, dropped = keys.drop(base, unused)
    if "classifier.weight" in kept:
        raise CheckpointError(
            f"expected an encoder alone in {folder}, got one with a classifier of "
            f"{kept['classifier.weight'].shape[0]} rows. If it is a Taiyi-CLIP text tower, ask "
            "for projection='tanh'; if not, leave it out with drop=('classifier.*',)."
        )
    load_weights(tower.transformer, kept, path, tuple(modern.problems))
    new = _start_projection(tower)
    return LoadedTextTower(tower, tokenizer, dropped, new)


def _taiyi(
    tower: TextTower, tokenizer: Tokenizer, modern: keys.Mapped, path: Path, drop: tuple[str, ...]
) -> LoadedTextTower:
    kept, dropped = keys.drop(modern.weights, ("*embeddings.position_ids", *drop))
    mapped = keys.to_left(kept, keys.TAIYI)
    problems = (*modern.problems, *mapped.problems)
    their_name = partial(keys.their_name, table=keys.TAIYI)
    load_weights(tower, mapped.weights, path, problems, their_name)
    return LoadedTextTower(tower, tokenizer, dropped, ())


def _config(folder: Path) -> PreTrainedConfig:
    raw = read_json(folder / "config.json")
    parts = [name for name in ("text_config", "vision_config") if name in raw]
    if parts:
        raise CheckpointError(
            f"expected a plain text encoder in {folder}, got a {raw.get('model_type')} with "
            f"{' and '.join(parts)}. Load it with load_checkpoint and take its model.text."
        )
    try:
        return cast(PreTrainedConfig, AutoConfig.from_pretrained(folder, local_files_only=True))
    except BROKEN as error:
        raise incomplete(folder, error) from error


def _without_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Name the encoder's tensors as the bare encoder does; others keep their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def _start_projection(tower: TextTower) -> tuple[str, ...]:
    for module in tower.proj.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return tuple(f"proj.{name}" for name in tower.proj.state_dict())


def start_backbone(
    name: str | Path | Checkpoint, context_length: int, *, random: bool = False, seed: int = 0
) -> tuple[TextTower, Tokenizer]:
    """Take the backbone of a checkpoint's text tower, or a plain encoder, to fine-tune.

    Args:
        name: ``starter``, a folder or file, a hub name, or a checkpoint that was loaded.
        context_length: Longest window in tokens; at most the backbone's positions.
        random: Draw its weights anew instead: the same shape knowing nothing.
        seed: Of these weights.

    Returns:
        A text tower without projection, and the tokenizer.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    if not isinstance(name, Checkpoint) and is_encoder(resolve(name)):
        tower, tokenizer = _encoder(resolve(name))
    else:
        checkpoint = name if isinstance(name, Checkpoint) else load_checkpoint(name)
        tower, tokenizer = cast(TextTower, checkpoint.model.text), checkpoint.tokenizer
    length = min(context_length, positions(tower.config) or context_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bare = bare_tower(tower.config, length)
    if not random:
        bare.transformer.load_state_dict(tower.transformer.state_dict())
    return bare, Tokenizer(tokenizer.backend, length, tokenizer.compat)


def is_encoder(folder: Path) -> bool:
    """Say whether a place holds a plain encoder rather than a pair of towers."""
    if not (folder / "config.json").is_file() or (folder / CONFIG_FILE).is_file():
        return False
    return "text_config" not in read_json(folder / "config.json")


def _encoder(folder: Path) -> tuple[TextTower, Tokenizer]:
    if (folder / CONFIG).is_file():  # a head of ours: its backbone
        head = read_head(folder)
        if not isinstance(head, StandaloneHead):
            raise CheckpointError(
                f"expected a head with a tokenizer in {folder}, got one for {head.task}, which "
                "has none. Name the checkpoint that it lies in."
            )
        return head.tower, head.tokenizer
    start = load_text_tower(folder, 1, drop=_OF_HEADS)
    return start.tower, start.tokenizer
