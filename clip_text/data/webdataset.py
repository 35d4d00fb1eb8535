"""The reader of webdataset's tars: samples are files of one name, such as 000.jpg and 000.txt.

=========================  ======================================================
member of a sample         what it holds
=========================  ======================================================
``.jpg``, ``.png``, …      the picture; any of :data:`clip_text.images.EXTENSIONS`
``.txt``                   captions, one a line
``.json``                  fields of captions, and ``negatives``
=========================  ======================================================

A tar is gone through once, for where each member lies; pictures are then read from their place,
in any order. :func:`stream_tar` reads it from its beginning to its end instead, once, pictures and
all, as suits an object store.

Source:
    The format: github.com/webdataset/webdataset, "The WebDataset Format". A key is a member's
    path up to the first dot of its last part.
"""

import re
import tarfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from clip_text.data.captions import CAPTION_COLUMNS, NEGATIVES, Record, texts_of, without
from clip_text.data.collection import Problem, entry
from clip_text.data.tables import find_columns
from clip_text.data.text_files import decode_lines, json_object
from clip_text.errors import DataError
from clip_text.images import EXTENSIONS

_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_BLOCK = tarfile.BLOCKSIZE


@dataclass(slots=True)
class _Sample:
    """Members of one key: where the pictures lie, and what the texts say."""

    key: str
    tar: Path | str
    pictures: dict[str, tuple[int, int]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.tar}, sample {self.key}"


class TarImages(Mapping[str, bytes]):
    """Pictures of tars by id; keeps where each lies.

    May be used from several threads, and sent to or inherited by the workers of a DataLoader.

    Args:
        tars: The files.
    """

    def __init__(self, tars: Sequence[Path]) -> None:
        self._tars = list(tars)
        self._row: dict[str, int] = {}
        self._tar, self._start, self._length = array("l"), array("q"), array("q")

    def add(self, image_id: str, tar: int, start: int, length: int) -> None:
        """Say where a picture lies: number of the tar, first byte, bytes."""
        self._row[image_id] = len(self._row)
        self._tar.append(tar)
        self._start.append(start)
        self._length.append(length)

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __contains__(self, image_id: object) -> bool:  # the mixin's would read the picture
        return image_id in self._row

    def shard_of(self, image_id: str) -> int:
        """Say in which of the tars a picture lies."""
        return self._tar[self._row[image_id]]

    def __getitem__(self, image_id: str) -> bytes:
        row = self._row[image_id]
        path = self._tars[self._tar[row]]
        with path.open("rb") as file:
            file.seek(self._start[row])
            data = file.read(self._length[row])
        if len(data) < self._length[row]:
            raise DataError(
                f"expected {self._length[row]:,} bytes of {image_id} in {path}, got {len(data):,}. "
                "The file changed since it was opened: open it again."
            )
        return data


def read_tars(
    tars: Sequence[Path],
    kinds: Sequence[str] | None,
    problems: list[Problem] | None = None,
    *,
    whole: bool = False,
) -> tuple[list[Record], TarImages]:
    """Read the texts of tars, and where their pictures are.

    Args:
        tars: The files, uncompressed.
        kinds: Fields of the .json that hold captions. If not given: the .txt, or where a sample
            has none the first of CAPTION_COLUMNS that its .json has.
        problems: A list to be told of bad samples and tars, instead of an error at the first.
        whole: Read the other fields of the .json, too, and samples without captions.

    Returns:
        Records whose id is the key, or ``tar/key`` where two tars have the same; and the pictures.

    Raises:
        DataError: If a tar is damaged or compressed, or a sample has no picture, more than one,
            or texts that can't be read; it names tar and key.
    """
    samples: list[tuple[int, _Sample]] = []
    for number, tar in enumerate(tars):
        here: dict[str, _Sample] = {}
        with entry(problems, str(tar)):
            for key, ending, start, data in _members(tar):
                sample = here.setdefault(key, _Sample(key, tar))
                if isinstance(data, bytes):
                    sample.texts[ending] = data
                else:
                    sample.pictures[ending] = (start, data)
        samples += [(number, sample) for sample in here.values()]
    unique = len({sample.key for _, sample in samples}) == len(samples)
    records, images = [], TarImages(tars)
    for number, sample in samples:
        with entry(problems, sample.place):
            start, length = sample.pictures[_picture(sample)]
            image_id = sample.key if unique else f"{tars[number].name}/{sample.key}"
            captions, found = _captions(sample, kinds, problems, whole=whole)
            wrong = texts_of(NEGATIVES, found.get(NEGATIVES), f"{sample.place}, .json")
            others = without(found, *captions) if whole else None
            captions = {kind if kinds else "": texts for kind, texts in captions.items()}
            images.add(image_id, number, start, length)
            records.append(Record(image_id, captions, sample.place, wrong, others))
    return records, images


def _members(path: Path) -> Iterator[tuple[str, str, int, int | bytes]]:
    """Key, ending, first byte, and of a picture its length, of a text its content."""
    with _opened(path) as tar:
        for member in tar:
            key, ending, is_picture = _named(member)
            if is_picture:
                yield key, ending, member.offset_data, member.size
            elif ending in ("txt", "json"):
                file = tar.extractfile(member)
                yield key, ending, member.offset_data, file.read() if file else b""


def _named(member: tarfile.TarInfo) -> tuple[str, str, bool]:
    """Key and ending of a member, and whether it is a picture; empty ones if it is of no sample."""
    match = _MEMBER.fullmatch(member.name.removeprefix("./"))
    if match is None or not member.isreg() or member.issparse():
        return "", "", False
    key, ending = match[1], match[2].lower()
    return key, ending, "." + ending.rpartition(".")[2] in EXTENSIONS


def stream_tar(
    file: IO[bytes],
    place: str,
    kinds: Sequence[str] | None = None,
    problems: list[Problem] | None = None,
) -> Iterator[tuple[Record, bytes] | Problem]:
    """Read a tar from its beginning to its end, sample by sample.

    Members of one sample lie side by side, as the format has it.

    Args:
        file: The tar, uncompressed; at its beginning, and can be read from any byte.
        place: Where it lies, for errors.
        kinds: As for :func:`read_tars`, which reads whole records then.
        problems: A list to be told of texts that are not UTF-8.

    Yields:
        Records, whose id is the key, with their pictures; and in their turn samples that are none.

    Raises:
        DataError: If the tar is damaged or compressed, where it is; what is before was given.
    """
    sample, contents = _Sample("", place), dict[str, bytes]()
    with (
        _told_of(place, lambda: _starts_as_gzip(file)),
        tarfile.open(fileobj=file, mode="r:") as tar,
    ):
        for member in tar:
            key, ending, is_picture = _named(member)
            if not (is_picture or ending in ("txt", "json")):
                continue
            if key != sample.key:
                if sample.key:
                    yield _whole(sample, contents, kinds, problems)
                sample, contents = _Sample(key, place), {}
            opened = tar.extractfile(member)
            data = opened.read() if opened else b""
            if len(data) < member.size:
                raise tarfile.ReadError("unexpected end of data")
            if is_picture:
                sample.pictures[ending], contents[ending] = (0, 0), data
            else:
                sample.texts[ending] = data
            vars(tar)["members"] = []  # all of them would be kept
        if sample.key:
            yield _whole(sample, contents, kinds, problems)
        file.seek(tar.offset)
        _check_block(file.read(_BLOCK), tar.offset)


def _whole(
    sample: _Sample,
    contents: Mapping[str, bytes],
    kinds: Sequence[str] | None,
    problems: list[Problem] | None,
) -> tuple[Record, bytes] | Problem:
    """Put together what a sample says and its picture; or tell why there is none."""
    bad: list[Problem] = []
    whole: list[tuple[Record, bytes]] = []
    with entry(bad, sample.place):
        data = contents[_picture(sample)]
        captions, found = _captions(sample, kinds, problems, whole=True)
        others = without(found, *captions)
        captions = {kind if kinds else "": texts for kind, texts in captions.items()}
        whole.append((Record(sample.key, captions, sample.place, (), others), data))
    return whole[0] if whole else bad[0]


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    with _told_of(path, lambda: _is_gzip(path)), tarfile.open(path, "r:") as tar:
        yield tar
        with path.open("rb") as file:
            file.seek(tar.offset)
            _check_block(file.read(_BLOCK), tar.offset)


@contextmanager
def _told_of(path: Path | str, is_gzip: Callable[[], bool]) -> Iterator[None]:
    """Tell of a tar that cannot be read in our own words."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, DataError):
            raise
        what, remedy = str(error), "Download or write it again"
        if is_gzip():
            what = "one compressed by gzip, where a picture can't be read from its place"
            remedy = "Run gunzip on it"
        raise DataError(
            f"expected a tar that can be read at {path}, got: {what}. {remedy}."
        ) from error


def _is_gzip(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _starts_as_gzip(file: IO[bytes]) -> bool:
    try:
        file.seek(0)
        return file.read(2) == b"\x1f\x8b"
    except (OSError, ValueError):
        return False


def _check_block(block: bytes, at: int) -> None:
    """Refuse a tar that stops where another member could begin: tarfile takes that for its end."""
    if block != bytes(_BLOCK):
        raise tarfile.ReadError(f"{'other bytes' if block else 'no end mark'} at byte {at:,}")


def _picture(sample: _Sample) -> str:
    """The ending of a sample's picture."""
    # "jpg" is the picture; "mask.png" is one beside it
    plain = [ending for ending in sample.pictures if "." not in ending] or list(sample.pictures)
    if len(plain) != 1:
        there = ", ".join(f".{ending}" for ending in (*plain, *sample.texts))
        raise DataError(
            f"expected one picture in {sample.place}, got {len(plain) or 'none'} "
            f"({there}). Write the tar again, a picture a sample."
        )
    return plain[0]


def _captions(
    sample: _Sample, kinds: Sequence[str] | None, problems: list[Problem] | None, *, whole: bool
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Captions by field, that of the .txt an empty one, and all fields."""
    texts = {
        ending: decode_lines(data, f"{sample.place}, .{ending}", Path(sample.tar), problems)
        for ending, data in sample.texts.items()
    }
    where = f"{sample.place}, .json"
    found = json_object("\n".join(texts["json"]), where) if "json" in texts else {}
    if kinds is None:
        if "txt" in texts:
            return {"": [line.strip() for line in texts["txt"] if line.strip()]}, found
        name = next(iter(find_columns(CAPTION_COLUMNS, found)), None)
        return {name or "": texts_of(name, found[name], where) if name else []}, found
    absent = [kind for kind in kinds if kind not in found]
    if absent and not whole:
        raise DataError(
            f"expected the field {absent[0]} in {where}, got none. "
            f"The fields there are: {', '.join(found) or 'none'}."
        )
    return {kind: texts_of(kind, found.get(kind), where) for kind in kinds}, found
