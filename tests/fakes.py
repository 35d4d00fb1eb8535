"""A small deterministic encoder, for tests of retrieval that need no model."""

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.catalogue import halves
from retrieval.protocols import Feature, Features, Pixels

_SIDE = 8


def decode(source: Path | bytes) -> Pixels:
    """Read a sound picture file; ValueError for anything else that can be opened."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError) as error:
        message = f"expected a picture, got {len(data)} other bytes."
        raise ValueError(message) from error
    return np.array(small, np.uint8)


class FakeEncoder:
    """Projects an 8 x 8 picture with a fixed random matrix; hashes a text to a row.

    ``seen`` counts the pictures encoded. ``before_batch`` is called ahead of each batch.
    The features of a picture do not depend on the batch it is in.
    """

    def __init__(
        self,
        embed_dim: int = 16,
        fingerprint: str = "fake-1",
        load: Callable[[Path | bytes], Pixels] = decode,
        before_batch: Callable[[int], None] | None = None,
    ) -> None:
        self.embed_dim = embed_dim
        self.fingerprint = fingerprint
        self.seen = 0
        self.loaded: list[Path | bytes] = []
        self._lock = threading.Lock()
        self._load = load
        self._before_batch = before_batch
        shape = (embed_dim, _SIDE * _SIDE * 3)
        self._projection = np.random.default_rng(7).standard_normal(shape)

    def load_pixels(self, source: Path | bytes) -> Pixels:
        with self._lock:
            self.loaded.append(source)
        return self._load(source)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Features:
        if self._before_batch:
            self._before_batch(len(pixels))
        self.seen += len(pixels)
        return np.stack([self._row(picture) for picture in pixels])

    def encode_text(self, texts: Sequence[str]) -> Features:
        return np.stack([self._text_row(text) for text in texts])

    def encode_file(self, path: Path) -> Features:
        """The row of one picture, [embed_dim]."""
        return self._row(self._load(path))

    def _row(self, pixels: Pixels) -> Features:
        small = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE)), np.float64)
        return _unit(self._projection @ (small.ravel() / 127.5 - 1.0 + 1e-3))

    def _text_row(self, text: str) -> Features:
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "little"))
        return _unit(generator.standard_normal(self.embed_dim))


def as_stored(feature: Feature) -> Feature:
    """What an index gives back of a unit row, [embed_dim]: it keeps halves."""
    return halves.decode([halves.encode(feature, len(feature))], halves.HALF)[0]


def _unit(row: np.ndarray) -> Features:
    return (row / np.linalg.norm(row)).astype(np.float32)


def save_picture(path: Path, seed: int, size: tuple[int, int] = (12, 9)) -> Path:
    """Write a picture no other seed gives, in the format of the name's extension."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)
    return path
