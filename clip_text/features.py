"""Frozen image features, computed once and kept on disk."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from clip_text.progress import Progress, counted, silent
from clip_text.storage import keep

if TYPE_CHECKING:  # seconds to import, and not there where only an exported model runs
    from torch import Tensor, nn

Pixels = NDArray[np.uint8]
T = TypeVar("T")
R = TypeVar("R")


def ahead(function: Callable[[T], R], items: Iterable[T], workers: int, depth: int) -> Iterator[R]:
    """Map ``function`` over ``items`` in threads, in order, at most ``depth`` results ahead."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        iterator = iter(items)
        waiting.extend(pool.submit(function, item) for item in islice(iterator, depth))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(iterator, 1))
            yield done


def hash_weights(module: "nn.Module", digest: "hashlib.blake2b") -> None:
    """Feed a module's weights, with their names and in the order of these, to a digest."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


def weights_state(module: "nn.Module") -> list[tuple[int, int]]:
    """Say where a module's weights lie and how often each was written to; equal where none was."""
    return [
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
        for tensor in module.state_dict(keep_vars=True).values()
    ]


def module_digest(module: "nn.Module") -> str:
    """Digest of a module's weights, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    hash_weights(module, digest)
    return digest.hexdigest()


def cached_features(
    file: Path,
    key: object,
    items: Sequence[T],
    load: Callable[[T], Pixels | None],
    compute: Callable[[NDArray[np.uint8]], "Tensor"],
    *,
    batch_size: int = 64,
    progress: Progress = silent,
) -> NDArray[np.float16]:
    """Compute features of pictures once; later calls with the same key map the file.

    Args:
        file: A ``.npy`` file; see :func:`~clip_text.storage.keep`.
        key: Everything the features depend on, as JSON: weights, pictures, view.
        items: The pictures.
        load: Decodes one, uint8 [size, size, 3]; None where there is no such picture.
        compute: Features of a stack of pictures, [n, ...]; runs on the calling thread.
        batch_size: Pictures per forward pass.
        progress: Is told how many ``pictures`` are done.

    Returns:
        float16 [len(items), ...], memory-mapped; a NaN row where ``load`` gave None.

    Raises:
        StorageError: If the disk is full, or the place cannot be written.
        ValueError: If there is no picture at all.
    """

    def make(partial: Path) -> None:
        out: NDArray[np.float16] | None = None
        pictures = enumerate(ahead(load, items, workers=2, depth=2 * batch_size))
        while batch := list(islice(pictures, batch_size)):
            usable = [(place, pixels) for place, pixels in batch if pixels is not None]
            if usable:
                rows = _compute(compute, np.stack([pixels for _, pixels in usable]))
                if out is None:
                    out = _map_new(partial, (len(items), *rows.shape[1:]))
                out[[place for place, _ in usable]] = rows
            advance(len(batch))
        if out is None:
            raise ValueError(
                f"expected at least one picture for {file.name}, got none. Check the data."
            )
        out.flush()  # type: ignore[attr-defined]

    advance = counted("pictures", len(items), progress)
    features = keep(file, key, make, lambda path: np.load(path, mmap_mode="r"))
    progress("pictures", len(items), len(items))
    return cast(NDArray[np.float16], features)


def _map_new(file: Path, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Map a new ``.npy`` of NaN, its room on the disk taken: a page without is a bus error."""
    row = np.full(shape[1:], np.nan, np.float16).tobytes()
    with file.open("wb") as out:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for _ in range(shape[0]):
            out.write(row)
    mapped: NDArray[np.float16] = np.load(file, mmap_mode="r+")
    return mapped


def _compute(compute: Callable[[Any], "Tensor"], pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
    import torch  # noqa: PLC0415  (seconds to import)

    from clip_text.precision import bf16_pays  # noqa: PLC0415  (imports torch)

    # where bfloat16 pays it is free: the cache is half precision anyway
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16_pays()):
        rows: NDArray[np.float16] = compute(pixels).half().cpu().numpy()
    return rows
