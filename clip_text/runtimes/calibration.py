"""What int8 is calibrated with: texts and pictures as real as those that will be encoded.

Ranges of activations are measured on them, so drawn pictures and random words will not do. Where
none are given they are the photographs of the gallery that is installed beside this package, and
their captions.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np

from clip_text.errors import CheckpointError
from clip_text.images import ImageSource, Preprocessing, load_image, load_square
from clip_text.runtimes import Pixels, TokenIds
from clip_text.tokenizer import Tokenizer

__all__ = ["GROUPS", "PICTURES", "TEXTS", "CalibrationSet", "bundled_calibration"]

T = TypeVar("T")

TEXTS, PICTURES = 300, 100
"""How many are taken of those there are, evenly."""

GROUPS = 256
"""Convolutions of more groups stay in float. Depthwise ones lose the most in int8 (mean cosine of
the starter's pictures 0.988 with all of them in int8, 0.996 so, 0.999 with none); those of many
channels come late, where maps are small and float costs little."""


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Texts and pictures to measure ranges with.

    Args:
        name: What they are, in words of a report.
        texts: At least one.
        pictures: At least one.
        digest: Of both, so that what was calibrated otherwise is told apart.
    """

    name: str
    texts: Sequence[str]
    pictures: Sequence[ImageSource]
    digest: str

    @classmethod
    def drawn_from(
        cls, name: str, texts: Sequence[str], pictures: Sequence[ImageSource]
    ) -> "CalibrationSet":
        """Take :data:`TEXTS` and :data:`PICTURES` at most, evenly.

        Args:
            name: What they are.
            texts: Any number.
            pictures: Any number; only those that are taken are opened.

        Raises:
            CheckpointError: If there are no texts or no pictures.
        """
        if not len(texts) or not len(pictures):
            raise CheckpointError(
                f"expected texts and pictures to calibrate int8 with, got {len(texts)} texts and "
                f"{len(pictures)} pictures in {name}. Name data that has both."
            )
        some, seen = _evenly(texts, TEXTS), _evenly(pictures, PICTURES)
        said = hashlib.blake2b(json.dumps(some).encode(), digest_size=16)
        for picture in seen:
            said.update(_content(picture))
        return cls(name, some, seen, said.hexdigest())

    @property
    def described(self) -> str:
        """What they are and how many."""
        return f"{len(self.texts)} texts and {len(self.pictures)} pictures of {self.name}"

    def tokens(self, tokenizer: Tokenizer) -> list[TokenIds]:
        """Give each text alone, int64 [1, length]: none is padded."""
        return [tokenizer.stack([ids]) for ids in tokenizer.token_ids(self.texts)]

    def pixels(self, preprocessing: Preprocessing) -> list[Pixels]:
        """Give each picture alone, uint8 [1, size, size, 3]."""
        size = preprocessing.size
        return [load_square(picture, size)[None] for picture in self.pictures]


@cache
def bundled_calibration() -> CalibrationSet:
    """Take the gallery's photographs and their captions.

    Raises:
        CheckpointError: If the gallery is not installed.
    """
    found = find_spec("retrieval")  # finds it without importing it
    for place in (found and found.submodule_search_locations) or ():
        folder = Path(place) / "gallery"
        file = folder / "metadata.jsonl"
        if file.is_file():
            records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            photos = [each for each in records if each["file_name"].startswith("photos/")]
            captions = [str(each["caption"]) for each in photos]
            pictures = [folder / each["file_name"] for each in photos]
            return CalibrationSet.drawn_from("the bundled gallery", captions, pictures)
    raise CheckpointError(
        "expected the bundled gallery, to calibrate int8 with, got no retrieval/gallery beside "
        "this package. Install clip-text again, or give --calibrate DATA to clip-text export."
    )


def _content(picture: ImageSource) -> bytes:
    """Give what tells pictures apart: a file's bytes, which are read in no time, or the pixels."""
    if isinstance(picture, str | PathLike):
        return Path(picture).read_bytes()
    return np.asarray(load_image(picture)).tobytes()


def _evenly(items: Sequence[T], number: int) -> list[T]:
    places = np.linspace(0, len(items) - 1, min(number, len(items))).astype(int)
    return [items[place] for place in places]
