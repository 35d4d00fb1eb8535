"""The files of a sealed segment: written beside the old ones, put in their place by one rename.

In ``vectors/`` of an index folder, each sealed segment has a folder of its own, and ``CURRENT``
names the one that counts::

    vectors/CURRENT                    sealed-42-1f0c…
    vectors/sealed-42-1f0c…/manifest.json   recipe, catalogue, generation; sizes and digests
    vectors/sealed-42-1f0c…/rows.npy        int64 [n], ascending
    vectors/sealed-42-1f0c…/features.npy    fp16 [n, embed_dim]; mapped, not read
    vectors/sealed-42-1f0c…/lists.faiss     inverted lists, where the recipe has any

A process killed at any moment leaves the old segment in its place, and perhaps a folder that
nobody names; the next one to seal removes it. Everything here is derived from the catalogue.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO

import faiss
import numpy as np
from filelock import FileLock, Timeout

from retrieval.catalogue import Catalogue
from retrieval.errors import CorruptIndexError, IndexLockedError, StorageError
from retrieval.features import Halves
from retrieval.index.lists import ListsSegment
from retrieval.index.recipes import Recipe, build_lists
from retrieval.index.segments import FlatSegment, Segment

__all__ = [
    "VECTORS",
    "Manifest",
    "check_files",
    "current",
    "read_manifest",
    "read_segment",
    "seal",
]

VECTORS = "vectors"
CURRENT = "CURRENT"
_LOCK = "sealing.lock"
_MANIFEST, _ROWS, _FEATURES, _LISTS = "manifest.json", "rows.npy", "features.npy", "lists.faiss"
_FORMAT = "clip-text-vectors-1"
_NAME = re.compile(r"sealed-[0-9]+-[0-9a-f]{12}")
_BLOCK = 1 << 20  # bytes
_blake2b = partial(hashlib.blake2b, digest_size=16)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a sealed segment says of itself.

    Args:
        uid: The catalogue that it is derived from.
        generation: The state of the catalogue that it holds.
        embed_dim: Width of the features.
        count: Rows.
        recipe: How it was built, and is searched.
        files: Bytes and digest of each file.
    """

    uid: str
    generation: int
    embed_dim: int
    count: int
    recipe: Recipe
    files: dict[str, tuple[int, str]]

    @property
    def bytes(self) -> int:
        """What the files take on the disk."""
        return sum(size for size, _ in self.files.values())


def current(index_dir: Path) -> str:
    """Name the sealed segment that counts; "" if there is none."""
    try:
        name = (index_dir / VECTORS / CURRENT).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return name if _NAME.fullmatch(name) else ""


def read_manifest(index_dir: Path, name: str) -> Manifest:
    """Read what a sealed segment says of itself, and look whether its files have their sizes.

    Raises:
        CorruptIndexError: If the manifest is damaged, or a file is missing or of another size.
    """
    folder = index_dir / VECTORS / name
    try:
        text = (folder / _MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise _corrupt(folder / _MANIFEST, "it is missing") from error
    try:
        parsed = json.loads(text)
        if parsed.pop("format") != _FORMAT:
            raise ValueError("another format")
        files = {file: (int(size), str(digest)) for file, (size, digest) in parsed["files"].items()}
        recipe = Recipe(**parsed["recipe"])
        manifest = Manifest(**{**parsed, "files": files, "recipe": recipe})
        numbers = (manifest.generation, manifest.embed_dim, manifest.count)
        needed = {_ROWS, _FEATURES} | (set() if recipe.is_exact else {_LISTS})
        if any(type(number) is not int for number in numbers) or not needed <= files.keys():
            raise ValueError("numbers or files are missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(folder / _MANIFEST, f"it is no manifest of {_FORMAT}") from error
    for file, (size, _) in files.items():
        try:
            there = (folder / file).stat().st_size
        except FileNotFoundError as error:
            raise _corrupt(folder / file, "it is missing") from error
        if there != size:
            raise _corrupt(folder / file, f"it has {there} bytes of {size}")
    return manifest


def read_segment(index_dir: Path, name: str, manifest: Manifest) -> Segment:
    """Open a sealed segment: its features are mapped, and only its rows and lists are read.

    Raises:
        CorruptIndexError: If its files do not fit together, or rows or lists are damaged.
    """
    folder = index_dir / VECTORS / name
    # A wrong feature is a wrong score; a wrong row is another picture.
    _check_digest(folder / _ROWS, manifest)
    try:
        rows = np.load(folder / _ROWS, allow_pickle=False)
        mapped = manifest.count and not manifest.recipe.is_exact
        halves: Halves = np.asarray(
            np.load(folder / _FEATURES, mmap_mode="r" if mapped else None, allow_pickle=False)
        )
    except ValueError as error:
        raise _corrupt(folder, str(error)) from error
    wanted = (manifest.count, manifest.embed_dim)
    if rows.shape != wanted[:1] or halves.shape != wanted:
        raise _corrupt(folder, f"expected shape {list(wanted)}, got {list(halves.shape)}")
    if rows.dtype != np.int64 or halves.dtype != np.float16:
        raise _corrupt(folder, f"it holds {rows.dtype} and {halves.dtype}")
    if manifest.recipe.is_exact:
        return FlatSegment(rows, halves)
    lists = _read_lists(folder / _LISTS, manifest)
    return ListsSegment(rows, halves, lists, manifest.recipe)


def check_files(index_dir: Path, name: str, manifest: Manifest) -> None:
    """Compare the files of a sealed segment with the digests in its manifest; reads them whole.

    Raises:
        CorruptIndexError: If one is another.
    """
    folder = index_dir / VECTORS / name
    for file in manifest.files:
        _check_digest(folder / file, manifest)


def seal(
    index_dir: Path, catalogue: Catalogue, recipe_for: Callable[[int, int], Recipe]
) -> Manifest:
    """Build a sealed segment of all that a catalogue holds, and let it count from now on.

    Memory follows the recipe, not the features: they go through it page by page.

    Args:
        index_dir: Folder of the index.
        catalogue: What is to be sealed, as of one moment; it may be written meanwhile.
        recipe_for: Chooses by the number of rows and the width of the features.

    Returns:
        What was built.

    Raises:
        IndexLockedError: If another process is sealing.
        StorageError: If the disk is full, or the folder cannot be written. The old segment stays.
    """
    vectors = index_dir / VECTORS
    with _writing_to(vectors), _sealing_alone(vectors):
        _sweep(vectors, keep=current(index_dir))
        with _partial_folder(vectors) as folder:
            manifest = _build(folder, catalogue, recipe_for)
            name = f"sealed-{manifest.generation}-{uuid.uuid4().hex[:12]}"
            _sync_folder(folder)
            folder.rename(vectors / name)
        _point_to(vectors, name)
        _sweep(vectors, keep=name)
    return manifest


def _build(
    folder: Path, catalogue: Catalogue, recipe_for: Callable[[int, int], Recipe]
) -> Manifest:
    files: dict[str, tuple[int, str]] = {}
    with catalogue.changes(0) as change:
        rows, generation = change.written, change.generation
        with _summed(folder / _ROWS, files) as file:
            file.write(_npy_header(rows.shape, "<i8"))
            file.write(rows.astype("<i8").tobytes())
        with _summed(folder / _FEATURES, files) as file:
            file.write(_npy_header((len(rows), catalogue.embed_dim), "<f2"))
            for _, page in change.features:
                file.write(page.astype("<f2").tobytes())
    recipe = recipe_for(len(rows), catalogue.embed_dim)
    if not recipe.is_exact:
        lists = build_lists(recipe, np.load(folder / _FEATURES, mmap_mode="r"))
        with _summed(folder / _LISTS, files) as file:
            writer = faiss.PyCallbackIOWriter(file.write, _BLOCK)  # type: ignore[attr-defined]
            faiss.write_index(lists, writer)
    manifest = Manifest(catalogue.uid, generation, catalogue.embed_dim, len(rows), recipe, files)
    told = {"format": _FORMAT, **asdict(manifest)}
    with _summed(folder / _MANIFEST, {}) as file:
        file.write((json.dumps(told, indent=2) + "\n").encode())
    return manifest


def _read_lists(path: Path, manifest: Manifest) -> faiss.IndexIVF:
    # FAISS trusts its input, and damage may end the process, so nothing reaches it before the
    # digest is right. The lists are a quarter of the features, which are not read here.
    _check_digest(path, manifest)
    with path.open("rb") as file:
        reader = faiss.PyCallbackIOReader(file.read, _BLOCK)  # type: ignore[attr-defined]
        try:
            lists = faiss.read_index(reader)
        except RuntimeError as error:
            raise _corrupt(path, "FAISS cannot read it") from error
    if not isinstance(lists, faiss.IndexIVF):
        raise _corrupt(path, f"it holds a {type(lists).__name__}")
    if (lists.ntotal, lists.d) != (manifest.count, manifest.embed_dim):
        raise _corrupt(path, f"it holds {lists.ntotal} vectors of width {lists.d}")
    return lists


class _SummedFile:
    """Passes bytes on to a file, and keeps their number and digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.digest = _blake2b()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)


@contextlib.contextmanager
def _summed(path: Path, files: dict[str, tuple[int, str]]) -> Iterator[_SummedFile]:
    """Write a new file that is on the disk afterwards, and note its size and digest."""
    with path.open("xb") as file:
        summed = _SummedFile(file)
        yield summed
        file.flush()
        os.fsync(file.fileno())
    files[path.name] = (summed.size, summed.digest.hexdigest())


def _npy_header(shape: tuple[int, ...], kind: str) -> bytes:
    header = io.BytesIO()
    fields = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _check_digest(path: Path, manifest: Manifest) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, _blake2b).hexdigest()
    if digest != manifest.files[path.name][1]:
        raise _corrupt(path, "its digest does not fit")


@contextlib.contextmanager
def _writing_to(vectors: Path) -> Iterator[None]:
    """Have a folder to write to, and say so in our words where it cannot be written."""
    try:
        vectors.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StorageError(
            f"expected to write vectors to {vectors}, got: {error.strerror or error}. Free some "
            "space on its disk, or make the folder writable; nothing stored is lost."
        ) from error


@contextlib.contextmanager
def _sealing_alone(vectors: Path) -> Iterator[None]:
    """Hold the lock of whoever seals; it guards what is not named yet from being swept."""
    lock = FileLock(vectors / _LOCK, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise IndexLockedError(
            f"expected to be the only process sealing {vectors}, got another one at work. Wait "
            "until it ends."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _partial_folder(vectors: Path) -> Iterator[Path]:
    folder = vectors / f"sealed.{uuid.uuid4().hex[:12]}.partial"
    folder.mkdir()
    try:
        yield folder
    finally:  # it has been renamed, unless something failed
        shutil.rmtree(folder, ignore_errors=True)


def _point_to(vectors: Path, name: str) -> None:
    """Let a segment count: the one step that does it is a rename."""
    partial = vectors / f"{CURRENT}.{uuid.uuid4().hex[:12]}.partial"
    try:
        with partial.open("x", encoding="ascii") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(vectors)
        partial.replace(vectors / CURRENT)
        _sync_folder(vectors)
    finally:
        partial.unlink(missing_ok=True)


def _sweep(vectors: Path, keep: str) -> None:
    """Remove segments that do not count, and what killed processes left.

    Readers that have mapped the files keep them on POSIX; on Windows such files refuse to go,
    and go next time.
    """
    for path in vectors.iterdir():
        if path.name in {keep, CURRENT, _LOCK}:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _sync_folder(folder: Path) -> None:
    """Have renames in a folder survive a power cut, where the system can be asked to."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _corrupt(path: Path, what: str) -> CorruptIndexError:
    return CorruptIndexError(
        f"expected a sound sealed segment of format {_FORMAT}, got a damaged {path} ({what}). "
        "Seal anew with: clip-text index compact"
    )
