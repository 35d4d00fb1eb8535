"""Masked LM: the models that training starts from, an encoder's or a new one's."""

from pathlib import Path
from typing import cast

import torch
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from clip_text.checkpoints import CONFIG_FILE, load_checkpoint, load_text_tower, resolve
from clip_text.checkpoints.files import read_json
from clip_text.checkpoints.parts import check_positions
from clip_text.errors import CheckpointError
from clip_text.tokenizer import Tokenizer
from clip_text.training.students import new_student


def load_masked_lm(
    name: str | Path, *, context_length: int | None = None, seed: int = 0
) -> tuple[PreTrainedModel, Tokenizer, bool]:
    """Put transformers' head for masked LM on an encoder.

    Args:
        name: ``starter``, a checkpoint of a pair of towers (its text tower is meant), or a plain
            encoder; a folder, a file or a hub name. A plain encoder's own head is kept.
        context_length: Longest text in tokens; the checkpoint's by default.
        seed: Of a new head. Its decoder is the word embeddings, which are there already: what is
            new is one layer before it, and a bias for each word.

    Returns:
        The model in evaluation mode, its tokenizer, and whether the head is new.

    Raises:
        CheckpointError: If there is none, it is broken, has no head for masked LM in transformers,
            or no positions for the context.
    """
    folder = resolve(name)
    plain = folder.is_dir() and not (folder / CONFIG_FILE).is_file()
    if plain and "text_config" not in read_json(folder / "config.json"):
        start = load_text_tower(folder, 1, context_length=context_length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, told = AutoModelForMaskedLM.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        return model.eval(), start.tokenizer, bool(told["missing_keys"])
    checkpoint = load_checkpoint(folder)
    tokenizer = checkpoint.tokenizer
    if context_length:
        check_positions(checkpoint.config.backbone, context_length, folder)
        tokenizer = Tokenizer(tokenizer.backend, context_length, tokenizer.compat)
    tower = checkpoint.model.text
    return _with_head(tower.transformer, tower.config, seed), tokenizer, True


def new_masked_lm(size: str, tokenizer: Tokenizer, *, seed: int = 0) -> PreTrainedModel:
    """Make a BERT for masked LM of random weights.

    Args:
        size: A name of :data:`clip_text.training.students.SIZES`.
        tokenizer: Its vocabulary and context length are the model's.
        seed: Of the weights.

    Raises:
        ValueError: If there is no such size.
    """
    tower = new_student(size, tokenizer, 1, seed=seed).tower
    return _with_head(tower.transformer, tower.config, seed)


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
