"""Files of a checkpoint: written whole, and read without running what is in them."""

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from clip_text.checkpoints.places import INDEX
from clip_text.errors import CheckpointError

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"

_BROKEN_BYTES = (OSError, RuntimeError, ValueError, struct.error)
"""What zipfile and torch raise over damaged bytes, beside errors of their own."""


@dataclass(frozen=True, slots=True)
class State:
    """Tensors of a file.

    Args:
        weights: By name, without a wrapper's prefix.
        beside: What else the file holds: epoch, optimizer, …
    """

    weights: dict[str, Tensor]
    beside: tuple[str, ...] = ()


def read_state(path: Path) -> State:
    """Read a file of weights: safetensors, or what ``torch.save`` wrote.

    Raises:
        CheckpointError: If it is damaged, is something else, or holds code.
    """
    head = _head(path)
    if _is_pickle(head):
        return _state_of(path, _torch_load(path, zipped=head.startswith(_ZIP)))
    with _safetensors(path):
        return _state_of(path, load_file(path))


def read_names(path: Path) -> list[str]:
    """Read the names of a file's tensors alone; of safetensors that is their header.

    Raises:
        CheckpointError: As :func:`read_state`.
    """
    if _is_pickle(_head(path)):
        return list(read_state(path).weights)
    with _safetensors(path), safe_open(path, "pt") as file:
        names = list(file.keys())
    return [name.removeprefix(_wrapper(names)) for name in names]


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(9)
    except FileNotFoundError:
        raise CheckpointError(
            f"expected {path.name} in {path.parent}, got no such file. Download it again."
        ) from None


def _is_pickle(head: bytes) -> bool:
    """Say whether ``torch.save`` may have written what begins so."""
    # safetensors begin with the length of their header, any eight bytes, and a JSON object
    return head[8:] != b"{" and head.startswith((_ZIP, _PICKLE))


@contextmanager
def _safetensors(path: Path) -> Iterator[None]:
    """Say in our words what is wrong with a file of safetensors."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        kind = "safetensors file" if path.suffix == ".safetensors" else "file of weights"
        raise CheckpointError(
            f"expected a {kind} at {path}, got {error}. "
            "It may be cut short: save or download it again."
        ) from error


def read_sharded(folder: Path, names: Sequence[str]) -> tuple[Path, State]:
    """Read the first of several files that is there, whole or as shards with an index.

    Args:
        folder: Where to look.
        names: In order of preference; ``NAME.index.json`` beside them lists shards.

    Raises:
        CheckpointError: If there is none, or one is damaged.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name, read_state(folder / name)
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            places = read_json(index).get("weight_map")
            values = places.values() if isinstance(places, dict) else ()
            shards = sorted({str(value) for value in values})
            if not shards or any(Path(shard).name != shard for shard in shards):
                raise CheckpointError(
                    f"expected file names of {folder} under weight_map in {index}, got "
                    f"{shards[:3]}. Download the checkpoint again."
                )
            weights: dict[str, Tensor] = {}
            for shard in shards:
                weights |= read_state(folder / shard).weights
            return index, State(weights)
    raise CheckpointError(
        f"expected {' or '.join(names)} in {folder}, got no such file. Download it again."
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: If there is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"expected {path.name} in {path.parent}, got no such file. "
            "Name a folder that holds a whole checkpoint."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"expected JSON in {path}, got {error}. Save or download the checkpoint again."
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"expected a JSON object in {path}, got a {type(value).__name__}. "
            "Save or download the checkpoint again."
        )
    return value


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write safetensors that everybody may read, as transformers and open_clip expect them."""
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it readable by its owner only


def _torch_load(path: Path, *, zipped: bool) -> object:
    if zipped:
        _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old storage classes
            # mapped, so that an optimizer beside the weights is never read
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error) or "exhausted" in str(error):
            raise _cut_short(path, error) from error
        reason = str(error).split("Unsupported")[-1].splitlines()[0]
        raise CheckpointError(
            f"expected nothing but tensors in {path}, got a pickle with code or objects in it "
            f"({'unsupported' + reason if 'Unsupported' in str(error) else 'weights_only refused'})"
            "; nothing of it was run. Ask its author for safetensors, or, if you trust it, "
            "save its state_dict alone."
        ) from error
    except (EOFError, KeyError, IndexError, TypeError, AssertionError, *_BROKEN_BYTES) as error:
        raise _cut_short(path, error) from error


def _check_zip(path: Path) -> None:
    """Refuse zips that ``torch.save`` did not write, before torch looks for a meaning in them."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, *_BROKEN_BYTES) as error:
        raise _cut_short(path, error) from error
    inner = [name.partition("/")[2] for name in names]
    if "data.pkl" not in inner:
        raise CheckpointError(
            f"expected a checkpoint at {path}, got a zip of other things "
            f"({', '.join(names[:3]) or 'nothing'}). Name the file of weights itself."
        )
    if "constants.pkl" in inner:
        raise CheckpointError(
            f"expected tensors at {path}, got a TorchScript program; nothing of it was run. "
            "If you trust it, torch.jit.load it and save its state_dict alone."
        )


def _cut_short(path: Path, error: Exception) -> CheckpointError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"expected a whole checkpoint at {path}, got {type(error).__name__}: {first}. "
        "It may be cut short: save or download it again."
    )


def _state_of(path: Path, content: object) -> State:
    beside: tuple[str, ...] = ()
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        beside = tuple(str(key) for key in content if key != "state_dict")
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        what = type(content).__name__
        if isinstance(content, Mapping):
            what += f" of {', '.join(str(key) for key in list(content)[:4])}"
        raise CheckpointError(
            f"expected names and tensors (a state_dict) in {path}, got a {what}. "
            "Save model.state_dict()."
        )
    wrapper = _wrapper(content)
    weights = {name.removeprefix(wrapper): tensor.detach() for name, tensor in content.items()}
    return State(weights, beside)


def _wrapper(names: Collection[str]) -> str:
    """Find the prefixes that all names have, in whatever order."""
    found = ""
    for prefix in WRAPPERS * 2:
        if names and all(name.startswith(found + prefix) for name in names):
            found += prefix
    return found
