"""Finds pictures by the names that files of captions give them."""

import unicodedata
from pathlib import Path, PurePosixPath

__all__ = ["PictureFiles"]


class PictureFiles:
    """The pictures below a folder, by name.

    A name is meant as it stands if there is such a file. If there is none, it may be spelt as on
    another system: with backslashes (Windows), or its accents in the other Unicode form than on
    disk (macOS takes them apart, 'é' into two characters). It is taken so where exactly one file
    fits.

    Args:
        folder: What names are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[str, str | None] = {}
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> str | None:
        """Give a picture's name as it is on disk, relative to the folder; None if there is none."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> str | None:
        slashed = name.replace("\\", "/")
        for spelling in dict.fromkeys((name, slashed)):
            if _is_file(self._folder / spelling):
                return spelling
        places = [Path()]
        for part in PurePosixPath(slashed).parts:
            places = [place / child for place in places for child in self._children(place, part)]
        files = [place for place in places if _is_file(self._folder / place)]
        return files[0].as_posix() if len(files) == 1 else None

    def _children(self, place: Path, part: str) -> list[str]:
        """Names in a folder that are a name in some Unicode form."""
        if part in ("/", ".."):
            return [part]
        if place not in self._listed:
            listed: dict[str, list[str]] = {}
            folder = self._folder / place
            for child in folder.iterdir() if _is_folder(folder) else ():
                listed.setdefault(unicodedata.normalize("NFC", child.name), []).append(child.name)
            self._listed[place] = listed
        return self._listed[place].get(unicodedata.normalize("NFC", part), [])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a caption in the place of a file name is too long for one
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
