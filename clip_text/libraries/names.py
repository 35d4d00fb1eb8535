"""How models of other libraries are named. Importing this imports no library.

==========================================  ==================================================
``open_clip:ViT-B-16-SigLIP2/webli``        open_clip's name of an architecture, and of weights
``open_clip:ViT-B-32/clip.pt``              the same with weights of one's own, a file
``open_clip:hf-hub:timm/ViT-B-16-SigLIP2``  a repository of the Hugging Face hub
``open_clip:FOLDER``                        a folder with an open_clip_config.json
``transformers:NAME``                       a repository or folder that transformers reads
``sentence_transformers:NAME``              one that sentence-transformers reads
``text=NAME,image=NAME``                    texts as one model reads them, pictures as another
==========================================  ==================================================

A folder or repository without a prefix is told by its files.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from clip_text.errors import CheckpointError

__all__ = ["Library", "LibraryName", "folder_of", "parse", "recognise"]

Library = Literal["open_clip", "transformers", "sentence_transformers", "halves"]

_PREFIXES = {name: name for name in get_args(Library) if name != "halves"} | {
    "sentence-transformers": "sentence_transformers",
    "open-clip": "open_clip",
}

# Folders that the Encoder of this package reads itself.
_OURS = "chinese_clip"


@dataclass(frozen=True, slots=True)
class LibraryName:
    """The name of a model of another library.

    Args:
        library: Which library; ``halves`` where two models give a side each.
        name: What the library knows it by; of halves, that of the texts' side.
        image: Of halves, the name of the pictures' side; else empty.
    """

    library: Library
    name: str
    image: str = ""

    def without_folders(self) -> str:
        """Write it for others, who are not told where on the disk a model is."""
        if self.library == "halves":
            sides = (
                each.without_folders() if (each := parse(name)) else _last(name)
                for name in (self.name, self.image)
            )
            return "text={},image={}".format(*sides)
        return f"{self.library}:{_last(self.name)}"

    def __str__(self) -> str:
        """Write it as it is asked for."""
        if self.library == "halves":
            return f"text={self.name},image={self.image}"
        return f"{self.library}:{self.name}"


def parse(name: str | Path) -> LibraryName | None:
    """Read a name that says its library; None where it says none.

    Args:
        name: As users write it.

    Raises:
        CheckpointError: If it says a library and no model, or one half.
    """
    said = str(name)
    if said.startswith(("text=", "image=")):
        return _halves(said)
    prefix, colon, rest = said.partition(":")
    if not colon or prefix not in _PREFIXES:
        return None
    if not rest:
        raise CheckpointError(
            f"expected the name of a model behind {prefix}:, got none. Name one, such as "
            "open_clip:ViT-B-32/openai."
        )
    library: Any = _PREFIXES[prefix]
    return LibraryName(library, str(Path(rest).expanduser()) if rest[0] == "~" else rest)


def _last(name: str) -> str:
    """Keep the last part of a path; of ARCHITECTURE/FILE both; a name of no file as it is."""
    if Path(name).expanduser().exists():
        return Path(name).name
    architecture, _, file = name.partition("/")
    there = Path(file).expanduser()
    return f"{architecture}/{there.name}" if file and there.is_file() else name


def _halves(said: str) -> LibraryName:
    sides: dict[str, str] = {}
    for part in said.split(","):
        side, equals, name = part.partition("=")
        if equals and side in {"text", "image"} and side not in sides:
            sides[side] = name
        elif sides:  # a comma in a path
            last = list(sides)[-1]
            sides[last] += f",{part}"
    if not sides.get("text") or not sides.get("image"):
        raise CheckpointError(
            f"expected text=MODEL,image=MODEL, got {said!r}. Name what reads texts and what reads "
            "pictures."
        )
    return LibraryName("halves", sides["text"], sides["image"])


def recognise(name: str | Path) -> LibraryName | None:
    """Tell by its files what reads a folder, or a repository of the hub; None where this package.

    Args:
        name: Without a prefix; a path, or ``owner/model``.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _of_files(str(folder), lambda file: _json(folder / file))
    said = str(name)
    if folder.exists() or said.count("/") != 1 or said.startswith((".", "/", "~")):
        return None
    try:
        return _of_files(said, lambda file: _from_hub(said, file))
    except Exception:  # noqa: BLE001  (out of reach: whoever loads it says what is wrong)
        return None


def _of_files(name: str, read: Any) -> LibraryName | None:  # noqa: ANN401
    """Decide by the files that libraries write; ``read`` gives one's content, or None."""
    own = read("open_clip_config.json")
    if isinstance(own, dict):
        text = own.get("model_cfg", {}).get("text_cfg", {}) if "model_cfg" in own else {}
        if not isinstance(text, dict) or "hf_model_name" in text or not text:
            return None  # the reader of this package reads it, or says what is wrong with it
        local = Path(name).is_dir()
        return LibraryName("open_clip", name if local else f"hf-hub:{name}")
    if isinstance(read("modules.json"), list):
        return LibraryName("sentence_transformers", name)
    config = read("config.json")
    if not isinstance(config, dict) or config.get("model_type") in {None, _OURS}:
        return None
    return LibraryName("transformers", name)


def _json(file: Path) -> Any:  # noqa: ANN401
    """Read a file that may not be there, or not be JSON: None then."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _from_hub(name: str, file: str) -> Any:  # noqa: ANN401
    """Read a small file of a repository; None where it has none."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  (nothing else needs the hub)
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    try:
        return _json(Path(hf_hub_download(name, file)))
    except EntryNotFoundError:  # or it is not in the cache, where there is no network
        return None


def folder_of(name: str) -> Path | None:
    """Give the folder that a name is, if it is one here."""
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    return folder if folder.is_dir() else None
