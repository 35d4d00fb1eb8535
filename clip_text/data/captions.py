"""Readers of pictures that lie in files, with captions beside them: jsonl, csv, sidecar texts.

Each gives :class:`Record` after record; :func:`captioned_set` makes a retrieval set of them.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_text.data.collection import RetrievalSet, Text, refuse, retrieval_set
from clip_text.errors import DataError
from clip_text.images import EXTENSIONS

IMAGE_COLUMNS = ("image", "file_name", "filename", "filepath", "path")
"""Where the picture's file name is looked for in a table; the last but one is open_clip's."""

CAPTION_COLUMNS = ("caption", "text", "title", "zh")
"""Where captions are looked for in a table that is read without ``kinds``."""

TAGS = "tags"
"""The kind of which a text describes many pictures: a tag is one query, however often given."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one place of a file says of one picture.

    Args:
        image: File name, relative to the folder of pictures; the picture's id.
        captions: Texts by kind; none at all is for :func:`captioned_set` to judge.
        where: For errors: ``"line 3"``, or a file name.
    """

    image: str
    captions: Mapping[str, Sequence[str]]
    where: str


def utf8_lines(path: Path, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """Number and text of each line, from 1; a byte order mark is passed over.

    Raises:
        DataError: If a line is no UTF-8; it names the line, which the decoder's own error cannot.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.encode("utf-8")
            except UnicodeEncodeError:
                raise DataError(
                    f"expected UTF-8 in {path}, line {number}, got other bytes. Convert the file."
                ) from None
            yield number, line


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (``"line 3"``) and object of each line that is not blank.

    Raises:
        DataError: If a line is no JSON object.
    """
    for number, line in utf8_lines(path):
        if line.strip():
            try:
                entry: Any = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"expected a JSON object in {path}, line {number}, got {error}. Mend the line."
                ) from None
            if not isinstance(entry, dict):
                raise DataError(
                    f"expected a JSON object in {path}, line {number}, "
                    f"got {type(entry).__name__}. Mend the line."
                )
            yield f"line {number}", entry


@dataclass(frozen=True, slots=True)
class Captioned:
    """One picture with its captions.

    Args:
        image: File name, relative to the folder of pictures; also the picture's id.
        captions: Texts by kind, for example ``{"zh": [...], "en": [...]}``.
    """

    image: str
    captions: dict[str, list[str]]


def read_captions(path: Path, kinds: Sequence[str], image_field: str = "image") -> list[Captioned]:
    """Read a jsonl file: one object a line, with a picture's file name and lists of captions.

    Args:
        path: The file, UTF-8.
        kinds: Fields that hold captions, each a string or a list of strings.
        image_field: Field that holds the file name.

    Raises:
        DataError: If a line is no JSON object, a field is missing or of the wrong type, or the
            file has no line at all.
        OSError: If the file cannot be read.
    """
    records = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                records.append(_captioned(line, kinds, image_field, f"{path}, line {number}"))
    if not records:
        raise DataError(f"expected captions in {path}, got an empty file. Check the path.")
    return records


def _captioned(line: str, kinds: Sequence[str], image_field: str, where: str) -> Captioned:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"expected a JSON object in {where}, got {error}. Mend the line.") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise DataError(f"expected a JSON object in {where}, got {kind}. Mend the line.")
    captions: dict[str, list[str]] = {}
    for field in (image_field, *kinds):
        value = record.get(field)
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"expected text or a list of texts in field {field!r} of {where}, got {value!r}. "
                f"The fields there are: {', '.join(record)}."
            )
        captions[field] = texts
    image = captions.pop(image_field)
    if len(image) != 1:
        raise DataError(f"expected one file name in {image_field!r} of {where}, got {len(image)}.")
    return Captioned(image[0], captions)


def jsonl_records(path: Path, kinds: Sequence[str], image_field: str) -> list[Record]:
    """Read the project's own format, by :func:`read_captions`."""
    places = [place for place, _ in json_objects(path)]
    found = read_captions(path, kinds, image_field)
    return [
        Record(one.image, one.captions, place) for one, place in zip(found, places, strict=True)
    ]


def gallery_records(path: Path, kinds: Sequence[str]) -> list[Record]:
    """Read a ``metadata.jsonl`` in the gallery's form.

    Args:
        path: An object a line: ``file_name``; ``caption`` or ``text``; ``names``, a text by
            language; ``tags``, a list. All but the first may be missing in a line.
        kinds: ``"caption"``, ``"tags"``, or languages of ``names``.

    Raises:
        DataError: If a line is not of this form, or none has a text of one of the kinds.
    """
    records, there = [], Counter[str]()
    for place, entry in json_objects(path):
        where = f"{path}, {place}"
        names = entry.get("names") or {}
        if not isinstance(names, dict):
            raise _wrong_field("names", "texts by language", where, names)
        caption = entry["caption"] if "caption" in entry else entry.get("text")
        fields = {**names, "caption": caption, TAGS: entry.get(TAGS)}
        texts = {kind: _texts(kind, value, where) for kind, value in fields.items()}
        there.update(kind for kind, given in texts.items() if given)
        image = entry.get("file_name")
        if not isinstance(image, str) or not image:
            raise _wrong_field("file_name", "a path", where, image)
        chosen = {kind: texts.get(kind, []) for kind in kinds}
        records.append(Record(image, chosen, place))
    absent = [kind for kind in kinds if not there[kind]]
    if absent:
        raise DataError(
            f"expected texts of the kinds {', '.join(kinds)} in {path}, got none of "
            f"{', '.join(absent)}. There are: {', '.join(there) or 'none'}."
        )
    return records


def _texts(field: str, value: object, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _wrong_field(field, "text or a list of texts", where, value)
    return texts


def _wrong_field(field: str, expected: str, where: str, value: object) -> DataError:
    return DataError(
        f"expected {expected} in field {field!r} of {where}, got {value!r}. Mend the line."
    )


def table_records(
    path: Path, kinds: Sequence[str] | None, image_field: str | None
) -> Iterator[Record]:
    """Read a csv or tsv file with a header, quoted as Python's csv module and pandas do it.

    Args:
        path: One row for each caption; a picture may have several, one after the other or not.
        kinds: Columns that hold captions; the first there is of :data:`CAPTION_COLUMNS` if not
            given. Of several columns some may be empty in a row.
        image_field: Column of the file name; one of :data:`IMAGE_COLUMNS` if not given.

    Raises:
        DataError: If the header lacks a column or has one twice, a row has another number of
            fields or no file name, or quotes don't match.
    """
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    rows = csv.reader((line for _, line in utf8_lines(path, newline="")), dialect, strict=True)
    try:
        header = [column.strip() for column in next(rows, [])]
        image_at = _column(path, header, (image_field,) if image_field else IMAGE_COLUMNS)
        columns = (
            {kind: _column(path, header, (kind,)) for kind in kinds}
            if kinds
            else {"": _column(path, header, CAPTION_COLUMNS)}
        )
        start = rows.line_num + 1
        for row in rows:
            place, start = f"line {start}", rows.line_num + 1
            if row:
                _check_row(path, place, row, header, image_at)
                captions = {kind: [row[at]] for kind, at in columns.items() if row[at].strip()}
                # a row of nothing but blanks is told as a caption without words
                captions = captions or {kind: [""] for kind in columns}
                yield Record(row[image_at].strip(), captions, place)
    except csv.Error as error:
        raise DataError(
            f"expected a table in {path}, got a broken line {rows.line_num}: {error}. Mend it."
        ) from None


def _column(path: Path, header: Sequence[str], names: Sequence[str]) -> int:
    found = [name for name in names if name in header]
    if not found or header.count(found[0]) > 1:
        number = f"{header.count(found[0])} of that name" if found else "none"
        raise DataError(
            f"expected one column {' or '.join(names)} in the header of {path}, got {number}. "
            f"The columns there are: {', '.join(header) or 'none'}."
        )
    return header.index(found[0])


def _check_row(
    path: Path, place: str, row: Sequence[str], header: Sequence[str], image_at: int
) -> None:
    if len(row) != len(header):
        raise DataError(
            f"expected {len(header)} fields in {path}, {place}, as in the header, "
            f"got {len(row)}. Quote what holds the separator."
        )
    if not row[image_at].strip():
        raise DataError(
            f"expected a file name in column {header[image_at]!r} of {path}, {place}, got none. "
            "Mend the line."
        )


def sidecar_records(folder: Path, pictures: Path) -> list[Record]:
    """Read a folder of pictures with a ``.txt`` of the same name beside each, in any depth.

    Args:
        folder: Where the texts are, a caption a line; blank lines don't count.
        pictures: Where the pictures are; ``folder`` as a rule.

    Raises:
        DataError: If a text has no picture, or two pictures share one.
    """
    images: dict[str, list[str]] = {}
    for path in sorted(pictures.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            image = path.relative_to(pictures)
            images.setdefault(image.with_suffix("").as_posix(), []).append(image.as_posix())
    shared = [" and ".join(same) for same in images.values() if len(same) > 1]
    refuse(str(pictures), "pictures with a name of their own for the .txt", shared, "Rename")
    texts = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.txt"))
    }
    orphans = [f"{stem}.txt" for stem in texts if stem not in images]
    refuse(str(folder), "a picture for every .txt", orphans, "Add the pictures or drop")
    return [
        Record(image, {"": _sidecar(texts.get(stem))}, f"{stem}.txt")
        for stem, (image,) in images.items()
    ]


def _sidecar(path: Path | None) -> list[str]:
    if path is None:
        return []
    return [line.strip() for _, line in utf8_lines(path) if line.strip()]


def captioned_set(
    name: str,
    source: Path,
    pictures: Path,
    records: Iterable[Record],
    *,
    allow_distractors: bool = False,
) -> RetrievalSet:
    """Put records together: what they say of the same picture counts together.

    Args:
        name: Of the data set.
        source: The file or folder the records come from, for errors.
        pictures: Folder their file names are relative to.
        records: In the order of the data set.
        allow_distractors: Accept pictures without a caption.

    Returns:
        Texts with ids like ``a.jpg#zh-0``, ``a.jpg#0`` where there are no kinds, and
        ``#tags-狗`` for a tag, which describes every picture that has it.

    Raises:
        DataError: If captions have no words, or picture files are missing; with counts and the
            first few. And as :func:`retrieval_set` says.
    """
    records = list(records)
    blank = [
        record.where
        for record in records
        if not all(text.strip() for texts in record.captions.values() for text in texts)
    ]
    refuse(str(source), "captions with words", blank, "Mend")
    paths = {record.image: pictures / record.image for record in records}
    missing = [image for image, path in paths.items() if not _is_file(path)]
    refuse(str(source), f"picture files below {pictures}", missing, "Add the pictures or drop")
    texts = _number(records)
    described = {image for text in texts for image in text.image_ids}
    if not allow_distractors:
        mute = [f"{r.image} ({r.where})" for r in records if r.image not in described]
        refuse(str(source), "a caption for every picture", mute, "Caption or drop")
    return retrieval_set(name, paths, texts, allow_distractors=allow_distractors)


def _number(records: Iterable[Record]) -> list[Text]:
    texts: dict[str, Text] = {}
    used: Counter[str] = Counter()
    for record in records:
        for kind, captions in record.captions.items():
            prefix = f"{record.image}#{kind}-" if kind else f"{record.image}#"
            for caption in captions:
                if kind == TAGS:
                    text_id = f"#{TAGS}-{caption}"
                    before = texts[text_id].image_ids if text_id in texts else ()
                else:
                    text_id, before = f"{prefix}{used[prefix]}", ()
                    used[prefix] += 1
                images = tuple(dict.fromkeys([*before, record.image]))
                texts[text_id] = Text(text_id, caption, images, kind)
    return list(texts.values())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a caption in the place of a file name is too long for one
        return False
