"""Pictures with all that a data set says of them, to be searched among rather than learnt from."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clip_text.data.captions import Record
from clip_text.data.collection import Problem, Text, refuse
from clip_text.data.picture_files import PictureFiles
from clip_text.data.rows import RowImages
from clip_text.images import ImageSource

__all__ = ["Described", "PictureSet", "described_records", "described_texts", "what_is_said"]


@dataclass(slots=True)
class Described:
    """One picture, and what is said of it.

    Args:
        image_id: The data set's own id: a file name, a key, or the number that it gives.
        captions: Texts by kind; the usual kind is an empty one. Blank texts are left out.
        others: What else is said, by field.
    """

    image_id: str
    captions: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def add(self, captions: Mapping[str, Iterable[str]], others: Mapping[str, Any]) -> None:
        """Take up what another place says; what was said before stays."""
        for kind, texts in captions.items():
            worded = (text for text in texts if text.strip())
            self.captions[kind] = list(dict.fromkeys([*self.captions.get(kind, ()), *worded]))
        self.others = {**others, **self.others}


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Pictures, each read when it is asked for, with all that is said of them.

    Args:
        name: Where they lie, the same for every way to write it, with the split if there is one.
        pictures: In the order of the data set, with ids that differ.
        images: Folder that the ids are file names in; or the pictures by id.
        problems: What is wrong with the data set; all else was read.
    """

    name: str
    pictures: list[Described]
    images: Path | Mapping[str, ImageSource]
    problems: list[Problem]

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[tuple[Described, Path | Callable[[], ImageSource]]]:
        """Go through the pictures: what is said of each, and its file, or what gives its content.

        That may be called from any thread, soon after: of a table, a few are held until then.
        """
        if isinstance(self.images, Path):
            for one in self.pictures:
                yield one, self.images / one.image_id
        elif isinstance(self.images, RowImages):
            by_id = {one.image_id: one for one in self.pictures}
            for image_id, load in self.images.in_order():
                yield by_id[image_id], load
        else:
            for one in self.pictures:
                yield one, partial(self.images.__getitem__, one.image_id)


def described_records(
    records: Iterable[Record], images: Path | Mapping[str, ImageSource]
) -> list[Described]:
    """Put together what records say of the same picture.

    Args:
        records: In the order of the data set; whole ones.
        images: Folder of the pictures, whose files they are called after; or pictures by id.
    """
    files = PictureFiles(images) if isinstance(images, Path) else None
    by_id: dict[str, Described] = {}
    for record in records:
        found = files.find(record.image) if files else None
        image_id = found or record.image
        one = by_id.setdefault(image_id, Described(image_id))
        one.add(record.captions, record.others or {})
    return list(by_id.values())


def described_texts(
    images: Mapping[str, ImageSource], texts: Iterable[Text], source: str, problems: list[Problem]
) -> list[Described]:
    """Give each picture the texts that describe it.

    Args:
        images: Pictures by id.
        texts: What describes them.
        source: Where they lie.
        problems: Is told of texts whose picture is not there.
    """
    by_id = {image_id: Described(image_id) for image_id in images}
    lost = []
    for text in texts:
        for image_id in text.image_ids:
            if image_id in by_id:
                by_id[image_id].add({text.kind: [text.text]}, {})
            else:
                lost.append(f"{text.text_id}: image {image_id}")
    expected, kind = "texts of pictures that are there", "texts_without_picture"
    refuse(source, expected, lost, "Add the pictures or drop", kind=kind, problems=problems)
    return list(by_id.values())


def what_is_said(said: Described) -> tuple[str | None, dict[str, Any]]:
    """Give a picture's caption and metadata, as folders' annotations keep them.

    The first caption of all is the caption. Where a kind has several, or another kind is the
    first, all of its captions are kept in the metadata under its name.
    """
    metadata = dict(said.others)
    caption: str | None = None
    for kind, texts in said.captions.items():
        is_first = caption is None
        if is_first and texts:
            caption = texts[0]
        if texts[1:] or (texts and not is_first):
            metadata[kind or "caption"] = texts
    return caption, metadata
