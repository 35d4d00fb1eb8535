"""Labelled pairs of texts: read from csv, tsv and jsonl, as LCQMC, AFQMC and BQ come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_text.data.labelled_texts import LABEL_COLUMNS, checked_text, label_of, one_column
from clip_text.data.tables import find_columns, is_table, read_table, table_rows
from clip_text.data.text_files import json_objects
from clip_text.errors import DataError

FIRST_COLUMNS = (
    *("sentence1", "text_a", "text1", "question1", "query1", "sentence_a", "premise"),
    *("句子1", "文本1", "问题1"),
)
SECOND_COLUMNS = (
    *("sentence2", "text_b", "text2", "question2", "query2", "sentence_b", "hypothesis"),
    *("句子2", "文本2", "问题2"),
)
"""Where the two texts are looked for, in any case; labels as for single texts."""


@dataclass(frozen=True, slots=True)
class LabelledPairs:
    """Pairs of texts with one label each.

    Args:
        texts: Both texts of each pair; none is empty.
        labels: Label of each pair, a tuple of one.
        places: Where each came from, such as ``data.tsv, line 3``.
    """

    texts: list[tuple[str, str]]
    labels: list[tuple[str, ...]]
    places: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, at: Sequence[int]) -> "LabelledPairs":
        """Give those at some places alone."""
        return LabelledPairs(
            [self.texts[i] for i in at], [self.labels[i] for i in at], [self.places[i] for i in at]
        )


@dataclass(frozen=True, slots=True)
class PairColumns:
    """What to read of a file.

    Args:
        first: Column of the first text; the first of :data:`FIRST_COLUMNS` there is, if None.
        second: Column of the second; the first of :data:`SECOND_COLUMNS` there is, if None.
        label: Column of the label; the first of the usual ones there is, if None.
        names: The labels there are, in order, if known: a number then means the one at its
            position, from 0.
    """

    first: str | None = None
    second: str | None = None
    label: str | None = None
    names: tuple[str, ...] = ()

    def find(self, where: str, there: Sequence[str]) -> tuple[str, str, str]:
        """Find the three among a header's columns or an object's fields.

        Raises:
            DataError: If one is not there, or several times.
        """
        return (
            one_column(where, there, self.first, FIRST_COLUMNS, "--first"),
            one_column(where, there, self.second, SECOND_COLUMNS, "--second"),
            one_column(where, there, self.label, LABEL_COLUMNS, "--label"),
        )


def read_labelled_pairs(path: Path, columns: PairColumns | None = None) -> LabelledPairs:
    """Read labelled pairs of texts.

    ======  =================================================================================
    .jsonl  an object a line, as AFQMC comes; the label is a word or a number
    .json   the same, or one list of such objects
    .csv    a header, then a row a pair; or .xlsx
    .tsv    the same with tabs; or, without a header, ``first<TAB>second<TAB>label``, as LCQMC
    ======  =================================================================================

    Args:
        path: The file.
        columns: What to read of it.

    Raises:
        DataError: If there is no such column, a text is empty, a label is missing, out of range
            or no label, or there is nothing to read; it names the line.
    """
    columns = columns or PairColumns()
    if path.suffix.lower() in (".jsonl", ".json"):
        rows = _json_rows(path, columns)
    elif is_table(path):
        rows = _table_rows(path, columns)
    else:
        raise DataError(
            f"expected a .jsonl, .csv or .tsv file of labelled pairs, got {path}. Convert it."
        )
    pairs = LabelledPairs([], [], [])
    for place, first, second, label in rows:
        where = f"{path}, {place}"
        pairs.texts.append(
            (checked_text(first, "first text", where), checked_text(second, "second text", where))
        )
        named = label_of(label, columns.names, where)
        if not named:
            raise DataError(f"expected a label in {where}, got none. Mend the line or drop it.")
        pairs.labels.append((named,))
        pairs.places.append(where)
    if not pairs.texts:
        raise DataError(f"expected labelled pairs in {path}, got none. Check the file.")
    return pairs


def _json_rows(path: Path, columns: PairColumns) -> Iterator[tuple[str, object, object, object]]:
    for place, entry in json_objects(path):
        first, second, label = columns.find(f"{path}, {place}", list(entry))
        yield place, entry[first], entry[second], entry[label]


def _table_rows(path: Path, columns: PairColumns) -> Iterator[tuple[str, object, object, object]]:
    if _headless(path, columns):
        for row in table_rows(path):
            if len(row.fields) != 3:
                raise DataError(
                    f"expected first<TAB>second<TAB>label in {path}, {row.place}, got "
                    f"{len(row.fields)} fields. Drop the tabs within the texts."
                )
            first, second, label = row.fields
            yield row.place, first, second, label
        return
    table = read_table(path)
    first, second, label = columns.find(f"the header of {path}", table.header)
    for place, record in table.records():
        yield place, record[first], record[second], record[label]


def _headless(path: Path, columns: PairColumns) -> bool:
    """Say whether a file with tabs is ``first<TAB>second<TAB>label`` from its first line on."""
    asked = columns.first or columns.second or columns.label
    if path.suffix.lower() not in (".tsv", ".txt") or asked:
        return False
    fields = next((row.fields for row in table_rows(path)), [])
    usual = (*FIRST_COLUMNS, *SECOND_COLUMNS, *LABEL_COLUMNS)
    return len(fields) == 3 and not find_columns(usual, [name.strip() for name in fields])
