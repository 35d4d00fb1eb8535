"""Readers of Chinese-CLIP's layout, in which MUGE, Flickr30K-CN and COCO-CN are published.

=========================  =====================================================================
file                       what it holds
=========================  =====================================================================
``{split}_texts.jsonl``    ``{"text_id": 7, "text": "…", "image_ids": [3, 5]}``, a text a line
``{split}_imgs.tsv``       picture id, tab, the picture file in base64 (either alphabet), a line
``lmdb/{split}/pairs``     number → pickled (picture id, text id, text); ``num_samples``
``lmdb/{split}/imgs``      picture id → base64; ``num_images``
=========================  =====================================================================

The LMDB is what ``cn_clip/preprocess/build_lmdb_dataset.py`` makes of the two files. It has no
place for a text without pictures. Pictures are read when they are asked for, not before.

Source:
    The README of github.com/OFA-Sys/Chinese-CLIP, "Data preparation".
"""

import base64
import binascii
import io
import pickle
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from clip_text.data.collection import Problem, Text, entry, refuse
from clip_text.data.text_files import json_objects
from clip_text.errors import DataError, needs

if TYPE_CHECKING:
    import lmdb

TEXTS, IMAGES = "_texts.jsonl", "_imgs.tsv"

_LMDB_LOCK = Lock()


@dataclass(frozen=True, slots=True)
class Split:
    """Where one split of a data set lies.

    Args:
        form: Which of the two forms it has: files, or LMDB.
        texts: The jsonl file, or the LMDB of pairs.
        images: The tsv file, or the LMDB of pictures.
    """

    form: Literal["files", "lmdb"]
    texts: Path
    images: Path


def find_splits(folder: Path) -> dict[str, Split]:
    """Find the splits of a data set; the files count where a split has an LMDB as well.

    Args:
        folder: With the files, with a folder ``lmdb``, or that folder itself.
    """
    splits = {}
    for below in (folder / "lmdb", folder):
        for pairs in sorted(below.glob("*/pairs/data.mdb")):
            one = pairs.parent.parent
            splits[one.name] = Split("lmdb", one / "pairs", one / "imgs")
    for texts in sorted(folder.glob(f"*{TEXTS}")):
        name = texts.name.removesuffix(TEXTS)
        splits[name] = Split("files", texts, folder / f"{name}{IMAGES}")
    return splits


def read_split(
    split: Split, problems: list[Problem] | None = None, *, whole: bool = False
) -> tuple[Mapping[str, bytes], list[Text]]:
    """Read the texts of a split, and where its pictures are.

    Args:
        split: Where the split's files lie.
        problems: A list to be told of bad lines, and of texts and pictures that don't match,
            instead of an error at the first of them.
        whole: Read splits of which no text has an answer, too.

    Returns:
        Pictures by id, each read and decoded when it is asked for; and the texts.

    Raises:
        DataError: If something is damaged, or texts and pictures don't match; with file and line,
            or a count and the first few. Also if no text has an answer, as in MUGE's test split.
        MissingPackageError: If an LMDB is to be read and ``lmdb`` is not installed.
    """
    missing = [path for path in (split.texts, split.images) if not path.exists()]
    if missing:
        raise DataError(f"expected {missing[0]}, got nothing there. Download or build it.")
    pictures: Mapping[str, bytes]
    if split.form == "lmdb":
        pictures = LmdbImages(split.images)
        texts = _lmdb_texts(split.texts, pictures, problems)
    else:
        pictures = TsvImages(split.images, problems)
        texts = _jsonl_texts(split.texts, pictures, problems)
    if not whole and not any(one.image_ids for one in texts):
        _refuse_unanswered(split.texts, len(texts))
    return pictures, texts


def _jsonl_texts(
    path: Path, images: Mapping[str, bytes], problems: list[Problem] | None
) -> list[Text]:
    texts: dict[str, Text] = {}
    blank, mute, lost = [], [], []
    for place, found in json_objects(path, problems):
        with entry(problems, place):
            one = _text(found, f"{path}, {place}", texts)
            blank += [place] if not one.text.strip() else []
            mute += [place] if not one.image_ids else []
            lost += [f"{place}: image {image}" for image in one.image_ids if image not in images]
            texts[one.text_id] = one
    is_answered = len(mute) < len(texts)  # where no text is, that is what is to be told
    if problems is None and is_answered:  # else they are told of by the set that is made of them
        refuse(str(path), "texts with words", blank, "Drop")
        refuse(str(path), "image_ids for every text", mute, "Drop")
        refuse(str(path), "texts of pictures that are there", lost, "Add the pictures or drop")
    return list(texts.values())


def _text(found: Mapping[str, Any], where: str, before: Mapping[str, Text]) -> Text:
    text_id = _id(found.get("text_id"), "text_id", where)
    text, image_ids = found.get("text"), found.get("image_ids")
    if not isinstance(text, str):
        raise DataError(f"expected a text in field 'text' of {where}, got {text!r}. Mend it.")
    if not isinstance(image_ids, list | None):
        raise DataError(
            f"expected a list in field 'image_ids' of {where}, got {image_ids!r}. Mend it."
        )
    if text_id in before:
        raise DataError(
            f"expected a text_id not used before in {where}, got {text_id} again. Rename it."
        )
    ids = tuple(dict.fromkeys(_id(one, "image_ids", where) for one in image_ids or ()))
    return Text(text_id, text, ids)


def _lmdb_texts(
    path: Path, images: Mapping[str, bytes], problems: list[Problem] | None
) -> list[Text]:
    found: dict[str, tuple[str, list[str]]] = {}
    lost = []
    with _reading(path) as pairs:
        for at in range(_count(pairs, path, b"num_samples")):
            image_id, text_id, text = _pair(pairs.get(str(at).encode()), path, at)
            known, image_ids = found.setdefault(text_id, (text, []))
            if known != text:
                raise DataError(
                    f"expected one text of id {text_id} in {path}, pair {at}, got {known!r} and "
                    f"{text!r}. Build it again."
                )
            image_ids.append(image_id)
            lost += [f"pair {at}: image {image_id}"] if image_id not in images else []
    if problems is None:
        blank = [text_id for text_id, (text, _) in found.items() if not text.strip()]
        refuse(str(path), "texts with words", blank, "Drop")
        refuse(str(path), "texts of pictures that are there", lost, "Add the pictures or drop")
    return [
        Text(text_id, text, tuple(dict.fromkeys(ids))) for text_id, (text, ids) in found.items()
    ]


def _refuse_unanswered(path: Path, texts: int) -> NoReturn:
    raise DataError(
        f"expected texts with image_ids in {path}, got {texts:,} texts and none with any: which "
        "pictures answer them is not published, as for MUGE's test split. Take another split, "
        "such as valid."
    )


def _id(value: object, field: str, where: str) -> str:
    """An id as text; a bool is an int to Python, but no id."""
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise DataError(
            f"expected whole numbers or texts in field {field!r} of {where}, got {value!r}. "
            "Mend the line."
        )
    return str(value)


class TsvImages(Mapping[str, bytes]):
    """Pictures of a tsv file by id; keeps where each line is, not what it says.

    Args:
        path: ``id<TAB>base64`` a line.
        problems: A list to be told of bad lines, instead of an error at the first of them.

    Raises:
        DataError: If a line has no tab, no id or no picture, or an id comes twice.
    """

    def __init__(self, path: Path, problems: list[Problem] | None = None) -> None:
        self.path = path
        self._row: dict[str, int] = {}
        self._start, self._length = array("q"), array("q")
        self._line = array("q")
        at = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    with entry(problems, f"line {number}"):
                        self._add(line, number, at)
                at += len(line)

    def _add(self, line: bytes, number: int, at: int) -> None:
        name, tab, picture = line.partition(b"\t")
        image_id = name.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        if not tab or not image_id or not picture.strip():
            raise DataError(
                f"expected an id, a tab and a picture in base64 in {self.path}, line {number}, "
                f"got {line[:40]!r}. Mend the line."
            )
        if image_id in self._row:
            first = self._line[self._row[image_id]]
            raise DataError(
                f"expected an id not used before in {self.path}, line {number}, got {image_id} "
                f"of line {first} again. Drop one."
            )
        self._row[image_id] = len(self._row)
        self._start.append(at + len(name) + 1)
        self._length.append(len(picture))
        self._line.append(number)

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __contains__(self, image_id: object) -> bool:  # the mixin's would decode the picture
        return image_id in self._row

    def __getitem__(self, image_id: str) -> bytes:
        row = self._row[image_id]
        with self.path.open("rb") as file:
            file.seek(self._start[row])
            picture = file.read(self._length[row])
        return _from_base64(picture, f"{self.path}, line {self._line[row]}")


class LmdbImages(Mapping[str, bytes]):
    """Pictures of an LMDB by id; keeps the ids.

    Args:
        path: The folder ``imgs``.

    Raises:
        DataError: If it is no LMDB, or holds another number of pictures than it says.
        MissingPackageError: If ``lmdb`` is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path) as images:
            expected = _count(images, path, b"num_images")
            keys = images.cursor().iternext(keys=True, values=False)
            ids = [bytes(key).decode("utf-8", "replace") for key in keys if key != b"num_images"]
        self._ids = dict.fromkeys(ids)
        if len(ids) != expected:
            raise DataError(
                f"expected {expected} pictures in {path}, as its num_images says, got {len(ids)}. "
                "Build it again."
            )

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._ids

    def __getitem__(self, image_id: str) -> bytes:
        if image_id not in self._ids:
            raise KeyError(image_id)
        with _reading(self.path) as images:
            picture = images.get(image_id.encode())
        return _from_base64(bytes(picture or b""), f"{self.path}, picture {image_id}")


def _from_base64(data: bytes, where: str) -> bytes:
    """Decode either alphabet, as cn_clip's urlsafe_b64decode does, but let nothing slip."""
    try:
        return base64.b64decode(data.strip().translate(_STANDARD), validate=True)
    except binascii.Error as error:
        raise DataError(
            f"expected a picture in base64 in {where}, got {error}. Download it again."
        ) from None


_STANDARD = bytes.maketrans(b"-_", b"+/")


@contextmanager
def _reading(path: Path) -> "Iterator[lmdb.Transaction]":
    """Open an LMDB for one reading.

    LMDB allows a process to have it open once only. So it is open while something is read and no
    longer: two sets of the same data, and threads, don't meet; an opening costs microseconds.
    """
    with needs("clip-text[lmdb]", str(path)):
        import lmdb  # noqa: PLC0415  (optional)
    with _LMDB_LOCK:
        try:
            with (
                lmdb.open(str(path), readonly=True, create=False, lock=False) as environment,
                environment.begin() as transaction,
            ):
                yield transaction
        except lmdb.Error as error:
            raise DataError(
                f"expected an LMDB that can be read in {path}, got: {error}. Build it again."
            ) from error


def _count(database: "lmdb.Transaction", path: Path, key: bytes) -> int:
    value = bytes(database.get(key) or b"")
    if not value.isdigit():
        raise DataError(
            f"expected the number {key.decode()} in {path}, got {value!r}. Build it with "
            "cn_clip/preprocess/build_lmdb_dataset.py."
        )
    return int(value)


def _pair(value: Any, path: Path, at: int) -> tuple[str, str, str]:  # noqa: ANN401
    where = f"{path}, pair {at}"
    try:
        pair = _PlainUnpickler(io.BytesIO(bytes(value or b""))).load()
    except Exception as error:  # noqa: BLE001  (damaged pickles raise almost anything)
        raise DataError(f"expected a pair in {where}, got: {error}. Build it again.") from None
    if not isinstance(pair, tuple) or len(pair) != 3 or not isinstance(pair[2], str):
        raise DataError(
            f"expected (picture id, text id, text) in {where}, got {pair!r}. Build it again."
        )
    return _id(pair[0], "picture id", where), _id(pair[1], "text id", where), pair[2]


class _PlainUnpickler(pickle.Unpickler):
    """Of a pickle, takes what needs no code: an LMDB from elsewhere runs nothing here."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse any class or function."""
        raise pickle.UnpicklingError(f"{module}.{name}, which is no text or number")
