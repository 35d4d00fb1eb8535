"""Readers of pictures that lie in files, with captions beside them: jsonl and sidecar texts.

Each gives :class:`Record` after record; :func:`captioned_set` makes a retrieval set of them.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clip_text.data.collection import (
    Problem,
    RetrievalSet,
    Text,
    entry,
    first_error,
    refuse,
    retrieval_set,
)
from clip_text.data.picture_files import PictureFiles
from clip_text.data.tables import find_columns
from clip_text.data.text_files import json_objects, say_encodings, text_lines
from clip_text.errors import DataError
from clip_text.images import ImageSource, is_read

IMAGE_COLUMNS = (
    *("image", "file_name", "filename", "filepath", "path"),
    *("图片", "图像", "文件名", "图片名", "图片名称", "图片路径", "文件路径"),
)
"""Where the picture's file name is looked for, in any case; ``filepath`` is open_clip's."""

CAPTION_COLUMNS = (
    *("caption", "captions", "text", "texts", "title", "zh"),
    *("描述", "图片描述", "标题", "文本", "说明", "标签", "类别"),
)
"""Where captions are looked for without ``kinds``, in any case. The last are labels of pictures."""

NEGATIVES = "negatives"
"""The field of captions that look right for a picture and are wrong."""

TAGS = "tags"
"""The kind of which a text describes many pictures: a tag is one query, however often given."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one place of a file says of one picture.

    Args:
        image: The picture's id; where pictures are files, the name relative to their folder.
        captions: Texts by kind; none at all is for :func:`captioned_set` to judge.
        where: For errors: ``"line 3"``, or a file name.
        negatives: Captions that look right for the picture and are wrong.
        others: What else stands there, by field; where a whole record was asked for.
    """

    image: str
    captions: Mapping[str, Sequence[str]]
    where: str
    negatives: Sequence[str] = ()
    others: Mapping[str, Any] | None = None


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
        path: The file.
        kinds: Fields that hold captions, each a string or a list of strings.
        image_field: Field that holds the file name.

    Raises:
        DataError: If a line is no JSON object, a field is missing or of the wrong type, or the
            file has no line at all.
        OSError: If the file cannot be read.
    """
    records = [
        _captioned(found, kinds, image_field, f"{path}, {place}")
        for place, found in json_objects(path)
    ]
    if not records:
        raise _empty(path)
    return records


def _empty(path: Path) -> DataError:
    return DataError(f"expected captions in {path}, got an empty file. Check the path.")


def _captioned(
    record: Mapping[str, Any], kinds: Sequence[str], image_field: str, where: str
) -> Captioned:
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


def jsonl_records(
    path: Path,
    kinds: Sequence[str] | None,
    image_field: str | None,
    problems: list[Problem] | None = None,
    *,
    whole: bool = False,
) -> list[Record]:
    """Read the project's own format, as :func:`read_captions` does, and ``negatives``.

    Args:
        path: The file.
        kinds: Fields of captions; if not given, ``zh`` or the first of :data:`CAPTION_COLUMNS`
            that the first line has.
        image_field: Field of the file name; if not given, the first of :data:`IMAGE_COLUMNS` that
            the first line has.
        problems: A list to be told of bad lines, instead of an error at the first of them.
        whole: Read the other fields, too, and lines without a caption.
    """
    records = []
    for place, found in json_objects(path, problems):
        kinds = kinds or [_first_of(("zh", *CAPTION_COLUMNS), found)]
        image_field = image_field or _first_of(IMAGE_COLUMNS, found)
        where = f"{path}, {place}"
        with entry(problems, place):
            named = found
            if whole:
                named = found | {kind: texts_of(kind, found.get(kind), where) for kind in kinds}
            one = _captioned(named, kinds, image_field, where)
            wrong = texts_of(NEGATIVES, found.get(NEGATIVES), where)
            others = without(found, image_field, *kinds) if whole else None
            records.append(Record(one.image, one.captions, place, wrong, others))
    if not records and not first_error(problems):
        raise _empty(path)
    return records


def without(found: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    """Leave out some fields, and the negatives, which are said of no picture."""
    return {name: value for name, value in found.items() if name not in (*fields, NEGATIVES)}


def _first_of(names: Sequence[str], there: Mapping[str, Any]) -> str:
    return next(iter(find_columns(names, there)), names[0])


def gallery_records(
    path: Path,
    kinds: Sequence[str],
    problems: list[Problem] | None = None,
    *,
    whole: bool = False,
) -> list[Record]:
    """Read a ``metadata.jsonl`` in the gallery's form.

    Args:
        path: An object a line: ``file_name``; ``caption`` or ``text``; ``names``, a text by
            language; ``tags``, a list. All but the first may be missing in a line.
        kinds: ``"caption"``, ``"tags"``, or languages of ``names``.
        problems: A list to be told of bad lines, instead of an error at the first of them.
        whole: Read the other fields, too, and files without captions.

    Raises:
        DataError: If a line is not of this form, or none has a text of one of the kinds.
    """
    records, there = [], Counter[str]()
    for place, found in json_objects(path, problems):
        with entry(problems, place):
            record, given = _gallery_record(found, kinds, path, place)
            if whole:
                told = ("file_name", "caption" if "caption" in found else "text")
                record = replace(record, others=without(found, *told))
            records.append(record)
            there.update(given)
    absent = [kind for kind in kinds if not there[kind] and not whole]
    if absent:
        raise DataError(
            f"expected texts of the kinds {', '.join(kinds)} in {path}, got none of "
            f"{', '.join(absent)}. There are: {', '.join(there) or 'none'}."
        )
    return records


def _gallery_record(
    found: Mapping[str, Any], kinds: Sequence[str], path: Path, place: str
) -> tuple[Record, list[str]]:
    """One line's record, and the kinds of which the line has a text."""
    where = f"{path}, {place}"
    names = found.get("names") or {}
    if not isinstance(names, dict):
        raise _wrong_field("names", "texts by language", where, names)
    caption = found["caption"] if "caption" in found else found.get("text")
    fields = {**names, "caption": caption, TAGS: found.get(TAGS)}
    texts = {kind: texts_of(kind, value, where) for kind, value in fields.items()}
    image = found.get("file_name")
    if not isinstance(image, str) or not image:
        raise _wrong_field("file_name", "a path", where, image)
    chosen = {kind: texts.get(kind, []) for kind in kinds}
    wrong = texts_of(NEGATIVES, found.get(NEGATIVES), where)
    return Record(image, chosen, place, wrong), [kind for kind, given in texts.items() if given]


def texts_of(field: str, value: object, where: str) -> list[str]:
    """Read a field that holds a text, a list of texts, or nothing.

    Raises:
        DataError: If it holds something else; it names ``where``.
    """
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _wrong_field(field, "text or a list of texts", where, value)
    return texts


def _wrong_field(field: str, expected: str, where: str, value: object) -> DataError:
    return DataError(
        f"expected {expected} in field {field!r} of {where}, got {value!r}. Mend the line."
    )


def sidecar_records(
    folder: Path, pictures: Path, problems: list[Problem] | None = None
) -> list[Record]:
    """Read a folder of pictures with a ``.txt`` of the same name beside each, in any depth.

    Args:
        folder: Where the texts are, a caption a line; blank lines don't count.
        pictures: Where the pictures are; ``folder`` as a rule.
        problems: A list to be told of them, instead of the error.

    Raises:
        DataError: If a text has no picture, or two pictures share one.
    """
    images: dict[str, list[str]] = {}
    for path in sorted(pictures.rglob("*")):
        if is_read(path) and path.is_file():
            image = path.relative_to(pictures)
            images.setdefault(image.with_suffix("").as_posix(), []).append(image.as_posix())
    shared = [" and ".join(same) for same in images.values() if len(same) > 1]
    expected = "pictures with a name of their own for the .txt"
    refuse(
        str(pictures), expected, shared, "Rename", kind="pictures_of_one_text", problems=problems
    )
    texts = {
        _stem_of(path.relative_to(folder), images): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() == ".txt"
    }
    orphans = [f"{stem}.txt" for stem in texts if stem not in images]
    remedy = "Add the pictures or drop"
    kind = "texts_without_picture"
    refuse(str(folder), "a picture for every .txt", orphans, remedy, kind=kind, problems=problems)
    encodings: dict[Path, str] = {}
    records = [
        Record(image, {"": _sidecar(texts.get(stem), problems, encodings)}, f"{stem}.txt")
        for stem, same in images.items()
        for image in same
    ]
    say_encodings(folder, encodings, problems)
    return records


def _stem_of(text: Path, images: Mapping[str, object]) -> str:
    """The picture's stem that a text has, in whichever Unicode form, or its own."""
    stem = text.with_suffix("").as_posix()
    forms = (stem, *(unicodedata.normalize(form, stem) for form in ("NFC", "NFD")))
    return next((form for form in forms if form in images), stem)


def _sidecar(
    path: Path | None, problems: list[Problem] | None, encodings: dict[Path, str]
) -> list[str]:
    if path is None:
        return []
    lines = text_lines(path, problems=problems, encodings=encodings)
    return [line.strip() for _, line in lines if line.strip()]


def captioned_set(
    name: str,
    source: str | Path,
    pictures: Path | Mapping[str, ImageSource],
    records: Iterable[Record],
    *,
    allow_distractors: bool = False,
    problems: list[Problem] | None = None,
) -> RetrievalSet:
    """Put records together: what they say of the same picture counts together.

    Args:
        name: Name of the data set.
        source: The file or folder the records come from, for errors.
        pictures: Folder their file names are relative to; or pictures by id, loaded lazily.
        records: In the order of the data set.
        allow_distractors: Accept pictures without a caption.
        problems: A list to be told what is wrong instead of an error. Captions without words and
            pictures that are missing then stay in the set: :mod:`clip_text.data.check` finds them.

    Returns:
        Texts with ids like ``a.jpg#zh-0``, ``a.jpg#0`` where there are no kinds, and
        ``#tags-狗`` for a tag, which describes every picture that has it.

    Raises:
        DataError: If captions have no words, or picture files are missing; with counts and the
            first few. And as :func:`retrieval_set` says.
    """
    records = list(records)
    missing: list[str] = []
    paths: Mapping[str, ImageSource]
    if isinstance(pictures, Path):
        records, missing = _located(records, pictures)
        paths = {record.image: pictures / record.image for record in records}
    else:
        paths = pictures
    if problems is None:
        blank = [
            record.where
            for record in records
            if not all(text.strip() for texts in record.captions.values() for text in texts)
        ]
        refuse(str(source), "captions with words", blank, "Mend")
        refuse(str(source), f"picture files below {pictures}", missing, "Add the pictures or drop")
    texts = _number(records)
    described = {image for text in texts for image in text.image_ids}
    if not allow_distractors:
        mute = [f"{r.image} ({r.where})" for r in records if r.image not in described]
        expected, kind = "a caption for every picture", "pictures_without_text"
        refuse(str(source), expected, mute, "Caption or drop", kind=kind, problems=problems)
    wrong: dict[str, list[str]] = {}
    for record in records:
        if record.negatives:
            wrong.setdefault(record.image, []).extend(record.negatives)
    return retrieval_set(
        name,
        paths,
        texts,
        allow_distractors=allow_distractors or problems is not None,
        negatives=wrong,
        problems=problems,
    )


def _located(records: Iterable[Record], folder: Path) -> tuple[list[Record], list[str]]:
    """Call pictures what their files are called; the records, and the names of no file."""
    files = PictureFiles(folder)
    located = [
        record if (name := files.find(record.image)) is None else replace(record, image=name)
        for record in records
    ]
    names = dict.fromkeys(record.image for record in located)
    return located, [name for name in names if files.find(name) is None]


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
