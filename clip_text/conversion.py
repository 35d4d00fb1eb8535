"""Turn a checkpoint into another format, and prove that it is still the same model."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip_text.checkpoints import Checkpoint, Format, load_checkpoint, save_as
from clip_text.checkpoints.recognition import build, describe, read_source
from clip_text.checkpoints.weights import stored
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError
from clip_text.runtimes import Features
from clip_text.tokenizer import CONTEXT_LENGTH, Tokenizer

TEXTS = (
    *(
        "一只狗",
        "红色的心",
        "海边的日落，天空是橙色的。",
        "两个小孩在公园里踢足球",
        "下雨天的城市街道",
    ),
    *("a dog", "a red heart", "sunset over the sea, the sky is orange.", "PYTHON 3.11", ""),
    *(
        "一只 Golden Retriever 在草地上 running",
        "“引号”、全角ＡＢＣ１２３和￥99",
        "🐶 狗 dog 犬 いぬ",
    ),
    "很长的一句话，" * 12,
)
"""Chinese, English and mixed; an empty one, and one longer than any context."""

BOUNDS = {torch.float32: 1e-5, torch.float16: 5e-3}
"""Largest difference of a number of a unit row. Rounding a weight to fp16 changes it by up to one
part in 2,048; that the stored weights are exactly the rounded ones is checked as well."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}

# What --force may replace: a folder of weights and what lies beside them, and of nothing else.
_WEIGHTS = {".safetensors", ".bin", ".pt"}
_BESIDE = {".json", ".txt", ".model", ".md"}


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the written model is from the one that was read.

    Args:
        text_difference: Largest over all numbers of all text rows.
        text_cosine: Smallest cosine of a text's features with the other model's, in [-1, 1].
        image_difference: Largest over all numbers of all image rows.
        image_cosine: Smallest cosine of an image's features with the other model's, in [-1, 1].
        unequal: Tensors that did not come back exactly as they should have been stored.
        bound: Largest difference that is allowed.
    """

    text_difference: float
    text_cosine: float
    image_difference: float
    image_cosine: float
    unequal: tuple[str, ...]
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the two are the same model."""
        # a NaN is no number below the bound
        return (
            self.text_difference <= self.bound
            and self.image_difference <= self.bound
            and not self.unequal
        )

    def lines(self) -> list[str]:
        """Say it, a line each."""
        tensors = "all as stored" if not self.unequal else ", ".join(self.unequal[:4])
        return [
            f"text rows       max |difference| {self.text_difference:.1e}, "
            f"lowest cosine {self.text_cosine:.7f} ({len(TEXTS)} texts)",
            f"image row       max |difference| {self.image_difference:.1e}, "
            f"lowest cosine {self.image_cosine:.7f} (1 picture)",
            f"tensors         {tensors}",
            f"bound           {self.bound:.0e}: {'kept' if self.holds else 'BROKEN'}",
        ]


def convert(
    source: str,
    destination: Path,
    to: Format,
    *,
    dtype: torch.dtype = torch.float32,
    context_length: int | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Parity:
    """Read a checkpoint of any format, write it in another, load that and compare features.

    Args:
        source: Folder, file or hub name.
        destination: A new folder, or for cn_clip a new file.
        to: cn_clip, hf or open_clip.
        dtype: Number format of the stored weights.
        context_length: Overrides the source's own, in tokens.
        force: Replace an older checkpoint at the destination.
        say: Gets a line at a time.

    Returns:
        The comparison; where it does not hold, nothing was left at the destination.

    Raises:
        CheckpointError: If the source cannot be read, or the format cannot hold it, or the
            destination exists.
    """
    _check_destination(source, destination, to, force=force)
    found = read_source(source, context_length)
    say(str(found.path))
    for line in describe(found).lines():
        say(line)
    checkpoint = build(found)
    destination.parent.mkdir(parents=True, exist_ok=True)
    written = destination.with_name(f".{destination.name}.converting")
    _remove(written)
    try:
        save_as(checkpoint, written, to, dtype=dtype)
        parity = compare(checkpoint, _reload(written, to, checkpoint, say), dtype)
        if parity.holds:
            _put(written, destination)
    finally:
        _remove(written)
    say("")
    say(f"{destination} ({to})" if parity.holds else f"{destination}: nothing written")
    for line in parity.lines():
        say(line)
    return parity


def compare(one: Checkpoint, other: Checkpoint, dtype: torch.dtype = torch.float32) -> Parity:
    """Compare two checkpoints by their features and, tensor by tensor, their weights.

    Args:
        one: Model that was written.
        other: Model that was read back.
        dtype: In which it was stored.
    """
    expected = stored(one.model.state_dict(), dtype)
    actual = other.model.state_dict()
    unequal = tuple(
        name
        for name in sorted(expected.keys() | actual.keys())
        if name not in expected
        or name not in actual
        or not torch.equal(expected[name].to(actual[name].dtype), actual[name])
    )
    first, second = Encoder(one, "cpu"), Encoder(other, "cpu")
    texts = distance(first.encode_text(TEXTS), second.encode_text(TEXTS))
    images = distance(first.encode_image([picture()]), second.encode_image([picture()]))
    return Parity(*texts, *images, unequal, BOUNDS[dtype])


def picture() -> Features:
    """Draw a picture that is wider than high: waves of three colours; float in [0, 1]."""
    y, x = np.mgrid[0:180, 0:240].astype(np.float32)
    waves = [np.sin(x / 17 + 1), np.cos(y / 11), np.sin((x + 2 * y) / 23)]
    return (np.stack(waves, axis=-1) * 0.5 + 0.5).astype(np.float32)


def as_json(parity: Parity) -> dict[str, Any]:
    """The comparison as ``--json`` prints it."""
    return {
        "text": {"max_difference": parity.text_difference, "lowest_cosine": parity.text_cosine},
        "image": {"max_difference": parity.image_difference, "lowest_cosine": parity.image_cosine},
        "unequal_tensors": list(parity.unequal),
        "bound": parity.bound,
        "holds": parity.holds,
    }


def distance(one: Features, other: Features) -> tuple[float, float]:
    """Measure the largest difference of a number, and the lowest cosine of two rows.

    Args:
        one: Rows of one model, [n, embed_dim].
        other: Rows for the same things, in the same order.
    """
    first, second = (each.astype(np.float64) for each in (one, other))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(1) / norms
    return float(np.abs(one - other).max()), float(cosines.min())


def _reload(
    written: Path, to: Format, checkpoint: Checkpoint, say: Callable[[str], None]
) -> Checkpoint:
    """Read what was written; a cn_clip file gets what it cannot hold."""
    tokenizer = checkpoint.tokenizer
    if to != "cn_clip":
        return load_checkpoint(written)
    again = load_checkpoint(written, tokenizer.context_length)
    if tokenizer.context_length != CONTEXT_LENGTH:
        say(
            f"note            a cn_clip file has no context_length: ask for "
            f"{tokenizer.context_length} wherever you load it"
        )
    if tokenizer.compat != again.tokenizer.compat:
        say(
            "note            a cn_clip file has no contract: "
            f"load it with compat={tokenizer.compat!r}"
        )
    same = Tokenizer(again.tokenizer.backend, tokenizer.context_length, tokenizer.compat)
    return replace(again, tokenizer=same)


def _check_destination(source: str, destination: Path, to: Format, *, force: bool) -> None:
    if not destination.exists():
        if to == "cn_clip" and destination.suffix not in (".pt", ".pth"):
            raise CheckpointError(
                f"expected a file name that ends in .pt for cn_clip, got {destination}. "
                "Name the file, not a folder."
            )
        return
    origin = Path(source).expanduser()
    if origin.exists() and destination.resolve() in (origin.resolve(), *origin.resolve().parents):
        raise CheckpointError(
            f"expected a destination beside the source, got {destination}, which holds it. "
            "Name another one."
        )
    if not force:
        raise CheckpointError(
            f"expected a new name, got {destination}, which exists. Name another, or add --force."
        )
    folder = destination.is_dir()
    strange = _strange(destination) if folder else []
    if folder == (to == "cn_clip") or strange:
        holds = f", which holds {', '.join(sorted(strange)[:3])}" if strange else ""
        raise CheckpointError(
            f"expected {'a file' if to == 'cn_clip' else 'a folder with a checkpoint alone'} to "
            f"replace, got {destination}{holds}. Remove it yourself, or name another one."
        )


def _strange(folder: Path) -> list[str]:
    """Name what does not belong into a checkpoint; all there is where there are no weights."""
    entries = list(folder.iterdir())
    if any(path.is_file() and path.suffix in _WEIGHTS for path in entries):
        entries = [
            path for path in entries if not path.is_file() or path.suffix not in _WEIGHTS | _BESIDE
        ]
    return [path.name for path in entries]


def _put(written: Path, destination: Path) -> None:
    """Move into place; what was there stays until the new one is complete."""
    if not destination.is_dir():
        written.replace(destination)
        return
    for card in destination.glob("*.md"):  # a model card is written by hand
        shutil.copy2(card, written / card.name)
    old = destination.with_name(f".{destination.name}.replaced")
    _remove(old)
    destination.rename(old)
    written.rename(destination)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
