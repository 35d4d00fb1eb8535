"""Models of sentence-transformers: of texts and pictures, or of texts alone."""

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from clip_text.errors import needs
from clip_text.libraries.sides import ImageSide, LibraryModel, Prepared, TextSide, pack, unpack
from clip_text.libraries.tokens import vocabulary_of
from clip_text.libraries.transformers import (
    check_whole,
    described,
    looks_of,
    without_unused,
)
from clip_text.libraries.trouble import quietly, told

with needs("clip-text[sentence-transformers]", "models of sentence-transformers"):
    from sentence_transformers import SentenceTransformer

__all__ = ["load"]


def load(name: str, device: torch.device, *, trust_remote_code: bool = False) -> LibraryModel:
    """Load a model; texts are encoded as queries, with the prompt that it has for these, if any.

    Args:
        name: A repository of the hub, or a folder.
        device: Where to compute.
        trust_remote_code: Whether code that lies beside the weights may run.

    Raises:
        CheckpointError: If there is none, it is damaged, or it needs code that is not trusted.
        MissingPackageError: If sentence-transformers is not installed.
    """
    full = f"sentence_transformers:{name}"
    with told(full), quietly():
        model: Any = SentenceTransformer(
            name, device=str(device), trust_remote_code=trust_remote_code
        )
        model.eval().float()
        _check(full, model, trust_remote_code)
        kinds = [type(each).__name__ for each in model]
        about = [
            (type(each).__name__, each.get_config_dict())
            for each in model.modules()  # those within a Router, too
            if hasattr(each, "get_config_dict")
        ]
        inner = [described(each) for each in model.modules() if isinstance(each, PreTrainedModel)]
        modules = json.dumps([about, inner, model.truncate_dim], sort_keys=True, default=str)
        text = _text_side(model, modules) if model.supports("text") else None
        image = _image_side(model, modules, device) if model.supports("image") else None
    return LibraryModel(
        name=full,
        about=f"sentence-transformers' {', '.join(kinds)}",
        text=text,
        image=image,
    )


def _check(name: str, model: Any, trust_remote_code: bool) -> None:  # noqa: ANN401
    """Refuse weights that were made up; the library says nothing of them, so they are read again.

    Raises:
        CheckpointError: If there are any.
    """
    for inner in [each for each in model.modules() if isinstance(each, PreTrainedModel)]:
        source = inner.config._name_or_path
        kind: Any = type(inner)
        try:
            _, said = kind.from_pretrained(
                source, output_loading_info=True, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError):  # it lies in a folder within, whose name is not kept
            continue
        check_whole(name, without_unused(inner, said["missing_keys"]), said["mismatched_keys"])


def _text_side(model: Any, modules: str) -> TextSide:  # noqa: ANN401
    lock = threading.Lock()  # its tokenizer cuts and pads by its own state
    length = model.get_max_seq_length()
    tokenizer = model.tokenizer

    def encode(texts: list[str]) -> Tensor:
        with lock:
            rows: Tensor = model.encode_query(
                texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
            )
        return rows

    def tokens(texts: list[str]) -> list[Any]:
        found = model.preprocess(texts)
        return [found["input_ids"].tolist()] if "input_ids" in found else []

    identity = vocabulary_of(tokenizer, tokens)
    prompts = sorted(model.prompts.items()), model.default_prompt_name
    size = len(tokenizer) if hasattr(tokenizer, "__len__") else None
    return TextSide(model, ("st", length, identity, prompts, modules), encode, length, size)


def _image_side(model: Any, modules: str, device: torch.device) -> ImageSide:  # noqa: ANN401
    looks = [each.processor for each in model.modules() if getattr(each, "processor", None)]
    is_routed = any(type(each).__name__ == "Router" for each in model)

    def prepare(image: Image.Image) -> Prepared:
        packed = None if is_routed else pack(model.preprocess([image]))
        return np.asarray(image) if packed is None else packed

    def encode(pictures: Sequence[Prepared]) -> Tensor:
        if pictures[0].dtype.names:
            inputs: dict[str, Any] = {**unpack(pictures, device), "modality": "image"}
            rows: Tensor = model(inputs)["sentence_embedding"]
        else:  # a batch of them is no stack
            images = [Image.fromarray(picture) for picture in pictures]
            rows = model.encode_document(images, convert_to_tensor=True, show_progress_bar=False)
        return rows[:, : model.truncate_dim]

    known = [(type(each).__name__, looks_of(each)) for each in looks]
    return ImageSide(model, ("st", repr(known), modules), prepare, encode)
