"""Models of open_clip: by name and weights, a repository of the hub, or a folder."""

import difflib
import json
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
from clip_text.libraries.trouble import quietly, told

__all__ = ["load"]

_SOURCES = ("hf_model_name", "hf_tokenizer_name", "hf_model_pretrained", "timm_model_pretrained")


def load(name: str, device: torch.device, *, trust_remote_code: bool = False) -> LibraryModel:
    """Load a model with open_clip's own tokenizer and transform.

    Args:
        name: ``ARCHITECTURE/WEIGHTS`` (a tag or a file), ``hf-hub:owner/model``, or a folder with
            an ``open_clip_config.json``.
        device: Where to compute.
        trust_remote_code: Whether code of its tokenizer, where that is one of the hub, may run.

    Raises:
        CheckpointError: If there is no such architecture, tag, file or repository, or its weights
            do not fit.
    """
    model_name, pretrained = _where(name)
    quick_gelu = _is_quick_gelu(model_name, pretrained)
    with told(f"open_clip:{name}"), quietly():
        model, transform = open_clip.create_model_from_pretrained(
            model_name,
            pretrained=pretrained,
            device=device,
            force_quick_gelu=quick_gelu,
            **_looks_of_tags(model_name, pretrained),
        )
        config: dict[str, Any] = open_clip.get_model_config(model_name) or {"text_cfg": {}}
        # said, lest the model's own settings say that its tokenizer's code may run
        code = {"trust_remote_code": trust_remote_code}
        has_own = "hf_tokenizer_name" in config["text_cfg"] or not config["text_cfg"]
        tokenizer = open_clip.get_tokenizer(model_name, **(code if has_own else {}))
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
    shape = _shape(config, quick_gelu)
    looks = json.dumps(preprocess, sort_keys=True, default=str)
    text = TextSide(model, ("open_clip", length, identity, shape), encode_text, length, size)
    image = ImageSide(model, ("open_clip", looks, shape), prepare, encode_image)
    return LibraryModel(
        name=f"open_clip:{name}",
        about=f"open_clip's {type(model).__name__}, {model_name}",
        text=text,
        image=image,
        logit_scale=float(model.logit_scale.detach().exp()),
        looks=", ".join(f"{key} {value}" for key, value in preprocess.items()),
    )


def _features(rows: Any) -> Tensor:  # noqa: ANN401
    """Take the shared space's rows; a CoCa's text tower gives its token states beside them."""
    features: Tensor = rows[0] if isinstance(rows, tuple) else rows
    return features


def _is_quick_gelu(model_name: str, pretrained: str | None) -> bool:
    """Tell whether weights were trained with QuickGELU: open_clip only warns where a name says not.

    ``ViT-B-32/openai`` so is what ``ViT-B-32-quickgelu/openai`` is, as everybody means it.
    """
    known = open_clip.get_pretrained_cfg(model_name, pretrained) if pretrained else None
    return bool(known and known.get("quick_gelu"))


def _looks_of_tags(model_name: str, pretrained: str | None) -> dict[str, Any]:
    """Give a file of weights the preprocessing of all known weights of its architecture.

    Where these do not agree, it is open_clip's default, as by open_clip itself.
    """
    if pretrained is None or open_clip.get_pretrained_cfg(model_name, pretrained):
        return {}
    names = ("mean", "std", "interpolation", "resize_mode")
    known = [
        open_clip.get_pretrained_cfg(model_name, tag)
        for tag in open_clip.list_pretrained_tags_by_model(model_name)
    ]
    looks = [{name: each.get(name) for name in names} for each in known]
    if not looks or any(each != looks[0] for each in looks):
        return {}
    return {f"image_{name}": value for name, value in looks[0].items() if value is not None}


def _shape(config: dict[str, Any], quick_gelu: bool) -> str:
    """Say what a model computes, its weights aside: not where it has them from."""
    kept = {key: each for key, each in config.items() if not isinstance(each, dict)}
    for side in ("text_cfg", "vision_cfg"):
        settings = config.get(side, {}).items()
        kept[side] = {key: each for key, each in settings if not key.startswith(_SOURCES)}
    quick = bool(config.get("quick_gelu")) or quick_gelu
    return json.dumps(kept | {"quick_gelu": quick}, sort_keys=True, default=str)


def _where(name: str) -> tuple[str, str | None]:
    """Split a name as open_clip wants it, or say what there is."""
    if name.startswith("hf-hub:"):
        return name, None
    known = _registered(name)
    if known is not None:
        return known
    if folder := folder_of(name):
        if not (folder / "open_clip_config.json").is_file():
            raise CheckpointError(
                f"expected an open_clip_config.json in {folder}, got none. Name the folder that "
                "open_clip's push_to_hub or save wrote, or ARCHITECTURE/WEIGHTS."
            )
        return f"local-dir:{folder}", None
    models = set(open_clip.list_models())
    parts = name.split("/")
    # say what is wrong with the longest architecture that there is
    for end in range(len(parts), 0, -1):
        if (architecture := "-".join(parts[:end])) in models:
            return architecture, _weights(architecture, "/".join(parts[end:]))
    near = difflib.get_close_matches(parts[0], sorted(models), n=4, cutoff=0.4)
    raise CheckpointError(
        f"expected one of open_clip's {len(models)} architectures, got {name!r}"
        + (f", near {', '.join(near)}" if near else "")
        + ". List them: python -c 'import open_clip; print(open_clip.list_models())'."
    )


def _registered(name: str) -> tuple[str, str] | None:
    """Split the name of an architecture and of weights that are there; None where it is not one."""
    models, parts = set(open_clip.list_models()), name.split("/")
    for end in range(1, len(parts)):
        architecture, weights = "-".join(parts[:end]), "/".join(parts[end:])
        if architecture in models and _is_weights(architecture, weights):
            return architecture, _weights(architecture, weights)
    return None


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
