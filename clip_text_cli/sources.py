"""What lies at a path, as items to index: the pictures of a data set, or finished features."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from clip_text.names import DataFormat

if TYPE_CHECKING:  # what reads data sets is imported where there is one: folders need not wait
    from clip_text.data.described import Described, PictureSet
    from clip_text.data.finished import FinishedSet
    from clip_text.images import ImageSource
    from retrieval.ingest import IngestReport, Item, Unreadable
    from retrieval.protocols import Encoder
    from retrieval.stores import Location

FormatName = Literal["pictures", DataFormat]
"""Of data sets, or a plain folder of pictures."""

NPY = ".npy"
_ENDINGS = (NPY, ".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".txt", ".parquet", ".tar")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line says of what is to be indexed; its options have the same names."""

    source: str
    format: FormatName | None = None
    split: str | None = None
    kinds: list[str] | None = None
    images: Path | None = None
    image_field: str | None = None
    prefix: str = ""
    ids: Path | None = None
    metadata: Path | None = None
    feature_field: str | None = None
    id_field: str | None = None

    def check_unused(self, what: str, *names: str) -> None:
        """Refuse options that have no use here.

        Raises:
            typer.BadParameter: If one of them was given.
        """
        given = [name for name in names if getattr(self, name)]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise typer.BadParameter(
                f"expected no {option} for {self.source}, {what}, which has no use for it. "
                "Leave it out."
            )


_OF_DATA = ("split", "kinds", "images", "image_field")
_OF_NPY = ("ids", "metadata")
_OF_FEATURES = ("feature_field", "id_field")


def is_folder(asked: Asked, index_dir: "Location") -> bool:
    """Say whether a folder is to be gone through for pictures: one that has or had some.

    A folder without any may hold a data set. Where there is nothing, a folder may have been.

    Args:
        asked: What is to be indexed.
        index_dir: Where the index is; its folder may lie within.

    Raises:
        typer.BadParameter: If an option was given that is of data sets alone.
    """
    telling = (*_OF_DATA, *_OF_NPY, *_OF_FEATURES)
    if asked.format == "pictures":
        asked.check_unused("a folder of pictures", *telling, "prefix")
        return True
    path = Path(asked.source)
    if asked.format or any(getattr(asked, name) for name in telling):
        return False
    if not path.is_dir():
        return not path.exists() and not _is_named_like_data(asked.source)
    if _has_pictures(path, index_dir):
        asked.check_unused("a folder of pictures", "prefix")
        return True
    from clip_text.data.formats import holds_data_set

    return not holds_data_set(path)


def _has_pictures(folder: Path, index_dir: "Location") -> bool:
    """Say whether a folder has pictures, in any depth, or the index some of it."""
    from retrieval.catalogue import Catalogue
    from retrieval.errors import IndexNotFoundError, RetrievalError
    from retrieval.ingest.walk import Walk
    from retrieval.stores import StoreAddress, connect

    root = os.fsencode(os.path.realpath(folder))
    excluded = None if isinstance(index_dir, StoreAddress) else index_dir
    if next(iter(Walk(root, excluded=excluded)), None):
        return True
    if isinstance(index_dir, StoreAddress):
        with suppress(IndexNotFoundError), connect(index_dir) as store:
            return store.count_under(root) > 0
        return False
    with suppress(RetrievalError), Catalogue.open(index_dir) as catalogue:
        return catalogue.count_under(root) > 0
    return False


def _is_named_like_data(source: str) -> bool:
    from clip_text.data.hub import SCHEME
    from clip_text.data.shards import is_pattern, is_url

    beginnings = (SCHEME, "hf:/", "http:/", "https:/")
    is_address = source.startswith(beginnings) or is_url(source) or is_pattern(source)
    return is_address or source.lower().endswith(_ENDINGS)


@dataclass(frozen=True, slots=True)
class DataSet:
    """Items to index.

    Args:
        name: Of the data set; says in every run which items are its own.
        total: How many items there are.
        items: Gives them.
        notes: Says, after they were gone through, what is worth knowing.
        width: Of finished features; None where the model makes them.
    """

    name: str
    total: int
    items: "Callable[[], Iterator[Item | Unreadable]]"
    notes: Callable[[], list[str]]
    width: int | None = None

    def index(self, index_dir: "Location", encoder: "Encoder", **options: Any) -> "IngestReport":  # noqa: ANN401
        """Bring an index to its present state.

        Args:
            index_dir: Where the index is.
            encoder: The model.
            options: As :func:`retrieval.ingest.index_items` has them.

        Raises:
            typer.BadParameter: If finished features are of another width than the model's.
        """
        from retrieval.ingest import index_items

        if self.width not in (None, encoder.embed_dim):
            raise typer.BadParameter(
                f"expected features of width {encoder.embed_dim}, as the model or index has it, "
                f"got {self.width} in {self.name}. Name the model that made them: --model."
            )
        report = index_items(
            self.items(), index_dir, encoder, source=self.name, total=self.total, **options
        )
        report.notes += self.notes()
        return report


def read(asked: Asked) -> DataSet:
    """Read what a data set says of its pictures, which are read when their turn comes.

    Raises:
        DataError: If there is nothing known, no picture, or not that split or column.
        typer.BadParameter: If an option has no use, or the ids of a .npy are not named.
    """
    from clip_text.data.readers import read_finished, read_pictures

    if asked.source.lower().endswith(NPY):
        return _features(_read_npy(asked), asked.prefix)
    asked.check_unused("which is no .npy", *_OF_NPY)
    options: dict[str, Any] = {"split": asked.split, "kinds": asked.kinds, "images": asked.images}
    if asked.format in (None, "parquet") and not asked.image_field:
        fields = {"feature_field": asked.feature_field, "id_field": asked.id_field}
        finished = read_finished(asked.source, wanted=asked.format, **options, **fields)
        if finished is not None:
            return _features(finished, asked.prefix)
    asked.check_unused("which has no finished features", *_OF_FEATURES)
    assert asked.format != "pictures"
    found = read_pictures(
        asked.source, image_field=asked.image_field, wanted=asked.format, **options
    )
    return _pictures(found, asked.prefix)


def _read_npy(asked: Asked) -> "FinishedSet":
    from clip_text.data.finished import read_npy

    asked.check_unused("a .npy", "format", *_OF_DATA, *_OF_FEATURES)
    if asked.ids is None:
        raise typer.BadParameter(
            f"expected --ids for {asked.source}, a text file with the id of each row, got none. "
            "Name it."
        )
    return read_npy(Path(asked.source), asked.ids, asked.metadata)


def _pictures(found: "PictureSet", prefix: str) -> DataSet:
    """The pictures of a data set, and what of it cannot be read."""
    from clip_text.data.collection import ROWS_OVER_LINES
    from retrieval.ingest import Item, Unreadable

    unreadable = [one for one in found.problems if one.kind == "unreadable_entries"]

    def items() -> "Iterator[Item | Unreadable]":
        for problem in unreadable:
            yield Unreadable(", ".join(problem.offenders), problem.message)
        for said, picture in found:
            path = picture if isinstance(picture, Path) else None
            data = None if isinstance(picture, Path) else partial(_content, picture)
            caption, metadata = what_is_said(said)
            yield Item(prefix + said.image_id, path, data, None, caption, metadata)

    def notes() -> list[str]:
        worth = (one for one in found.problems if one not in unreadable)
        return [one.message for one in worth if one.kind != ROWS_OVER_LINES]

    return DataSet(_named(found.name, prefix), len(found) + len(unreadable), items, notes)


def _content(load: "Callable[[], ImageSource]") -> bytes:
    from clip_text.errors import DataError

    try:
        content = load()
    except DataError as error:  # of the data set, not of this picture: it may be there again
        raise OSError(str(error)) from error
    if isinstance(content, bytes):
        return content
    assert isinstance(content, str | os.PathLike)
    return Path(content).read_bytes()


def _features(found: "FinishedSet", prefix: str) -> DataSet:
    """Finished features, and rows that are none."""
    from retrieval.ingest import Item, Unreadable

    def items() -> "Iterator[Item | Unreadable]":
        for said, place, feature, reason, picture in found:
            image_id = prefix + said.image_id
            if feature is None:
                yield Unreadable(f"{image_id} ({place})", reason)
                continue
            caption, metadata = what_is_said(said)
            yield Item(image_id, picture, None, feature, caption, metadata)

    def notes() -> list[str]:
        if not found.stretched:
            return []
        return [
            f"{found.stretched} of {len(found)} rows of {found.name} were not of unit length, and "
            "were set to it."
        ]

    return DataSet(_named(found.name, prefix), len(found), items, notes, found.width)


def _named(name: str, prefix: str) -> str:
    return f"{name} as {prefix}" if prefix else name


def what_is_said(said: "Described") -> tuple[str | None, dict[str, Any]]:
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
