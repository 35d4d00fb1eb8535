"""Exported models: folders that an Encoder runs without torch, transformers or open_clip.

::

    clip_text_model.json   the manifest: what the model is, and the size and digest of each file
    text.onnx, image.onnx  token ids, and pixels, to unit rows; for OpenVINO text.xml, text.bin, …
    tokenizer.json, tokenizer_config.json
    report.json            how far it is from the model it was made from
    README.md              the model card
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from clip_text.errors import CheckpointError, needs
from clip_text.images import Preprocessing
from clip_text.names import Compat, Precision
from clip_text.runtimes import ExportedModel, Runtime
from clip_text.runtimes.cache import Stamp
from clip_text.runtimes.onnxruntime import OnnxRuntime
from clip_text.runtimes.openvino import OpenVinoRuntime, read
from clip_text.runtimes.packing import Padding
from clip_text.runtimes.processor import has_bf16
from clip_text.storage import digest, write_json
from clip_text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import openvino

MANIFEST_FILE = "clip_text_model.json"
VERSION = 1

Family = Literal["onnx", "openvino"]
Tower = Literal["text", "image"]

_SUFFIXES: dict[Family, tuple[str, ...]] = {"onnx": (".onnx",), "openvino": (".xml", ".bin")}


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of an exported folder as it was written.

    Args:
        bytes: Its size.
        blake2b: Digest of its content, 32 hexadecimal digits.
    """

    bytes: int
    blake2b: str


@dataclass(frozen=True, slots=True)
class TowerFacts:
    """What a tower is.

    Args:
        about: Kind and sizes, in words.
        layers: How many; of a ResNet, blocks; None where that is not counted.
        width: Of a token's state, or of a ResNet's stem; None where that is not known.
        parameters: Numbers in it.
    """

    about: str
    layers: int | None
    width: int | None
    parameters: int

    def line(self) -> str:
        """Say it."""
        return f"{self.about}; {self.parameters:,} parameters"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an exported model is.

    Args:
        family: The format of its graphs: onnx or openvino.
        precision: What it computes in: fp32, bf16 where the processor has it, or int8.
        fingerprint: Of its rows, as an index remembers it.
        embed_dim: Width of the shared space.
        context_length: Longest text in tokens, special tokens included.
        pad_id: The id that fills a short row of tokens; the text graph masks it.
        logit_scale: The factor that turned cosines into logits in training.
        contract: Name and version of the tokeniser contract.
        preprocessing: Of pictures; mean and deviation are inside the image graph.
        made_from: Name of the source model, and versions of what wrote the folder.
        opset: Of ONNX's operators; None for another family.
        files: By name, what is beside the manifest.
        towers: What the towers of the source are; empty in folders of earlier versions.
    """

    family: Family
    precision: Precision
    fingerprint: str
    embed_dim: int
    context_length: int
    pad_id: int
    logit_scale: float
    contract: str
    preprocessing: Preprocessing
    made_from: dict[str, str]
    opset: int | None = None
    files: dict[str, StoredFile] = field(default_factory=dict)
    towers: dict[Tower, TowerFacts] = field(default_factory=dict)

    def graph_files(self, tower: Tower) -> tuple[str, ...]:
        """Name the files of a tower; a runtime opens the first one."""
        return tuple(tower + suffix for suffix in _SUFFIXES[self.family])


def is_exported(folder: Path) -> bool:
    """Say whether a folder holds an exported model, whole or not."""
    return (folder / MANIFEST_FILE).is_file()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest beside the files it names; the last thing that is written of a folder."""
    write_json(folder / MANIFEST_FILE, {"version": VERSION, **asdict(manifest)})


def stored_files(folder: Path) -> dict[str, StoredFile]:
    """Measure every file of a folder but its manifest, by name."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST_FILE)
    return {path.name: StoredFile(path.stat().st_size, digest_of(path)) for path in paths}


def digest_of(path: Path) -> str:
    """Digest of a file's content, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an exported folder, and check that its files are there and whole.

    Only sizes are compared, so that a start is quick; :func:`verify` compares digests.

    Raises:
        CheckpointError: If the manifest is damaged or of a newer version, or a file is missing or
            of another size.
    """
    path = folder / MANIFEST_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if version != VERSION:
        raise CheckpointError(
            f"expected version {VERSION} of {MANIFEST_FILE}, got {version!r} in {folder}. "
            "Export the model again, or upgrade clip-text."
        )
    try:
        manifest = _parsed(raw)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    for name, stored in manifest.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != stored.bytes:
            raise CheckpointError(
                f"expected {stored.bytes:,} bytes in {file}, got "
                f"{'no such file' if size is None else f'{size:,}'}. Copy the folder again, or "
                "export the model again."
            )
    return manifest


def verify(folder: Path) -> Manifest:
    """Read the manifest as :func:`read_manifest` does, and compare every file with its digest.

    Raises:
        CheckpointError: As :func:`read_manifest`; also if a file is not what was written.
    """
    manifest = read_manifest(folder)
    for name in manifest.files:
        _check_digest(folder, manifest, name)
    return manifest


def load_exported(
    folder: Path,
    context_length: int | None = None,
    compat: Compat | None = None,
    runtime: str | None = None,
) -> ExportedModel:
    """Load an exported folder; a tower is read, and its files compared, when it is first used.

    Args:
        folder: As ``clip-text export`` writes it.
        context_length: Longest text in tokens; only the model's own can be had.
        compat: Its tokeniser contract; only the model's own can be had.
        runtime: Name of the runtime, or ``auto`` for the folder's own. Graphs for OpenVINO in
            float32 run as ``openvino-bf16``, too, where the processor has bfloat16; no others.

    Raises:
        CheckpointError: If a file is missing or damaged, or another context, contract or runtime
            is asked for.
        MissingPackageError: If the library that runs it is not installed.
    """
    manifest = read_manifest(folder)
    try:
        tokenizer = Tokenizer.from_files(folder, manifest.context_length)
    except (OSError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    if tokenizer.contract != manifest.contract:
        raise CheckpointError(
            f"expected a tokenizer of contract {manifest.contract} in {folder}, got "
            f"{tokenizer.contract}. Export the model again."
        )
    made = _runtime(folder, manifest, runtime)
    own = (manifest.context_length, tokenizer.compat, made.name)
    asked = (
        own[0] if context_length is None else context_length,
        own[1] if compat is None else compat,
        own[2] if runtime in {None, "auto"} else runtime,
    )
    if asked != own:
        names = ("context_length", "compat", "runtime")
        has, wants = (
            ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            for values in (own, asked)
        )
        raise CheckpointError(
            f"expected {has}, all that {folder} was exported with, got {wants}. Leave them out, or "
            "use the model it was exported from."
        )
    return ExportedModel(
        path=folder,
        tokenizer=tokenizer,
        preprocessing=manifest.preprocessing,
        embed_dim=manifest.embed_dim,
        fingerprint=manifest.fingerprint,
        logit_scale=manifest.logit_scale,
        runtime=made,
    )


def _runtime(folder: Path, manifest: Manifest, asked: str | None) -> Runtime:
    def checked(tower: Tower) -> Path:
        files = manifest.graph_files(tower)
        for name in files:
            _check_digest(folder, manifest, name)
        return folder / files[0]

    # alone: beside it, an exported model needs none of the packages that an extra would bring
    package = "onnxruntime" if manifest.family == "onnx" else "openvino"
    with needs(package, f"running {folder}"):
        import_module(package)
    if manifest.family == "onnx":
        kind: Literal["f32", "i8"] = "i8" if manifest.precision == "int8" else "f32"
        return OnnxRuntime(lambda: checked("text"), lambda: checked("image"), kind)

    def graph(tower: Tower) -> "openvino.Model":
        return read(checked(tower))

    digests = [stored.blake2b for stored in manifest.files.values()]
    return OpenVinoRuntime(
        lambda: graph("text"),
        lambda: graph("image"),
        Padding(manifest.pad_id, manifest.context_length),
        _computed_in(manifest.precision, asked),
        stamp=lambda: Stamp.here(digest(digests)),
    )


def _computed_in(precision: Precision, asked: str | None) -> Literal["f32", "bf16", "i8"]:
    """Say what OpenVINO computes in on this processor."""
    if precision == "int8":
        return "i8"
    wants_bf16 = precision == "bf16" or asked == "openvino-bf16"
    return "bf16" if wants_bf16 and has_bf16() else "f32"


def _check_digest(folder: Path, manifest: Manifest, name: str) -> None:
    wanted, found = manifest.files[name].blake2b, digest_of(folder / name)
    if found != wanted:
        raise CheckpointError(
            f"expected digest {wanted} of {folder / name}, got {found}. Copy the folder again, or "
            "export the model again."
        )


def _parsed(raw: Mapping[str, Any]) -> Manifest:
    family, precision = raw["family"], raw["precision"]
    if family not in _SUFFIXES or precision not in get_args(Precision):
        raise ValueError(f"family {family!r}, precision {precision!r}")
    mean, std = (tuple(float(v) for v in raw["preprocessing"][name]) for name in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean {mean}, std {std}")
    files = {
        str(name): StoredFile(int(stored["bytes"]), str(stored["blake2b"]))
        for name, stored in raw["files"].items()
    }
    needed = [tower + suffix for tower in get_args(Tower) for suffix in _SUFFIXES[family]]
    if missing := [name for name in needed if name not in files]:
        raise ValueError(f"no {missing[0]} among files")
    return Manifest(
        family=family,
        precision=precision,
        fingerprint=str(raw["fingerprint"]),
        embed_dim=int(raw["embed_dim"]),
        context_length=int(raw["context_length"]),
        pad_id=int(raw["pad_id"]),
        logit_scale=float(raw["logit_scale"]),
        contract=str(raw["contract"]),
        preprocessing=Preprocessing(int(raw["preprocessing"]["size"]), mean, std),
        made_from={str(key): str(value) for key, value in raw["made_from"].items()},
        opset=None if raw["opset"] is None else int(raw["opset"]),
        files=files,
        towers={tower: TowerFacts(**facts) for tower, facts in raw.get("towers", {}).items()},
    )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"expected the manifest of an exported model in {path}, got one that is damaged "
        f"({type(error).__name__}: {error}). Copy the folder again, or export the model again."
    )
