"""Dual encoders that transformers itself implements: CLIP, SigLIP, AltCLIP, Chinese-CLIP and more.

Whatever has ``get_text_features`` and ``get_image_features``, with its own processor.
"""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)

from clip_text.errors import CheckpointError
from clip_text.libraries.sides import ImageSide, LibraryModel, Prepared, TextSide, pack, unpack
from clip_text.libraries.tokens import vocabulary_of
from clip_text.libraries.trouble import quietly, told

__all__ = ["check_whole", "described", "load", "looks_of", "without_unused"]

# Trained on texts that were padded to the end: docs of SiglipModel.
_PADDED_TO_THE_END = ("siglip", "siglip2")

# Of image processors, what decides how a picture looks to the model.
_LOOKS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale"),
    *("rescale_factor", "do_normalize", "image_mean", "image_std", "do_pad", "pad_size"),
    *("do_convert_rgb", "patch_size", "max_num_patches", "include_top"),
)

_NOT_COMPUTED = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"}


def load(name: str, device: torch.device, *, trust_remote_code: bool = False) -> LibraryModel:
    """Load a model with its own tokenizer and image processor.

    Args:
        name: A repository of the hub, or a folder.
        device: Where to compute.
        trust_remote_code: Whether code that lies beside the weights may run.

    Raises:
        CheckpointError: If there is none, weights are missing, it needs code of its own that is
            not trusted, or it is no dual encoder.
    """
    full = f"transformers:{name}"
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    with told(full), quietly():
        model, said = AutoModel.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **options
        )
    check_whole(full, said["missing_keys"], said["mismatched_keys"])
    reads_texts = hasattr(model, "get_text_features")
    reads_pictures = hasattr(model, "get_image_features")
    if not reads_texts and not reads_pictures:
        raise CheckpointError(
            f"expected a model of texts and pictures (get_text_features and get_image_features), "
            f"got {full}, a {type(model).__name__}. Name a dual encoder; a text encoder alone is "
            "read by clip_text.checkpoints.load_text_tower."
        )
    model.eval().to(device)
    with told(full):
        words, looks = _processors(name, reads_texts, reads_pictures, options)
    scale = getattr(model, "logit_scale", None)
    return LibraryModel(
        name=full,
        about=f"transformers' {type(model).__name__}",
        text=_text_side(model, words, device) if reads_texts else None,
        image=_image_side(model, looks, device) if reads_pictures else None,
        logit_scale=float(scale.detach().exp()) if isinstance(scale, Tensor) else None,
        looks=_words(looks) if reads_pictures else "",
    )


def check_whole(name: str, missing: Iterable[str], mismatched: Iterable[object] = ()) -> None:
    """Refuse a model of which some weights are random: transformers only warns of it.

    Args:
        name: Of the model.
        missing: Names of weights that its files do not have.
        mismatched: What they have in another shape.

    Raises:
        CheckpointError: If there is any.
    """
    less, odd = sorted(missing), sorted(map(str, mismatched))
    if less or odd:
        shown = ", ".join((less + odd)[:4])
        raise CheckpointError(
            f"expected all weights of {name}, got {len(less)} missing and {len(odd)} of another "
            f"shape ({shown}, …). Check that its files are whole, and of this kind of model."
        )


def _processors(
    name: str, texts: bool, pictures: bool, options: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Load what makes inputs of texts and of pictures: one that does both, or one for each."""
    both_of: Any = AutoProcessor
    looks_of: Any = AutoImageProcessor
    try:
        both = both_of.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):  # its own code joins them, perhaps in another way
            raise
        both = None  # a folder that holds the two, and nothing that joins them
    words = looks = None
    if texts:
        words = (
            both if hasattr(both, "tokenizer") else AutoTokenizer.from_pretrained(name, **options)
        )
    if pictures:
        joined = hasattr(both, "image_processor")
        looks = both if joined else looks_of.from_pretrained(name, **options)
    return words, looks


def _text_side(model: Any, words: Any, device: torch.device) -> TextSide:  # noqa: ANN401
    tokenizer = getattr(words, "tokenizer", words)
    length = _context_length(model.config, tokenizer)
    defaults = getattr(type(words), "text_kwargs", None) or {}
    length = min(length, int(defaults.get("max_length") or length))
    # without a mask, rows depend on how many others were longer
    has_mask = "attention_mask" in tokenizer.model_input_names
    to_the_end = model.config.model_type in _PADDED_TO_THE_END or not has_mask
    padding = "max_length" if to_the_end else defaults.get("padding", True)
    lock = threading.Lock()  # fast tokenizers cut and pad by their own state

    def tokenise(texts: list[str]) -> Any:  # noqa: ANN401
        with lock:
            return words(
                text=texts, padding=padding, truncation=True, max_length=length, return_tensors="pt"
            )

    def encode(texts: list[str]) -> Tensor:
        return _rows(model.get_text_features(**tokenise(texts).to(device)))

    identity = vocabulary_of(tokenizer, lambda texts: tokenise(texts)["input_ids"].tolist())
    about = ("transformers", length, identity, described(model))
    return TextSide(model, about, encode, length, len(tokenizer))


def _image_side(model: Any, looks: Any, device: torch.device) -> ImageSide:  # noqa: ANN401
    def prepare(image: Image.Image) -> Prepared:
        packed = pack(looks(images=image, return_tensors="pt"))
        return np.asarray(image) if packed is None else packed

    def encode(pictures: Sequence[Prepared]) -> Tensor:
        if pictures[0].dtype.names:
            inputs = unpack(pictures, device)
        else:  # a batch of them is no stack
            images = [Image.fromarray(picture) for picture in pictures]
            inputs = dict(looks(images=images, return_tensors="pt").to(device))
        return _rows(model.get_image_features(**inputs))

    about = ("transformers", type(_look(looks)).__name__, looks_of(looks), described(model))
    return ImageSide(model, about, prepare, encode)


def described(model: Any) -> str:  # noqa: ANN401
    """Say what a model of transformers computes, its weights aside.

    That is where its config, and each within it, differs from the defaults of its kind, so that a
    newer release, with settings that there were none of before, says the same.
    """
    return f"{type(model).__name__} {json.dumps(_settings(model.config), default=str)}"


def _settings(config: PreTrainedConfig) -> list[tuple[str, Any]]:
    try:
        defaults = type(config)().to_dict()
    except (TypeError, ValueError):  # one of two configs, which it does not make up
        defaults = {}
    kept: list[tuple[str, Any]] = []
    for key, value in sorted(config.to_dict().items()):
        inner = getattr(config, key, None)
        if isinstance(inner, PreTrainedConfig):
            kept.append((key, _settings(inner)))
        elif key not in _NOT_COMPUTED and (key not in defaults or value != defaults[key]):
            kept.append((key, value))
    return kept


def without_unused(model: Any, missing: Sequence[str]) -> list[str]:  # noqa: ANN401
    """Take a pooler without weights out of an encoder of texts; give what else is missing.

    Its random weights compute nothing that anybody reads, and would be others in each process.
    """
    poolers = [key for key in missing if key.startswith("pooler.")]
    if poolers and hasattr(model, "pooler"):
        model.pooler = None
        return [key for key in missing if key not in poolers]
    return list(missing)


def _context_length(config: Any, tokenizer: Any) -> int:  # noqa: ANN401
    """Say how many tokens the text tower has positions for, or the tokenizer allows if fewer."""
    text = getattr(config, "text_config", None) or config
    positions = int(getattr(text, "max_position_embeddings", 512))
    kind = str(getattr(text, "model_type", ""))
    if "roberta" in kind or "altclip" in kind:  # these count from the padding's number on
        positions -= int(getattr(text, "pad_token_id", None) or 1) + 1
    return min(positions, int(tokenizer.model_max_length))


def _look(looks: Any) -> Any:  # noqa: ANN401
    return getattr(looks, "image_processor", looks)


def looks_of(looks: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
    """List how an image processor, or a processor that has one, changes pictures.

    Settings that change nothing are left out, and so are those of releases to come.
    """
    known = _look(looks).to_dict()
    return [(name, _plain(known[name])) for name in _LOOKS if known.get(name) is not None]


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Write sizes as they are stored: without the sides that are not said."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(key): each for key, each in sorted(value.items()) if each is not None}
    return list(value) if isinstance(value, tuple) else value


def _words(looks: Any) -> str:  # noqa: ANN401
    told = ", ".join(f"{name} {value}" for name, value in looks_of(looks) if value is not True)
    return f"{type(_look(looks)).__name__}: {told}"


def _rows(output: Any) -> Tensor:  # noqa: ANN401
    rows: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return rows
