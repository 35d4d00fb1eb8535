"""The starter's exported form, kept in the user's cache, so that a search by words starts quickly.

Everything here may be deleted at any time. Finding it imports neither torch nor the runtime.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from clip_text.names import RuntimeName
from clip_text.runtimes.cache import GRAPHS, cache_folder
from clip_text.runtimes.exported import VERSION, Family
from clip_text.runtimes.processor import has_bf16
from clip_text.storage import digest

STARTER_FOLDER = Path(__file__).parents[1] / "starter"


def run_by(family: Family) -> RuntimeName:
    """Name what runs a kept form; it is written in float32.

    In bfloat16 where the processor has that: it is what ``auto`` chooses there, and the starter's
    rows stay within its bound (docs/benchmarks.md).
    """
    if family == "onnx":
        return "onnxruntime"
    return "openvino-bf16" if has_bf16() else "openvino"


def kept_family() -> Family | None:
    """Choose what the kept form is written for, of what is installed; None where nothing is."""
    if find_spec("openvino"):
        return "openvino"
    return "onnx" if find_spec("onnxruntime") and find_spec("onnx") else None


def kept_starter(family: Family) -> Path:
    """Name the folder of the kept form; another starter, or another version of ours, has another.

    Args:
        family: Of its graphs.
    """
    files = sorted(STARTER_FOLDER.iterdir())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    name = digest(version("clip-text"), VERSION, GRAPHS, facts)[:16]
    return cache_folder().parent / "exported" / f"starter-{family}-{name}"
