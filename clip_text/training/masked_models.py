"""Masked LM: the models that training starts from, an encoder's or a new one's."""

import copy
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from clip_text.checkpoints import CONFIG_FILE, load_checkpoint, load_text_tower, resolve
from clip_text.checkpoints.files import read_json
from clip_text.checkpoints.parts import (
    check_positions,
    positions,
)
from clip_text.checkpoints.weights import check_finite
from clip_text.errors import CheckpointError
from clip_text.tokenizer import Tokenizer
from clip_text.training.students import new_student


def load_masked_lm(
    name: str | Path, *, context_length: int | None = None, grow: bool = False, seed: int = 0
) -> tuple[PreTrainedModel, Tokenizer, bool]:
    """Put transformers' head for masked LM on an encoder.

    Args:
        name: ``starter``, a checkpoint of a pair of towers (its text tower is meant), or a plain
            encoder; a folder, a file or a hub name. A plain encoder's own head is kept.
        context_length: Longest text in tokens; the checkpoint's by default.
        grow: Give the encoder more positions where it has too few, see :func:`grow_positions`.
        seed: Seed of a new head. Its decoder is the word embeddings, which are there already: what
            is new is one layer before it, and a bias for each word.

    Returns:
        The model in evaluation mode, its tokenizer, and whether the head is new.

    Raises:
        CheckpointError: If there is none, it is broken, has no head for masked LM in transformers,
            or no positions for the context.
    """
    folder = resolve(name)
    plain = folder.is_dir() and not (folder / CONFIG_FILE).is_file()
    if plain and "text_config" not in read_json(folder / "config.json"):
        start = load_text_tower(folder, 1, context_length=None if grow else context_length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, told = AutoModelForMaskedLM.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        check_finite(model.state_dict(), folder)  # its head, too
        model, tokenizer, new = model.eval(), start.tokenizer, bool(told["missing_keys"])
    else:
        checkpoint = load_checkpoint(folder)
        tower, tokenizer, new = checkpoint.model.text, checkpoint.tokenizer, True
        if context_length and not grow:
            check_positions(checkpoint.config.backbone, context_length, folder)
        model = _with_head(tower.transformer, tower.config, seed)
    if context_length:
        tokenizer = Tokenizer(tokenizer.backend, context_length, tokenizer.compat)
        model = grow_positions(model, context_length) if grow else model
    return model, tokenizer, new


def new_masked_lm(size: str, tokenizer: Tokenizer, *, seed: int = 0) -> PreTrainedModel:
    """Make a BERT for masked LM of random weights.

    Args:
        size: A name of :data:`clip_text.training.students.SIZES`.
        tokenizer: Its vocabulary and context length are the model's.
        seed: Seed of the weights.

    Raises:
        ValueError: If there is no such size.
    """
    tower = new_student(size, tokenizer, 1, seed=seed).tower
    return _with_head(tower.transformer, tower.config, seed)


def grow_positions(model: PreTrainedModel, context_length: int) -> PreTrainedModel:
    """Give an encoder with learnt positions as many as a context needs.

    New ones start as copies of those there are, from the first on, as Longformer's did (Beltagy
    et al. 2020, arXiv:2004.05150, section 5): text has to teach them to differ.

    Args:
        model: With a head for masked LM.
        context_length: Longest text in tokens.

    Returns:
        The model itself if it has enough; else another one.

    Raises:
        CheckpointError: If its positions are no table of embeddings.
    """
    longest = positions(model.config)
    if not longest or longest >= context_length:
        return model
    state = model.state_dict()
    tables = [name for name in state if name.endswith("position_embeddings.weight")]
    if len(tables) != 1:
        raise CheckpointError(
            f"expected one table of positions to grow, got {len(tables)} in a "
            f"{model.config.model_type}. Ask for a context_length of at most {longest}."
        )
    old = state[tables[0]]
    before = len(old) - longest  # RoBERTa leaves rows free before its first position
    again = torch.arange(context_length - longest) % longest + before
    state[tables[0]] = torch.cat([old, old[again]])
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = before + context_length
    grown = type(model)(config)
    kept = {name: each for name, each in state.items() if not name.endswith("_ids")}
    grown.load_state_dict(kept, strict=False)  # all but buffers that count positions
    grown.tie_weights()
    grown.train(False)
    return grown


def drop_less(model: nn.Module, dropout: float) -> None:
    """Set all dropout of a model in training; its config, for later fine-tuning, stays as it is.

    Raises:
        ValueError: If it is not in [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"expected a dropout of 0 to below 1, got {dropout}. Use 0.1, or 0.")
    for each in model.modules():
        if isinstance(each, nn.Dropout):
            each.p = dropout


def _with_head(backbone: torch.nn.Module, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cast(
                PreTrainedModel,
                AutoModelForMaskedLM.from_config(config),  # type: ignore[no-untyped-call]
            )
    except ValueError:
        raise CheckpointError(
            f"expected an encoder that transformers has a masked LM for, got {config.model_type}. "
            "Start from a BERT or RoBERTa."
        ) from None
    model.base_model.load_state_dict(backbone.state_dict())
    model.train(False)
    return model
