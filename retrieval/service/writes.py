"""What is asked of an index that is open for writing, done: each picture's outcome by itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from retrieval.errors import ItemError
from retrieval.ingest import UNCHANGED, IndexWriter, Item
from retrieval.ingest.items import check_id, item_picture, metadata_text
from retrieval.ingest.writer import Unchanged
from retrieval.records import Record
from retrieval.service.problems import ProblemError, shorten
from retrieval.service.uploads import Uploads

__all__ = [
    "Add",
    "Change",
    "Outcome",
    "Remove",
    "Stored",
    "Wanted",
    "Write",
    "merged",
    "perform",
    "the_one",
    "weight_of",
]

T = TypeVar("T")

_TOGETHER: Final = 64  # pictures in one transaction, and one batch of the encoder
_MOST_METADATA: Final = 65_536  # characters: each hit carries them


@dataclass(frozen=True, slots=True)
class Wanted:
    """A picture to add; one of file, path and feature at least.

    Args:
        id: The caller's own.
        file: What is in it, where it was sent.
        ending: How the name of such a file ends.
        path: Its file, where it lies on this machine.
        feature: Its finished row.
        caption: What it shows.
        metadata: Anything else.
    """

    id: str
    file: BinaryIO | None = None
    ending: str = ""
    path: Path | None = None
    feature: Sequence[float] | None = None
    caption: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Add:
    """Pictures to add, or to put in the places of those that have their ids."""

    items: tuple[Wanted, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What is said of an item, changed by a merge patch (RFC 7386); absent keys stay."""

    id: str
    patch: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remove:
    """Pictures to forget."""

    ids: tuple[str, ...]


Write = Add | Change | Remove


@dataclass(frozen=True, slots=True)
class Stored:
    """What has become of one picture that was written.

    Args:
        row: Its row.
        is_new: True if there was none under its id.
    """

    row: int
    is_new: bool = False


Outcome = Stored | Exception


def weight_of(write: Write) -> int:
    """Say how much of a batch a write is: pictures that are added take longer than all else."""
    return len(write.items) if isinstance(write, Add) else 1


def merged(target: object, patch: object) -> Any:  # noqa: ANN401  JSON is anything
    """Apply a JSON merge patch, which is changed as little as the target.

    Source:
        RFC 7386, section 2.
    """
    if not isinstance(patch, Mapping):
        return patch
    kept = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = merged(kept.get(name), value)
    return kept


def perform(
    writer: IndexWriter, uploads: Uploads | None, writes: Sequence[Write]
) -> list[list[Outcome]]:
    """Do what is asked, in its order; pictures that are added one after the other go together.

    Args:
        writer: Open.
        uploads: Keeps what is sent; nothing is kept without.
        writes: What is asked.

    Returns:
        For each, what has become of each of its pictures.
    """
    given: list[list[Outcome]] = [[] for _ in writes]
    together: list[tuple[int, Wanted]] = []

    def flush() -> None:
        outcomes = _add(writer, uploads, [wanted for _, wanted in together])
        for (place, _), outcome in zip(together, outcomes, strict=True):
            given[place].append(outcome)
        together.clear()

    for place, write in enumerate(writes):
        if isinstance(write, Add):
            for wanted in write.items:
                if len(together) >= _TOGETHER or wanted.id in {one.id for _, one in together}:
                    flush()
                together.append((place, wanted))
        else:
            flush()
            if isinstance(write, Change):
                given[place] = [_alone(partial(_change, writer, write))]
            else:
                given[place] = _remove(writer, uploads, write.ids)
    flush()
    return given


def _add(writer: IndexWriter, uploads: Uploads | None, wanted: Sequence[Wanted]) -> list[Outcome]:
    """Add pictures with different ids: all at once, or, if one of them cannot be, each alone."""
    read = [_alone(partial(_item, each, uploads)) for each in wanted]
    items = [item for item in read if isinstance(item, Item)]
    stored = _alone(partial(_store, writer, uploads, items))
    if isinstance(stored, ItemError):  # of one, which the others are not to suffer for
        alone = [_alone(partial(_store, writer, uploads, [item])) for item in items]
        stored = [one if isinstance(one, Exception) else one[0] for one in alone]
    elif isinstance(stored, Exception):
        stored = [stored] * len(items)
    _release(
        uploads, writer, [i.path for i, one in zip(items, stored, strict=True) if _failed(one)]
    )
    outcomes = iter(stored)
    return [
        _explained(next(outcomes), each) if isinstance(item, Item) else item
        for each, item in zip(wanted, read, strict=True)
    ]


def _item(wanted: Wanted, uploads: Uploads | None) -> Item:
    """Make what the writer takes; a file that was sent is on the disk by then."""
    item = Item(wanted.id, wanted.path, None, wanted.feature, wanted.caption, wanted.metadata)
    _check_size(item_picture(item).metadata)  # what is refused anyway is not kept
    if wanted.file is None:
        return item
    if uploads is None:
        wanted.file.seek(0)
        return replace(item, path=None, data=wanted.file.read())
    path = uploads.keep(wanted.file, wanted.ending)
    # beside a finished feature nobody reads the file, and its hash would stay unknown
    data = None if wanted.feature is None else path.read_bytes()
    return replace(item, path=path, data=data)


def _store(writer: IndexWriter, uploads: Uploads | None, items: Sequence[Item]) -> list[Outcome]:
    before = [writer.find(item.id) for item in items]
    rows = writer.add_many(items)
    _release(uploads, writer, [record.path for record in before if record is not None])
    return [Stored(row, record is None) for row, record in zip(rows, before, strict=True)]


def _change(writer: IndexWriter, write: Change) -> Stored:
    record = _find(writer, write.id)
    if record.picture.root is not None:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "not_an_item",
            f"expected the id of an item, got {shorten(write.id)}, a picture of an indexed folder. "
            "Change its line in metadata.jsonl, and index the folder again.",
        )
    caption: str | Unchanged | None = UNCHANGED
    metadata: Mapping[str, Any] | Unchanged = UNCHANGED
    if "caption" in write.patch:
        caption = write.patch["caption"]
    if "metadata" in write.patch:
        patch = write.patch["metadata"]
        metadata = {} if patch is None else merged(record.metadata, patch)
        _check_size(metadata_text(metadata))
    writer.update(write.id, caption=caption, metadata=metadata)
    return Stored(record.row)


def _remove(writer: IndexWriter, uploads: Uploads | None, ids: Sequence[str]) -> list[Outcome]:
    found = [_alone(partial(_find, writer, one)) for one in ids]
    there = [one for one, record in zip(ids, found, strict=True) if isinstance(record, Record)]
    failure = _alone(partial(writer.delete, there))
    if isinstance(failure, Exception):
        return [failure if isinstance(each, Record) else each for each in found]
    _release(uploads, writer, [each.path for each in found if isinstance(each, Record)])
    outcomes: list[Outcome] = []
    gone: set[int] = set()
    for image_id, each in zip(ids, found, strict=True):
        if isinstance(each, Exception):
            outcomes.append(each)
        elif each.row in gone:  # it was named twice, and is not there the second time
            outcomes.append(_not_found(image_id))
        else:
            outcomes.append(Stored(each.row))
            gone.add(each.row)
    return outcomes


def _check_size(metadata: str) -> None:
    if len(metadata) > _MOST_METADATA:
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "metadata_too_large",
            f"expected metadata of at most {_MOST_METADATA} characters of JSON, got "
            f"{len(metadata)}. Say less of each picture.",
        )


def _find(writer: IndexWriter, image_id: str) -> Record:
    return the_one(image_id, writer.find_all(check_id(image_id)))


def the_one(image_id: str, records: Sequence[Record]) -> Record:
    """Give the one picture that an id means.

    Raises:
        ProblemError: 404 or 409, if there is none, or several have it.
    """
    if not records:
        raise _not_found(image_id)
    if len(records) > 1:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "id_ambiguous",
            f"expected an id that one picture has, got {shorten(image_id)}, which several indexed "
            "folders have. Name another, or index the folders apart.",
        )
    return records[0]


def _not_found(image_id: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.NOT_FOUND,
        "item_not_found",
        f"expected the id of a picture in the index, got {shorten(image_id)}. Take the "
        "image_id of a hit.",
    )


def _alone(do: Callable[[], T]) -> T | Exception:
    """Give what is done, or why it was not: others' outcomes are not to suffer for it."""
    try:
        return do()
    except Exception as error:  # noqa: BLE001  told to who asked for it
        return error


def _explained(outcome: Outcome, wanted: Wanted) -> Outcome:
    """Say that it is the picture which cannot be read, where that is so."""
    is_of_picture = wanted.file is not None or wanted.path is not None
    if is_of_picture and isinstance(outcome, ItemError) and outcome.__cause__ is not None:
        return ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "picture_unreadable", " ".join(str(outcome).split())
        )
    return outcome


def _failed(outcome: Outcome) -> bool:
    return isinstance(outcome, Exception)


def _release(uploads: Uploads | None, writer: IndexWriter, paths: Sequence[object]) -> None:
    """Delete files that were sent and that no picture has any more."""
    for path in {Path(str(path)) for path in paths if path is not None}:
        if uploads is not None:
            uploads.release(path, writer)
