"""Which files make up one split: brace patterns, lists, and names of shards in a folder."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from clip_text.data.text_files import text_lines

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
# a number at the end, or one of five digits as Hugging Face and Spark write it before other things
_NUMBER = re.compile(r"(?:^|[-_.])(?:\d+$|\d{5,}(?=[-_.]).*$)")


def is_url(source: str) -> bool:
    """Say whether a source is to be downloaded."""
    return source.startswith(("http://", "https://"))


def is_pattern(source: str) -> bool:
    """Say whether a source names several files by braces, as shells and webdataset do."""
    return any(_alternatives(inner) is not None for inner in _BRACES.findall(source))


def expand(source: str) -> list[str]:
    """Write out a pattern: ``{0000..0003}`` counts, ``{a,b}`` lists; braces may not nest.

    Args:
        source: A path or URL, with patterns or without.
    """
    parts = _BRACES.split(source)  # text, inside, text, inside, text
    choices: list[list[str]] = [[part] for part in parts]
    for at in range(1, len(parts), 2):
        choices[at] = _alternatives(parts[at]) or ["{" + parts[at] + "}"]
    return ["".join(chosen) for chosen in product(*choices)]


def _alternatives(inside: str) -> list[str] | None:
    match = _RANGE.fullmatch(inside)
    if match is None:
        return inside.split(",") if "," in inside else None
    first, last = match[1], match[2]
    padded = any(len(end.lstrip("-")) > 1 and end.lstrip("-")[0] == "0" for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    start, stop = int(first), int(last)
    step = abs(int(match[3] or 1)) or 1
    numbers = range(start, stop + 1, step) if start <= stop else range(start, stop - 1, -step)
    return [f"{number:0{width}d}" for number in numbers]


def listed(path: Path) -> list[str]:
    """Read a text file that lists shards: paths relative to it, URLs, patterns; # is a comment."""
    found: list[str] = []
    for _, line in text_lines(path):
        text = line.strip()
        if text and not text.startswith("#"):
            for one in expand(text):
                found.append(one if is_url(one) else str(path.parent / one))
    return found


def find_shards(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Find the files of a kind in a folder, by split.

    What stands before a shard's number names the split: ``train-00000-of-00002.parquet``,
    ``val-0003.tar``, ``train.parquet``. Where there is nothing before it, and for files one level
    deeper, the folder does; but for ``data``, where Hugging Face puts the files of all splits.

    Args:
        folder: Where to look; one level deeper if it has none itself.
        ending: Such as ``".tar"``.
    """
    splits: dict[str, list[Path]] = {}
    for path in _files(folder, ending) or _files_below(folder, ending):
        name = _NUMBER.sub("", path.name[: -len(ending)])
        inner = path.parent.name if path.parent != folder and path.parent.name != "data" else ""
        splits.setdefault(inner or name or folder.resolve().name, []).append(path)
    return splits


def _files(folder: Path, ending: str) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.name.lower().endswith(ending) and p.is_file()]


def _files_below(folder: Path, ending: str) -> list[Path]:
    below: Iterator[Path] = (path for path in sorted(folder.iterdir()) if path.is_dir())
    return [path for inner in below for path in _files(inner, ending)]
