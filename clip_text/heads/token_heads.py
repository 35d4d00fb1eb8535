"""What the heads over token states share: their start, their files, and their way to transformers.

They lie in a checkpoint's folder as all heads do (:mod:`clip_text.heads.files`), and bring the
backbone they were trained with, and its tokenizer::

    heads/NAME/head.json          task, labels or threshold, context_length, overlap
    heads/NAME/head.safetensors   weights of backbone and head
    heads/NAME/config.json        configuration of the backbone
    heads/NAME/tokenizer.json, …  the tokenizer with its contract
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from clip_text.checkpoints import (
    CONFIG_FILE,
    Checkpoint,
    load_checkpoint,
    load_text_tower,
    resolve,
)
from clip_text.checkpoints.files import read_json, read_state, write_weights
from clip_text.checkpoints.parts import (
    BROKEN,
    incomplete,
    load_weights,
    positions,
    stored,
)
from clip_text.errors import CheckpointError
from clip_text.heads.files import CONFIG, WEIGHTS, heads_in
from clip_text.storage import check_new, partial_folder, write_json
from clip_text.tokenizer import Tokenizer
from clip_text.tokenizer.portable import portable
from clip_text.towers import TextTower

_INIT_STD = 0.02  # BERT's
_PARTS = ("classifier.*", "classification_head.*")


class TokenHead(nn.Module):
    """A backbone, dropout and one linear layer over each token's state.

    Args:
        tower: Its backbone is read; it has no projection.
        outputs: Numbers for each token.
        dropout: Share of a state dropped in training.
    """

    def __init__(self, tower: TextTower, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.tower = tower
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(tower.width, outputs)
        nn.init.normal_(self.out.weight, std=_INIT_STD)
        nn.init.zeros_(self.out.bias)

    def logits(self, tokens: Tensor, kinds: Tensor | None = None) -> Tensor:
        """Compute [n, length, outputs] of token ids [n, length].

        Args:
            tokens: Padded at the end.
            kinds: Which of two texts a token is of, 0 or 1, [n, length]; backbones without such
                embeddings pass over it.
        """
        if kinds is None or getattr(self.tower.config, "type_vocab_size", 0) < 2:
            states, _ = self.tower.states(tokens)
        else:
            mask = (tokens != self.tower.pad_id).long()
            out = self.tower.transformer(
                input_ids=tokens, attention_mask=mask, token_type_ids=kinds
            )
            states = out.last_hidden_state
        return cast(Tensor, self.out(self.dropout(states)))


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
        tower, weights, tokenizer, _ = read_parts(folder)
        known = {name: each for name, each in weights.items() if name.startswith("tower.")}
        tower.load_state_dict({name.removeprefix("tower."): w for name, w in known.items()})
        return tower, tokenizer
    start = load_text_tower(folder, 1, drop=_PARTS)
    return start.tower, start.tokenizer


def bare_tower(config: PreTrainedConfig, context_length: int) -> TextTower:
    """Make a text tower of random weights without projection."""
    width = int(config.hidden_size)
    return TextTower(config, width, "cls", "none", context_length)


def save_parts(
    head: TokenHead,
    tokenizer: Tokenizer,
    about: Mapping[str, Any],
    folder: Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a head with its backbone and tokenizer into a folder, whole or not at all."""
    with partial_folder(folder) as partial:
        tokenizer.save(partial)
        head.tower.config.save_pretrained(partial)
        own = {"backbone": "own", "context_length": tokenizer.context_length}
        write_json(partial / CONFIG, {**about, **own})
        write_weights(stored(head.state_dict(), dtype), partial / WEIGHTS)


def read_parts(folder: Path) -> tuple[TextTower, dict[str, Tensor], Tokenizer, dict[str, Any]]:
    """Read what :func:`save_parts` wrote: an empty tower, all weights, tokenizer and head.json.

    Raises:
        CheckpointError: If something is missing or damaged.
    """
    about = read_json(folder / CONFIG)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        length = int(about["context_length"])
        tower = bare_tower(cast(PreTrainedConfig, config), length)
        tokenizer = Tokenizer.from_folder(folder, length)
    except BROKEN as error:
        raise incomplete(folder, error) from error
    return tower, read_state(folder / WEIGHTS).weights, tokenizer, about


def fill(head: TokenHead, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Copy weights that :func:`read_parts` gave into a head.

    Raises:
        CheckpointError: If they do not fit.
    """
    load_weights(head, weights, folder / WEIGHTS)
    head.eval()


def find_head(folder: str | Path, task: str, name: str | None = None) -> Path:
    """Find a head of a task: its own folder, or one beside the towers in a checkpoint's folder.

    Args:
        folder: A checkpoint's folder, or a head's.
        task: As head.json names it.
        name: Of the head, where the checkpoint has several of the task.

    Raises:
        CheckpointError: If there is none, or several and no name.
    """
    place = resolve(folder)
    own = place / CONFIG
    heads = [(place, read_json(own))] if own.is_file() else heads_in(place)
    found = [
        each for each, about in heads if about.get("task") == task and name in (None, each.name)
    ]
    if len(found) != 1:
        names = ", ".join(each.name for each in found) or "none"
        raise CheckpointError(
            f"expected one head of task {task} in {place}, got {names}. "
            + ("Name one of them." if found else "Train one first, or name another folder.")
        )
    return found[0]


def export_parts(
    model: PreTrainedModel, head: TokenHead, out: str, tokenizer: Tokenizer, folder: Path
) -> None:
    """Write a folder that transformers loads without this package.

    Args:
        model: Transformers' own class for the task, of random weights.
        head: Whose weights go in.
        out: What that class calls the linear layer.
        tokenizer: Written with the contract's normalisation inside.
        folder: Created with its parents; must not exist yet.

    Raises:
        CheckpointError: If the class has other tensors, or the contract is open_clip's.
        FileExistsError: If the folder exists.
    """
    check_new(folder)
    try:
        plain = portable(tokenizer)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    prefix = model.base_model_prefix
    backbone = head.tower.transformer.state_dict()
    weights = {f"{prefix}.{name}": tensor for name, tensor in backbone.items()}
    weights |= {f"{out}.{name}": tensor for name, tensor in head.out.state_dict().items()}
    load_weights(model, weights, folder)
    with partial_folder(folder) as partial:
        model.save_pretrained(partial)
        plain.save_pretrained(str(partial))
        # the name that transformers 4 and 5 both know
        config = read_json(partial / "tokenizer_config.json")
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_json(partial / "tokenizer_config.json", config)


def export_config(head: TokenHead, **fields: Any) -> PreTrainedConfig:  # noqa: ANN401
    """Copy the backbone's configuration, with fields set for the task."""
    config = copy.deepcopy(head.tower.config)
    config.dtype = torch.float32
    for name, value in fields.items():
        setattr(config, name, value)
    return config
