"""Finished features of pictures: a ``.npy`` beside a file of ids, or a column of Parquet.

===============  ================================================================================
Parquet column   what it holds
===============  ================================================================================
feature          a list of real numbers, equally many in each row
id               ``image_id``, ``id`` or ``key``: a text or a whole number
captions         a text, or a list of texts; optional, as for pictures
picture          a path, where the picture is to be shown; optional
others           texts, numbers, truth values, times and lists of these: what else is said
===============  ================================================================================

Rows count from 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clip_text.data.captions import CAPTION_COLUMNS, IMAGE_COLUMNS, texts_of, without
from clip_text.data.cells import (
    arrow,
    holds_features,
    holds_text,
    plain_values,
    texts_in,
    values_of,
)
from clip_text.data.described import Described
from clip_text.data.parquet import ParquetRows
from clip_text.data.rows import BATCH, IMAGE_ID, choose_captions, other_columns
from clip_text.data.tables import find_columns
from clip_text.data.text_files import json_objects, text_lines
from clip_text.errors import DataError, NoFileError

__all__ = ["FEATURE_COLUMNS", "Finished", "FinishedSet", "feature_column", "read_npy", "read_table"]

FEATURE_COLUMNS = (
    *("feature", "features", "image_feature", "image_features"),
    *("embedding", "embeddings", "image_embedding", "image_embeddings", "vector"),
)
"""Where finished features are looked for, in any case."""

_ID_COLUMNS = (IMAGE_ID, "id", "key")
_TOLERANCE = 1e-3  # of the length of a unit row

Units = NDArray[np.float32]


class Finished(NamedTuple):
    """One picture with its feature.

    Args:
        said: What is said of the picture.
        place: Where the row is, for people: ``"row 3"``.
        feature: A unit row, float32 [width]; None if there is none to be had.
        reason: Why there is none; empty if there is.
        picture: Its file, where one is named.
    """

    said: Described
    place: str
    feature: Units | None
    reason: str = ""
    picture: Path | None = None


@dataclass(slots=True)
class FinishedSet:
    """Pictures with finished features, read a few at a time as they are gone through.

    Args:
        name: Where they lie.
        width: Of the features.
        count: How many there are.
        rows: Goes through them.
        stretched: How many rows that were not of unit length have been gone through.
    """

    name: str
    width: int
    count: int
    rows: Callable[["FinishedSet"], Iterator[Finished]]
    stretched: int = field(default=0)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Finished]:
        return self.rows(self)

    def as_units(self, rows: NDArray[np.floating]) -> list[Units | str]:
        """Set rows to unit length, and count those that were not.

        Args:
            rows: Any, [n, width].

        Returns:
            For each a unit row, float32 [width], or why there is none.
        """
        wide = rows.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1)
        off = ~(np.abs(lengths - 1.0) <= _TOLERANCE)  # NaN is off, too
        usable = np.isfinite(lengths) & (lengths > 0.0)
        wide[off & usable] /= lengths[off & usable, None]
        self.stretched += int((off & usable).sum())
        units = wide.astype(np.float32)
        return [
            unit if good else f"expected finite numbers that are not all 0, got length {length:g}."
            for unit, good, length in zip(units, usable, lengths, strict=True)
        ]


def read_npy(path: Path, ids: Path, metadata: Path | None = None) -> FinishedSet:
    """Read features of which each row's id is a line of another file.

    Args:
        path: Real numbers of 16, 32 or 64 bits, [n, width], as ``numpy.save`` writes them; mapped
            into memory, not read.
        ids: A text file with an id a line.
        metadata: A .jsonl file with an object for each row, in their order; or for some of them,
            with their ``image_id``, ``id`` or ``key``. Captions are in the first field there is
            of CAPTION_COLUMNS, a path of the picture in one of IMAGE_COLUMNS.

    Raises:
        NoFileError: If one of the files is not there.
        DataError: If one of them is not of this form, or they don't fit together.
    """
    rows = _mapped(path)
    names = _ids(ids)
    if len(names) != len(rows):
        raise DataError(
            f"expected {len(rows):,} ids in {ids}, one for each row of {path}, got "
            f"{len(names):,}. Write an id a line, in the order of the rows."
        )
    said = _said(metadata, names) if metadata else {}
    folder = metadata.parent if metadata else path.parent

    def go(whole: FinishedSet) -> Iterator[Finished]:
        for start in range(0, len(rows), BATCH):
            for at, unit in enumerate(whole.as_units(rows[start : start + BATCH]), start):
                place = f"row {at}"
                try:
                    one, picture = _described(names[at], said.get(names[at], {}), folder)
                except DataError as error:
                    yield Finished(Described(names[at]), place, None, str(error))
                    continue
                yield _row(one, place, unit, picture)

    return FinishedSet(str(path.resolve()), rows.shape[1], len(rows), go)


def _mapped(path: Path) -> NDArray[np.floating]:
    remedy = "Write the rows by numpy.save, real numbers, [n, width]."
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise NoFileError(
            f"expected features at {path}, got nothing there. Check the path."
        ) from None
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise DataError(f"expected features in {path}, got: {reason}. {remedy}") from error
    if not isinstance(rows, np.ndarray):
        rows.close()
        raise DataError(f"expected features in {path}, got several arrays. {remedy}")
    if rows.ndim != 2 or rows.dtype.kind != "f" or not rows.size:
        got = f"{rows.dtype} of shape {list(rows.shape)}"
        raise DataError(f"expected features in {path}, got {got}. {remedy}")
    return rows


def _ids(path: Path) -> list[str]:
    names: dict[str, int] = {}
    blank = 0
    for number, line in text_lines(path):
        name = line.strip()
        if not name:
            blank = blank or number
            continue
        if blank:
            raise DataError(
                f"expected an id in {path}, line {blank}, got none. Write an id a line."
            )
        if name in names:
            raise DataError(
                f"expected ids that differ in {path}, got {name} in line {names[name]} and again "
                f"in line {number}. Rename one."
            )
        names[name] = number
    return list(names)


def _said(path: Path, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Objects by the id of the row that they speak of."""
    listed = list(json_objects(path))
    id_field = next(iter(find_columns(_ID_COLUMNS, listed[0][1])), None) if listed else None
    if id_field is None:
        if len(listed) != len(names):
            raise DataError(
                f"expected {len(names):,} lines in {path}, one for each row, got {len(listed):,}. "
                "Write a line for each, or give lines an image_id."
            )
        return {name: found for name, (_, found) in zip(names, listed, strict=True)}
    there, said = set(names), dict[str, Mapping[str, Any]]()
    for place, found in listed:
        name = str(found.get(id_field))
        if name not in there or name in said:
            what = "again" if name in said else "which is none of a row"
            raise DataError(
                f"expected an id of a row in {id_field!r} of {path}, {place}, got {name} {what}. "
                "Mend the line."
            )
        said[name] = without(found, id_field)
    return said


def _described(name: str, found: Mapping[str, Any], folder: Path) -> tuple[Described, Path | None]:
    """What an object says of a picture, and the file that it names."""
    caption = next(iter(find_columns(CAPTION_COLUMNS, found)), None)
    image = next(iter(find_columns(IMAGE_COLUMNS, found)), None)
    picture = found[image] if image else None
    if not isinstance(picture, str) or "://" in picture:
        image = picture = None
    one = Described(name)
    texts = texts_of(caption, found[caption], f"the line of {name}") if caption else []
    one.add({"": texts}, without(found, *(field for field in (caption, image) if field)))
    return one, folder / picture if picture else None


def _row(one: Described, place: str, unit: Units | str, picture: Path | None) -> Finished:
    if isinstance(unit, str):
        return Finished(one, place, None, unit, picture)
    return Finished(one, place, unit, picture=picture)


def feature_column(rows: ParquetRows, name: str | None = None) -> str | None:
    """Find the column of finished features in a table; None if there is none.

    Args:
        rows: The table.
        name: Its name; one of FEATURE_COLUMNS if not given.

    Raises:
        DataError: If the named column is not there, or holds something else.
    """
    found = find_columns((name,) if name else FEATURE_COLUMNS, rows.types)
    found = [one for one in found if holds_features(rows.types[one])]
    if name and not found:
        raise DataError(
            f"expected a column {name} of lists of real numbers in {rows.source}, got none. "
            f"The columns there are: {', '.join(f'{k} ({v})' for k, v in rows.types.items())}."
        )
    return found[0] if found else None


def read_table(
    rows: ParquetRows,
    features: str,
    folder: Path,
    *,
    kinds: Sequence[str] | None = None,
    id_field: str | None = None,
) -> FinishedSet:
    """Read a table of finished features.

    Args:
        rows: The table.
        features: Column of the features.
        folder: What paths of pictures are relative to.
        kinds: Columns of captions; the first there is of CAPTION_COLUMNS if not given.
        id_field: Column of the ids; ``image_id``, ``id`` or ``key`` if not given.

    Raises:
        DataError: If a column is not there, or the first feature is empty.
    """
    found = find_columns((id_field,) if id_field else _ID_COLUMNS, rows.types)
    if not found:
        raise DataError(
            f"expected a column {id_field or ' or '.join(_ID_COLUMNS)} in {rows.source}, got none. "
            f"The columns there are: {', '.join(rows.types)}. Name that of the ids: --id-field."
        )
    _check_ids(rows, found[0])
    captions = choose_captions(rows, kinds, whole=True)
    pictures = [n for n in find_columns(IMAGE_COLUMNS, rows.types) if holds_text(rows.types[n])]
    columns = _Columns(features, found[0], captions, next(iter(pictures), None), [])
    columns.others.extend(other_columns(rows, columns.named))
    width = _width(rows, features)

    def go(whole: FinishedSet) -> Iterator[Finished]:
        for start, table in rows.batches([*columns.named, *columns.others]):
            yield from _table_rows(whole, rows, columns, folder, (start, table))

    return FinishedSet(rows.source, width, len(rows), go)


def _check_ids(rows: ParquetRows, column: str) -> None:
    kind = rows.types[column]
    if not (holds_text(kind) or arrow().types.is_integer(kind)):
        raise DataError(
            f"expected ids that are texts or whole numbers in column {column!r} of {rows.source}, "
            f"got {kind}. Convert them, or name another column: --id-field."
        )


class _Columns(NamedTuple):
    """What to read of a table."""

    features: str
    ids: str
    captions: dict[str, str]
    picture: str | None
    others: list[str]

    @property
    def named(self) -> list[str]:
        picture = [self.picture] if self.picture else []
        return list(dict.fromkeys([self.features, self.ids, *self.captions.values(), *picture]))


def _table_rows(
    whole: FinishedSet,
    rows: ParquetRows,
    columns: _Columns,
    folder: Path,
    part: tuple[int, Any],
) -> Iterator[Finished]:
    start, table = part
    units = _units(whole, table.column(columns.features))
    ids = values_of(table.column(columns.ids))
    said = {kind: values_of(table.column(name)) for kind, name in columns.captions.items()}
    files = values_of(table.column(columns.picture)) if columns.picture else [None] * len(ids)
    others = plain_values(table, columns.others)
    for at, (image_id, unit) in enumerate(zip(ids, units, strict=True)):
        place = rows.place(start + at)
        is_id = isinstance(image_id, str | int)
        one = Described(str(image_id) if is_id else "")
        if not is_id:
            reason = f"expected an id in column {columns.ids!r}, got none in UTF-8. Mend the row."
            yield Finished(one, place, None, reason)
            continue
        try:
            texts = {
                kind: texts_in(said[kind][at], name, place)
                for kind, name in columns.captions.items()
            }
        except DataError as error:
            yield Finished(one, place, None, str(error))
            continue
        named = files[at]
        file = named if isinstance(named, str) else ""
        address = {columns.picture: file} if columns.picture and "://" in file else {}
        one.add(texts, others[at] | address)
        yield _row(one, place, unit, folder / file if file and not address else None)


def _units(whole: FinishedSet, column: Any) -> list[Units | str]:  # noqa: ANN401
    """Unit rows, or why there are none, of a column of lists."""
    cells = column.combine_chunks()
    lengths = [None if not cell.is_valid else len(cell) for cell in cells]
    fitting = [at for at, length in enumerate(lengths) if length == whole.width]
    units: list[Units | str] = [
        f"expected {whole.width} numbers, got {'none' if length is None else length}."
        for length in lengths
    ]
    if fitting:
        values = cells.take(arrow().array(fitting)).flatten().to_numpy(zero_copy_only=False)
        found = whole.as_units(values.reshape(len(fitting), whole.width))
        for at, unit in zip(fitting, found, strict=True):
            units[at] = unit
    return units


def _width(rows: ParquetRows, features: str) -> int:
    for _, table in rows.batches([features], 1):
        cell = table.column(features)[0]
        if cell.is_valid and len(cell):
            return len(cell)
    raise DataError(
        f"expected features in column {features!r} of {rows.source}, got none. Check the file."
    )
