"""Tells the format of a checkpoint by what is in it, and reads it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from clip_text.checkpoints import cn_clip, folder, huggingface
from clip_text.checkpoints.files import State, read_json, read_sharded, read_state
from clip_text.checkpoints.heads import load_heads
from clip_text.checkpoints.parts import (
    BROKEN,
    CONFIG_FILE,
    Checkpoint,
    Source,
    check_positions,
    check_tokenizer,
    incomplete,
)
from clip_text.checkpoints.places import INDEX, resolve
from clip_text.checkpoints.weights import load_weights
from clip_text.errors import CheckpointError
from clip_text.names import Compat, Format
from clip_text.tokenizer import Tokenizer
from clip_text.towers import build_model

_EXPORTED = "clip_text_model.json"  # clip_text.runtimes, a room above this one, reads these

# What transformers.Trainer leaves beside a model.
_TRAINER_FILES = {"optimizer.pt", "scheduler.pt", "scaler.pt"}

_NAMES: dict[Format, tuple[str, ...]] = {
    "cn_clip": ("bert.", "visual."),
    "hf": ("text_model.", "vision_model."),
    "open_clip": ("text.transformer.", "visual."),
}
"""Beginnings of names, all of which a state dict of the format has."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a checkpoint holds.

    Args:
        format: cn_clip, hf or open_clip.
        path: The file with the weights.
        image: Kind and sizes of the image tower.
        text: Kind and sizes of the text tower.
        image_layers: Of a ViT; of a ResNet, the blocks of each stage.
        text_layers: Of the backbone.
        embed_dim: Width of the shared space.
        matryoshka: Numbers of first dimensions that rows were trained to be cut to.
        context_length: Longest text in tokens.
        logit_scale: The learned log; its exp multiplies cosines.
        dtypes: How many tensors are stored in which type.
        tensors: Number of tensors that are used.
        parameters: Numbers in them.
        dropped: Names of tensors that compute nothing and are left out.
        beside: What else the file holds and is left out: epoch, optimizer, …
    """

    format: Format
    path: Path
    image: str
    text: str
    image_layers: int | tuple[int, ...]
    text_layers: int
    embed_dim: int
    matryoshka: tuple[int, ...]
    context_length: int
    logit_scale: float
    dtypes: dict[str, int]
    tensors: int
    parameters: int
    dropped: tuple[str, ...]
    beside: tuple[str, ...]

    def lines(self) -> list[str]:
        """Say it, a line each."""
        dtypes = ", ".join(f"{count} {name}" for name, count in self.dtypes.items())
        widths = " and ".join(map(str, self.matryoshka))
        trained = f" (trained to be cut to {widths} as well)" if widths else ""
        out = [
            f"format          {self.format}",
            f"image tower     {self.image}",
            f"text tower      {self.text}",
            f"embed_dim       {self.embed_dim}{trained}",
            f"context_length  {self.context_length}",
            f"logit_scale     {self.logit_scale:.4f} (cosines x {math.exp(self.logit_scale):.2f})",
            f"tensors         {self.tensors} ({dtypes}), {self.parameters:,} numbers",
        ]
        if self.dropped:
            names = ", ".join(self.dropped[:4]) + (", …" if len(self.dropped) > 4 else "")
            out.append(f"left out        {len(self.dropped)} that compute nothing: {names}")
        if self.beside:
            out.append(f"left out        {', '.join(self.beside)}")
        return out


def load_checkpoint(
    name: str | Path, context_length: int | None = None, compat: Compat | None = None
) -> Checkpoint:
    """Read a checkpoint of any format onto the CPU in fp32, in evaluation mode.

    Args:
        name: ``"starter"``, a local folder or file, or a Hugging Face hub name.
        context_length: Overrides the checkpoint's own, in tokens.
        compat: Overrides its tokeniser contract: ``clip_text``, ``cn_clip``, ``hf`` or
            ``open_clip``; see :mod:`clip_text.tokenizer`.

    Raises:
        CheckpointError: If a file is missing or damaged, the weights do not fit the config, or
            the model cannot have that context or contract.
    """
    checkpoint = build(read_source(name, context_length, compat))
    place = resolve(name)
    if not (place / "heads").is_dir():
        return checkpoint
    return replace(
        checkpoint,
        heads=load_heads(place, checkpoint.model.text),
    )


def recognise(name: str | Path) -> Description:
    """Say what a checkpoint is, without building the model.

    Args:
        name: As for :func:`load_checkpoint`.

    Raises:
        CheckpointError: If it is no checkpoint of a known format, or damaged.
    """
    return describe(read_source(name))


def read_source(
    name: str | Path, context_length: int | None = None, compat: Compat | None = None
) -> Source:
    """Find, recognise and read a checkpoint; see :func:`load_checkpoint`."""
    place = resolve(name)
    if place.is_dir():
        source = _read_folder(place)
    elif place.name.endswith(INDEX):
        source = _read(place.parent, *read_sharded(place.parent, [place.name.removesuffix(INDEX)]))
    else:
        source = _read(place.parent, place, read_state(place))
    if context_length is not None or compat is not None:
        source = _as_asked(source, context_length, compat)
    check_positions(source.config.backbone, source.config.context_length, source.path)
    check_tokenizer(source.tokenizer, source.config.backbone, source.path)
    return source


def build(source: Source) -> Checkpoint:
    """Build the model of what was read.

    Raises:
        CheckpointError: If the weights do not fit the config.
    """
    config = source.config
    try:
        model = build_model(config)
    except BROKEN as error:
        raise incomplete(source.path.parent, error) from error
    load_weights(model, source.weights, source.path, source.problems, source.their_name)
    return Checkpoint(model.eval(), config, source.tokenizer, source.preprocessing)


def describe(source: Source) -> Description:
    """Say what was read."""
    config, weights = source.config, source.weights
    dtypes: dict[str, int] = {}
    for tensor in weights.values():
        name = str(tensor.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + 1
    layers = config.vision.get("layers", 0)
    scale = weights.get("logit_scale")
    return Description(
        format=source.format,
        path=source.path,
        image=image_tower(config.vision, config.quick_gelu),
        text=text_tower(config.backbone),
        image_layers=tuple(layers) if isinstance(layers, list | tuple) else layers,
        text_layers=int(getattr(config.backbone, "num_hidden_layers", 0)),
        embed_dim=config.embed_dim,
        matryoshka=config.matryoshka,
        context_length=config.context_length,
        logit_scale=math.nan if scale is None or scale.numel() != 1 else float(scale),
        dtypes=dtypes,
        tensors=len(weights),
        parameters=sum(tensor.numel() for tensor in weights.values()),
        dropped=source.dropped,
        beside=source.beside,
    )


def _as_asked(source: Source, context_length: int | None, compat: Compat | None) -> Source:
    """Give a checkpoint another context length or contract than its own."""
    own = source.tokenizer
    length = source.config.context_length if context_length is None else context_length
    try:
        tokenizer = Tokenizer(own.backend, length, own.compat if compat is None else compat)
    except ValueError as error:  # no room for a token, or no contract for this vocabulary
        raise CheckpointError(str(error)) from error
    return replace(
        source, config=replace(source.config, context_length=length), tokenizer=tokenizer
    )


def _read_folder(place: Path) -> Source:
    if (place / _EXPORTED).is_file():
        raise CheckpointError(
            f"expected a model with its weights, got {place}, which was exported and only encodes. "
            "Name the model it was exported from."
        )
    found: dict[str, Path] = {}
    if (place / CONFIG_FILE).is_file():
        found["open_clip"] = place / CONFIG_FILE
    config = place / "config.json"
    kind = None
    if config.is_file():
        # where it belongs to an open_clip checkpoint, that one's reader says what is wrong with it
        raw = _lenient(config) if found else read_json(config)
        kind = raw.get("model_type")
        if kind == huggingface.MODEL_TYPE:
            found["hf"] = config
    files = sorted(each for each in place.glob("*.pt") if each.name not in _TRAINER_FILES)
    names = ", ".join(path.name for path in (*found.values(), *files))
    # open_clip's config with one file of its training is one checkpoint
    whole = any((place / name).is_file() for name in folder.WEIGHTS_FILES)
    trained = list(found) == ["open_clip"] and len(files) == 1 and not whole
    if len(found) + len(files) > 1 and not trained:
        raise CheckpointError(
            f"expected one checkpoint in {place}, got several ({names}). "
            "Name the file of weights that you mean."
        )
    if files:
        return _read(place, files[0], read_state(files[0]))
    if found:
        names_of = folder.WEIGHTS_FILES if "open_clip" in found else huggingface.WEIGHTS_FILES
        path, state = read_sharded(place, names_of)
        return _read(place, path, state)
    raise CheckpointError(
        f"expected {CONFIG_FILE} (open_clip), a config.json of model_type chinese_clip "
        f"(Hugging Face) or one .pt file (cn_clip) in {place}, got no such file"
        + (f" but a config.json of {kind!r}" if kind else "")
        + (
            ". Name a folder that holds a pair of towers; a text encoder alone is read by "
            "clip_text.checkpoints.load_text_tower."
        )
    )


def _read(place: Path, path: Path, state: State) -> Source:
    format_ = _format_of(path, state.weights)
    if format_ == "cn_clip":
        source = cn_clip.read(path, state)
    elif format_ == "hf":
        source = huggingface.read(place, path, state)
    else:
        source = folder.read(place, path, state)
    return replace(source, beside=state.beside)


def _format_of(path: Path, weights: Mapping[str, Tensor]) -> Format:
    """Tell the format by names; one with damaged names is told by the config beside it."""
    # told first: open_clip's own text towers have names that begin like ours
    of_openai = "token_embedding.weight" in weights or "text.token_embedding.weight" in weights
    if not of_openai:
        for format_, starts in _NAMES.items():
            if all(any(name.startswith(start) for name in weights) for start in starts):
                return format_
        if (path.parent / CONFIG_FILE).is_file() and path.name in folder.WEIGHTS_FILES:
            return "open_clip"
    hint = "Name the weights of a Chinese-CLIP: cn_clip, transformers or open_clip wrote them."
    if of_openai:
        hint = "Its text tower is OpenAI's kind; only Hugging Face encoders are read."
    elif any(name.startswith(("bert.", "roberta.", "embeddings.")) for name in weights):
        hint = "It looks like a text encoder alone: clip_text.checkpoints.load_text_tower reads it."
    raise CheckpointError(
        f"expected an image and a text tower in {path}, "
        f"got {len(weights)} tensors ({', '.join(list(weights)[:3]) or 'none'}). {hint}"
    )


def _lenient(config: Path) -> dict[str, Any]:
    """Read a config whose own reader will say what is wrong with it."""
    try:
        return read_json(config)
    except CheckpointError:
        return {}


def image_tower(vision: Mapping[str, Any], quick_gelu: bool) -> str:
    """Say the kind and sizes of an image tower, by open_clip's config."""
    layers, size = vision.get("layers"), vision.get("image_size", 224)
    if not layers:
        return f"{vision.get('timm_model_name', 'unknown')} (timm), {size} px"
    width = vision.get("width", 0)
    if isinstance(layers, Sequence):
        blocks = ", ".join(str(each) for each in layers)
        return f"ResNet, {blocks} blocks, width {width}, {size} px"
    heads = width // vision.get("head_width", 64)
    return (
        f"ViT, {layers} layers, width {width}, {heads} heads, patch {vision.get('patch_size')}, "
        f"{size} px, {'QuickGELU' if quick_gelu else 'GELU'}"
    )


def text_tower(backbone: Any) -> str:  # noqa: ANN401
    """Say the kind and sizes of a text tower, by its backbone's config."""
    return (
        f"{backbone.model_type}, {getattr(backbone, 'num_hidden_layers', '?')} layers, "
        f"width {getattr(backbone, 'hidden_size', '?')}, "
        f"{getattr(backbone, 'num_attention_heads', '?')} heads, "
        f"vocabulary {backbone.vocab_size:,}"
    )
