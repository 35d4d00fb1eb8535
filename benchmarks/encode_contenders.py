"""What benchmarks/encode.py races: ways from texts, and from JPEG files, to unit rows."""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from cn_clip.clip import tokenize as cn_clip_tokenize
from numpy.typing import NDArray
from open_clip.transform import image_transform
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from train_contenders import Shape, cn_clip_contender

from clip_text import Encoder
from clip_text.checkpoints import Checkpoint, Preprocessing
from clip_text.checkpoints.cn_clip import chinese_tokenizer
from clip_text.checkpoints.sentence_transformers import save_sentence_transformers
from clip_text.names import RUNTIMES
from clip_text.precision import bf16_pays
from clip_text.runtimes.calibration import bundled_calibration
from clip_text.runtimes.openvino import convert, the_core
from clip_text.runtimes.processor import available_cores, has_bf16
from clip_text.tokenizer import CONTEXT_LENGTH
from clip_text.towers import TowerConfig

if TYPE_CHECKING:  # may not be installed
    import openvino

Rows = NDArray[np.float32]
EncodeTexts = Callable[[Sequence[str]], Rows]
EncodeFiles = Callable[[Sequence[Path]], Rows]

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def checkpoint_of(model: nn.Module, shape: Shape) -> Checkpoint:
    """Put what the library calls a checkpoint around a model of random weights."""
    config = TowerConfig(512, shape.vision(), shape.bert(), quick_gelu=True)
    tokenizer = chinese_tokenizer(CONTEXT_LENGTH)
    return Checkpoint(model, config, tokenizer, Preprocessing(shape.image_size, MEAN, STD))


def our_encoders(checkpoint: Checkpoint) -> dict[str, Encoder]:
    """One for each runtime that this machine has; ``torch`` first, which others are held against.

    ``auto`` is one of them.
    """
    missing = {name for name in ("openvino", "onnxruntime") if not find_spec(name)}
    missing |= {f"{name}-int8" for name in missing}
    if not find_spec("nncf"):
        missing.add("openvino-int8")
    if not bf16_pays():
        missing.add("torch-bf16")
    if not has_bf16():
        missing.add("openvino-bf16")
    names = [name for name in RUNTIMES if name not in {"auto", *missing}]
    return {name: Encoder(checkpoint, "cpu", name) for name in names}


class Lazily:
    """A contender that is made at its first call: those that are left out cost nothing.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], EncodeTexts]) -> None:
        self._make = cache(make)

    def __call__(self, texts: Sequence[str]) -> Rows:
        """Encode texts."""
        with torch.inference_mode():
            return self._make()(texts)


def text_contenders(checkpoint: Checkpoint, shape: Shape) -> dict[str, EncodeTexts]:
    """Every way from texts to unit rows on the weights of one model, ours first."""
    ours = {
        f"ours, {name}": partial(_by_encoder, encoder)
        for name, encoder in our_encoders(checkpoint).items()
    }
    return ours | plain_openvino(checkpoint) | others(checkpoint, shape)


def _by_encoder(encoder: Encoder, texts: Sequence[str]) -> Rows:
    return encoder.encode_text(texts, batch_size=256)


class _Plain(nn.Module):
    """The text tower as transformers computes it: every layer whole."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out = self.tower.transformer(input_ids=input_ids, attention_mask=attention_mask)
        return F.normalize(self.tower.proj(out.last_hidden_state[:, 0]), dim=-1)


def plain_openvino(checkpoint: Checkpoint) -> dict[str, EncodeTexts]:
    """What one gets by converting the tower: batches as they come, padded to the longest."""
    if not find_spec("openvino"):
        return {}
    kinds = ["", ", bf16"] if has_bf16() else [""]
    kinds += [", int8"] if find_spec("nncf") else []
    return {f"plain OpenVINO{kind}": Lazily(partial(_plainly, checkpoint, kind)) for kind in kinds}


def _plainly(checkpoint: Checkpoint, kind: str) -> EncodeTexts:
    ids = torch.tensor([[101, 800, 900, 102], [101, 800, 102, 0]])
    example = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    model = convert(_Plain(checkpoint.model.text), example, [(-1, -1)] * 2)
    if kind == ", int8":
        model = _quantised(model, checkpoint)
    hint = "bf16" if kind == ", bf16" else "f32"
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    settings["INFERENCE_NUM_THREADS"] = available_cores()
    compiled = the_core().compile_model(model, "CPU", settings)

    def encode(texts: Sequence[str]) -> Rows:
        encoded = checkpoint.tokenizer.backend(
            list(texts), padding=True, truncation=True, max_length=52, return_tensors="np"
        )
        return compiled([encoded["input_ids"], encoded["attention_mask"]])[0]

    return encode


def _quantised(model: "openvino.Model", checkpoint: Checkpoint) -> "openvino.Model":
    """Quantise as NNCF's own examples do, on the captions that our runtime takes."""
    os.environ.setdefault("NNCF_CI", "1")  # it reports its use otherwise
    import nncf  # noqa: PLC0415  (may not be installed)

    tokens = bundled_calibration().tokens(checkpoint.tokenizer)
    samples = [{"input_ids": each, "attention_mask": np.ones_like(each)} for each in tokens]
    transformer = nncf.ModelType.TRANSFORMER
    with redirect_stdout(sys.stderr):  # its bars
        return nncf.quantize(model, nncf.Dataset(samples), model_type=transformer)


def others(checkpoint: Checkpoint, shape: Shape) -> dict[str, EncodeTexts]:
    """cn_clip, transformers, open_clip and sentence-transformers, each by its own tokenizer."""
    makers = {
        "cn_clip": partial(_cn_clip, checkpoint, shape),
        "transformers": partial(_transformers, checkpoint, bf16=False),
    }
    if bf16_pays():
        makers["transformers, bf16"] = partial(_transformers, checkpoint, bf16=True)
    makers["open_clip"] = partial(_open_clip, checkpoint, shape)
    for backend in sentence_backends():
        name = "sentence-transformers" + ("" if backend == "torch" else f", {backend}")
        makers[name] = partial(_sentence_transformers, checkpoint, backend)
    return {name: Lazily(make) for name, make in makers.items()}


def sentence_backends() -> list[str]:
    """Name those backends of sentence-transformers that can be imported.

    The other two stand on `optimum`. Beside transformers 5.24 neither imports (tried on 27 November
    2026): optimum-onnx 0.1 asks for transformers below 4.58, optimum-intel 2.2 for one below 5.6.
    What the latter computes is in the table nevertheless: plain OpenVINO.
    """
    found = ["torch"]
    for backend, package in (("onnx", "optimum.onnxruntime"), ("openvino", "optimum.intel")):
        with suppress(ImportError):
            import_module(package)
            found.append(backend)
    return found


def _cn_clip(checkpoint: Checkpoint, shape: Shape) -> EncodeTexts:
    weights = checkpoint.model.state_dict()
    theirs = cn_clip_contender(shape, weights, frozen=False).model.eval()

    def encode(texts: Sequence[str]) -> Rows:
        prepared = [text.lower().replace("“", '"').replace("”", '"') for text in texts]
        return _unit(theirs.encode_text(cn_clip_tokenize(prepared, CONTEXT_LENGTH).long()))

    return encode


def _transformers(checkpoint: Checkpoint, *, bf16: bool) -> EncodeTexts:
    plain, backend = _Plain(checkpoint.model.text).eval(), checkpoint.tokenizer.backend

    def encode(texts: Sequence[str]) -> Rows:
        encoded = backend(
            list(texts), padding=True, truncation=True, max_length=52, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            return _unit(plain(encoded["input_ids"], encoded["attention_mask"]))

    return encode


def open_clip_model(
    checkpoint: Checkpoint, shape: Shape
) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    """Make open_clip's own model of the same weights, and its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.tokenizer.save(Path(folder))
        shape.bert().save_pretrained(folder)
        text = open_clip.CLIPTextCfg(
            hf_model_name=folder,
            hf_model_pretrained=False,
            hf_pooler_type="cls_last_hidden_state_pooler",
            hf_proj_type="linear",
        )
        model = open_clip.CustomTextCLIP(512, shape.vision(), text, quick_gelu=True).eval()
        tokenizer = open_clip.tokenizer.HFTokenizer(folder, context_length=CONTEXT_LENGTH)
    model.load_state_dict(checkpoint.model.state_dict())
    return model, tokenizer


def _open_clip(checkpoint: Checkpoint, shape: Shape) -> EncodeTexts:
    model, tokenizer = open_clip_model(checkpoint, shape)
    return lambda texts: _unit(model.encode_text(tokenizer(list(texts))))


def _sentence_transformers(checkpoint: Checkpoint, backend: str) -> EncodeTexts:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (3 s to import)

    with tempfile.TemporaryDirectory() as folder:
        sentences = Path(folder) / "sentences"
        save_sentence_transformers(checkpoint, sentences)
        model = SentenceTransformer(str(sentences), device="cpu", backend=backend)
    return lambda texts: model.encode(list(texts), batch_size=256, show_progress_bar=False)


def _unit(features: Tensor) -> Rows:
    return F.normalize(features.float(), dim=-1).numpy()


class _Photos(Dataset[Tensor]):
    """Photos by open_clip's transform, for a DataLoader's processes."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Tensor:
        return self.transform(Image.open(self.files[place]))


def picture_contenders(checkpoint: Checkpoint) -> dict[str, EncodeFiles]:
    """Every way from JPEG files to unit rows: ours, and open_clip with PIL."""
    preprocessing = checkpoint.preprocessing
    transform = image_transform(
        preprocessing.size,
        is_train=False,
        mean=preprocessing.mean,
        std=preprocessing.std,
        resize_mode="squash",
        interpolation="bicubic",
    )
    model = checkpoint.model

    def batches(loader: "DataLoader[Tensor]") -> Rows:
        with torch.inference_mode():
            return np.concatenate([_unit(model.encode_image(batch)) for batch in loader])

    def loop(files: Sequence[Path]) -> Rows:
        return batches(DataLoader(_Photos(files, transform), batch_size=64))

    def workers(files: Sequence[Path]) -> Rows:
        number = available_cores()
        return batches(DataLoader(_Photos(files, transform), batch_size=64, num_workers=number))

    ours: dict[str, EncodeFiles] = {
        f"ours, {name}": encoder.encode_image for name, encoder in our_encoders(checkpoint).items()
    }
    return ours | {"open_clip, PIL": loop, "open_clip, PIL, DataLoader": workers}
