"""Models of open_clip: by name and weights, a repository of the hub, or a folder."""

import difflib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn

from clip_text.errors import CheckpointError
from clip_text.libraries.names import folder_of
from clip_text.libraries.sides import ImageSide, LibraryModel, Prepared, TextSide
from clip_text.libraries.tokens import vocabulary_of
from clip_text.libraries.trouble import told

__all__ = ["load"]


def load(name: str, device: torch.device, *, trust_remote_code: bool = False) -> LibraryModel:  # noqa: ARG001
    """Load a model with open_clip's own tokenizer and transform.

    Args:
        name: ``ARCHITECTURE/WEIGHTS`` (a tag or a file), ``hf-hub:owner/model``, or a folder with
            an ``open_clip_config.json``.
        device: Where to compute.
        trust_remote_code: Of no use: open_clip runs no code of a model.

    Raises:
        CheckpointError: If there is no such architecture, tag, file or repository, or its weights
            do not fit.
    """
    model_name, pretrained = _where(name)
    with told(f"open_clip:{name}"):
        model, transform = open_clip.create_model_from_pretrained(
            model_name, pretrained=pretrained, device=device
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    model.eval()
    lock = threading.Lock()  # its tokenizers cut and pad by their own state

    def encode_text(texts: list[str]) -> Tensor:
        with lock:
            tokens = tokenizer(texts)
        return _features(model.encode_text(tokens.to(device)))

    def prepare(image: Image.Image) -> Prepared:
        prepared: Prepared = transform(image).numpy()
        return prepared

    def encode_image(pictures: Sequence[Prepared]) -> Tensor:
        batch = torch.from_numpy(np.stack(pictures))
        return _features(model.encode_image(batch.to(device)))

    length = int(tokenizer.context_length)
    preprocess = dict(open_clip.get_model_preprocess_cfg(model))
    size = _vocabulary_size(model, tokenizer)
    identity = vocabulary_of(tokenizer, encode=lambda texts: tokenizer(texts).tolist())
    config = repr(open_clip.get_model_config(model_name))
    looks = sorted(preprocess.items(), key=str)
    text = TextSide(model, ("open_clip", length, identity, config), encode_text, length, size)
    image = ImageSide(model, ("open_clip", looks, config), prepare, encode_image)
    return LibraryModel(
        name=f"open_clip:{name}",
        about=f"open_clip's {type(model).__name__}, {model_name}",
        text=text,
        image=image,
        logit_scale=float(model.logit_scale.detach().exp()),
        facts={"pictures": ", ".join(f"{key} {value}" for key, value in preprocess.items())},
    )


def _features(rows: Any) -> Tensor:  # noqa: ANN401
    """Take the shared space's rows; a CoCa's text tower gives its token states beside them."""
    features: Tensor = rows[0] if isinstance(rows, tuple) else rows
    return features


def _where(name: str) -> tuple[str, str | None]:
    """Split a name as open_clip wants it, or say what there is."""
    if name.startswith("hf-hub:"):
        return name, None
    if folder := folder_of(name):
        if not (folder / "open_clip_config.json").is_file():
            raise CheckpointError(
                f"expected an open_clip_config.json in {folder}, got none. Name the folder that "
                "open_clip's push_to_hub or save wrote, or ARCHITECTURE/WEIGHTS."
            )
        return f"local-dir:{folder}", None
    models = set(open_clip.list_models())
    parts = name.split("/")
    for end in range(1, len(parts) + 1):
        architecture, weights = "-".join(parts[:end]), "/".join(parts[end:])
        if architecture in models and (end == len(parts) or _is_weights(architecture, weights)):
            return architecture, _weights(architecture, weights)
    # none fits whole: say what is wrong with the longest architecture that there is
    for end in range(len(parts), 0, -1):
        if (architecture := "-".join(parts[:end])) in models:
            return architecture, _weights(architecture, "/".join(parts[end:]))
    near = difflib.get_close_matches(parts[0], sorted(models), n=4, cutoff=0.4)
    raise CheckpointError(
        f"expected one of open_clip's {len(models)} architectures, got {name!r}"
        + (f", near {', '.join(near)}" if near else "")
        + ". List them: python -c 'import open_clip; print(open_clip.list_models())'."
    )


def _is_weights(architecture: str, weights: str) -> bool:
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    return weights in tags or Path(weights).expanduser().is_file()


def _weights(architecture: str, weights: str) -> str:
    """Check the name of weights: a tag that open_clip knows, or a file.

    Raises:
        CheckpointError: If it is neither.
    """
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights in tags:
        return weights
    file = Path(weights).expanduser()
    if weights and file.is_file():
        return str(file)
    known = f"one of its tags ({', '.join(tags)}) or a file" if tags else "a file (it has no tags)"
    raise CheckpointError(
        f"expected the weights of open_clip's {architecture}: {known}, got "
        f"{weights or 'none'!r}. Write open_clip:{architecture}/{tags[0] if tags else 'FILE'}."
    )


def _vocabulary_size(model: nn.Module, tokenizer: Any) -> int | None:  # noqa: ANN401
    for holder, attribute in ((model, "vocab_size"), (tokenizer, "vocab_size")):
        if isinstance(size := getattr(holder, attribute, None), int):
            return size
    return None
