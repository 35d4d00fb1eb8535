"""What a runtime computes once for a model on a machine, on disk: compiled graphs, choices.

Everything here may be deleted at any time; a file that is broken, another machine's, or cannot be
written is no error.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from clip_text.errors import StorageError
from clip_text.runtimes.processor import describe_processor
from clip_text.storage import digest, partial_file

__all__ = ["Stamp", "cache_folder"]

_log = logging.getLogger(__name__)

GRAPHS = 2
"""Version of the graphs' arithmetic and inputs: raised when a compiled one would be another."""

_DIGEST_SIZE = 16
_UNUSED_SECONDS = 60 * 24 * 3600

_PACKAGES = ("clip-text", "torch", "transformers", "open_clip_torch", "openvino", "onnxruntime")


def cache_folder() -> Path:
    """Name the folder: ``CLIP_TEXT_CACHE``, or the user's own cache."""
    named = os.environ.get("CLIP_TEXT_CACHE")
    return (Path(named) if named else user_cache_path("clip-text")) / "runtimes"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a computed thing holds for: the model, the versions of all libraries, the processor.

    Args:
        fingerprint: Of the model.
        processor: As :func:`clip_text.runtimes.processor.describe_processor` says.
        versions: By package; None where it is not installed.
    """

    fingerprint: str
    processor: str
    versions: Mapping[str, str | None]

    @classmethod
    def here(cls, fingerprint: str) -> "Stamp":
        """Stamp what is computed for a model by this process."""
        versions = {name: _version(name) for name in _PACKAGES}
        return cls(fingerprint, describe_processor(), versions | {"graphs": str(GRAPHS)})

    def _as_json(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "processor": self.processor,
            "versions": dict(self.versions),
        }

    def file(self, name: str) -> Path:
        """Name the file of a thing that holds for this stamp only."""
        return cache_folder() / f"{self.fingerprint[:12]}-{digest(self._as_json())[:16]}-{name}"

    def remember(self, name: str, value: object) -> None:
        """Write a value that JSON can hold."""
        text = json.dumps({"stamp": self._as_json(), "value": value}, indent=2)
        _write(self.file(name), text.encode())

    def recall(self, name: str) -> object:
        """Give a value that was remembered under an equal stamp, else None."""
        try:
            found = json.loads(self.file(name).read_text(encoding="utf-8"))
            return found["value"] if found["stamp"] == self._as_json() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, name: str, content: bytes) -> None:
        """Write bytes, with their digest; those of models that nobody used for long go."""
        file = self.file(name)
        _write(file, bytes.fromhex(digest(content)) + content)
        with suppress(OSError):
            for other in file.parent.glob(f"*{file.suffix}"):
                if time.time() - other.stat().st_mtime > _UNUSED_SECONDS:
                    other.unlink()

    def fetch(self, name: str) -> bytes | None:
        """Give bytes that were kept under an equal stamp and are whole, else None."""
        file = self.file(name)
        try:
            found = file.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # of a cache that others filled
            os.utime(file)
        named, content = found[:_DIGEST_SIZE], found[_DIGEST_SIZE:]
        return content if named.hex() == digest(content) else None


def _write(file: Path, content: bytes) -> None:
    """Write a file whole, or not at all."""
    try:
        with partial_file(file) as partial:
            partial.write_bytes(content)
    except (StorageError, OSError) as error:
        _log.debug("%s was not kept: %s", file.name, error)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
