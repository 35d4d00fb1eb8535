"""Labelled texts: read from csv, tsv and jsonl, and split."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from clip_text.data.splits import held_out_places, places_without
from clip_text.data.tables import find_columns, is_table, read_table, table_rows
from clip_text.data.text_files import json_objects
from clip_text.errors import DataError

TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "query", "title"),
    *("文本", "内容", "评论", "标题", "描述"),
)
LABEL_COLUMNS = (
    *("label", "labels", "category", "class", "intent", "label_desc", "cat"),
    *("标签", "类别", "分类"),
)
"""Where labels are looked for, in any case; :data:`TEXT_COLUMNS` is of the texts."""

MOST_LABELLED = 5000
"""How many texts, or pairs, are held out at most where no number is given."""

_EXAMPLES = 5


class Labelled(Protocol):
    """What has labels: texts, or pairs of them."""

    @property
    def texts(self) -> Sequence[Hashable]:
        """What is labelled."""

    @property
    def labels(self) -> Sequence[tuple[str, ...]]:
        """Of each text or pair: one, or any number."""

    @property
    def places(self) -> Sequence[str]:
        """Where each came from, such as ``data.tsv, line 3``."""

    def __len__(self) -> int: ...

    def take(self, at: Sequence[int]) -> Self:
        """Give those at some places alone."""


AnyLabelled = TypeVar("AnyLabelled", bound=Labelled)


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with their labels.

    Args:
        texts: Texts in the file's order; none is empty.
        labels: Labels of each text: one, or with several labels a text any number.
        places: Where each came from, such as ``data.tsv, line 3``.
    """

    texts: list[str]
    labels: list[tuple[str, ...]]
    places: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, at: Sequence[int]) -> "LabelledTexts":
        """Give those at some places alone."""
        return LabelledTexts(
            [self.texts[i] for i in at], [self.labels[i] for i in at], [self.places[i] for i in at]
        )


@dataclass(frozen=True, slots=True)
class Columns:
    """What to read of a file.

    Args:
        text: Column of the text; the first of :data:`TEXT_COLUMNS` there is, if None.
        label: Column of the label; the first of :data:`LABEL_COLUMNS` there is, if None.
        separator: What stands between the labels of a text; None for one label a text. Lists in
            jsonl need none.
        names: The labels there are, in order, if known: a number then means the one at its
            position, from 0.
    """

    text: str | None = None
    label: str | None = None
    separator: str | None = None
    names: tuple[str, ...] = ()


def read_labelled_texts(path: Path, columns: Columns | None = None) -> LabelledTexts:
    """Read labelled texts.

    ======  =================================================================================
    .jsonl  an object a line; the label is a word, a number, or a list of them
    .json   the same, or one list of such objects
    .csv    a header, then a row a text; or .xlsx
    .tsv    the same with tabs; or, without a header, ``text<TAB>label``, as TNEWS comes
    ======  =================================================================================

    Args:
        path: The file.
        columns: What to read of it.

    Raises:
        DataError: If there is no such column, a text is empty, a label is missing, out of range
            or no label, or there is nothing to read; it names the line.
    """
    columns = columns or Columns()
    if path.suffix.lower() in (".jsonl", ".json"):
        rows = _json_rows(path, columns)
    elif is_table(path):
        rows = _table_rows(path, columns)
    else:
        raise DataError(
            f"expected a .jsonl, .csv or .tsv file of labelled texts, got {path}. Convert it."
        )
    found = LabelledTexts([], [], [])
    for place, text, label in rows:
        where = f"{path}, {place}"
        found.texts.append(checked_text(text, "text", where))
        found.labels.append(_labels(label, columns, where))
        found.places.append(where)
    if not found.texts:
        raise DataError(f"expected labelled texts in {path}, got none. Check the file.")
    return found


def checked_text(text: object, called: str, where: str) -> str:
    """Refuse what is no text, or an empty one.

    Args:
        text: What stands in the file.
        called: What it should be, such as ``first text``.
        where: File and place, for the error.

    Raises:
        DataError: If it is.
    """
    if not isinstance(text, str) or not text.strip():
        what = "an empty one" if isinstance(text, str) else type(text).__name__
        raise DataError(f"expected a {called} in {where}, got {what}. Mend the line or drop it.")
    return text


def is_multi_label(columns: Columns, texts: LabelledTexts) -> bool:
    """Say whether texts may have several labels: a separator was named, or one has not one."""
    return columns.separator is not None or any(len(labels) != 1 for labels in texts.labels)


def labels_of(texts: Labelled, *, multi_label: bool) -> tuple[str, ...]:
    """Collect the labels there are, sorted.

    Raises:
        DataError: If there is one class only, which leaves nothing to tell apart.
    """
    found = tuple(sorted({label for labels in texts.labels for label in labels}))
    if len(found) < (1 if multi_label else 2):
        raise DataError(
            f"expected texts of at least two classes, got {len(found)}: "
            f"{', '.join(found) or 'none'}. Add texts of another class."
        )
    return found


def check_known(texts: Labelled, labels: Sequence[str], *, multi_label: bool) -> None:
    """Refuse texts with a label that was not trained, or several where one was.

    Raises:
        DataError: Naming the first line with one.
    """
    known = set(labels)
    for of_text, place in zip(texts.labels, texts.places, strict=True):
        if not multi_label and len(of_text) != 1:
            raise DataError(
                f"expected one label, as all training texts have, in {place}, got "
                f"{len(of_text)}. Mend the line, or name a --separator."
            )
        for label in of_text:
            if label not in known:
                some = ", ".join(list(labels)[:_EXAMPLES])
                raise DataError(
                    f"expected a label of the training texts ({some}, …) in {place}, got "
                    f"{label!r}. Add texts of it to the training file, or drop the line."
                )


def without(texts: AnyLabelled, others: AnyLabelled) -> AnyLabelled:
    """Leave out texts, or pairs, that others hold, too: what was learnt by heart tells nothing."""
    known = set(others.texts)
    return texts.take([at for at, text in enumerate(texts.texts) if text not in known])


def hold_out(
    texts: AnyLabelled, number: int | None = None, seed: int = 0
) -> tuple[AnyLabelled, AnyLabelled]:
    """Hold some texts, or pairs, out, drawn at random; both parts stay in the file's order.

    A label that would be held out whole stays: its texts do.

    Args:
        texts: What to split.
        number: How many to hold out; a tenth, at most 5,000, if None.
        seed: Seed of the draw; an equal seed gives equal draws.

    Returns:
        What to learn from, and what to measure on.

    Raises:
        DataError: If that leaves nothing to learn from, or nothing to measure on.
    """
    chosen = held_out_places(len(texts), number, most=MOST_LABELLED, seed=seed, labels=texts.labels)
    return texts.take(places_without(len(texts), chosen)), texts.take(chosen)


def to_learn_and_measure(
    train: AnyLabelled,
    validation: AnyLabelled | None,
    names: tuple[str, ...],
    number: int | None,
    seed: int,
    *,
    multi_label: bool,
) -> tuple[AnyLabelled, AnyLabelled, tuple[str, ...]]:
    """Settle what is learnt, what is measured on, and the labels of both.

    Args:
        train: Texts, or pairs, to learn from.
        validation: Others to measure on; some of ``train`` are held out if None, and equal ones
            are not learnt.
        names: The labels, in order, if known; else those that are learnt, sorted.
        number: How many to hold out; see :func:`hold_out`.
        seed: Seed of the draw; an equal seed gives equal draws.
        multi_label: Whether a text may have several labels.

    Raises:
        DataError: If there is one label only, or one to measure on is not learnt.
    """
    labels_of(train, multi_label=multi_label)  # one label alone is refused before it is split
    if validation is None:
        train, validation = hold_out(train, number, seed)
        train = without(train, validation)
    labels = names or labels_of(train, multi_label=multi_label)
    check_known(validation, labels, multi_label=multi_label)
    return train, validation, labels


def _json_rows(path: Path, columns: Columns) -> Iterator[tuple[str, Any, Any]]:
    for place, entry in json_objects(path):
        where = f"{path}, {place}"
        text = one_column(where, list(entry), columns.text, TEXT_COLUMNS, "--text")
        label = one_column(where, list(entry), columns.label, LABEL_COLUMNS, "--label")
        yield place, entry[text], entry[label]


def _table_rows(path: Path, columns: Columns) -> Iterator[tuple[str, Any, Any]]:
    if _headless(path, columns):
        yield from _headless_rows(path)
        return
    table = read_table(path)
    where = f"the header of {path}"
    text = one_column(where, table.header, columns.text, TEXT_COLUMNS, "--text")
    label = one_column(where, table.header, columns.label, LABEL_COLUMNS, "--label")
    for place, row in table.records():
        yield place, row[text], row[label]


def _headless(path: Path, columns: Columns) -> bool:
    """Say whether a file with tabs is ``text<TAB>label`` from its first line on."""
    if path.suffix.lower() not in (".tsv", ".txt") or columns.text or columns.label:
        return False
    first = next((row.fields for row in table_rows(path)), [])
    named = find_columns((*TEXT_COLUMNS, *LABEL_COLUMNS), [name.strip() for name in first])
    return len(first) == 2 and not named


def _headless_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    rows = []
    for row in table_rows(path):
        if len(row.fields) != 2:
            raise DataError(
                f"expected text<TAB>label in {path}, {row.place}, got {len(row.fields)} fields. "
                "Drop the tabs within the text."
            )
        rows.append((row.place, row.fields[0], row.fields[1]))
    counts = Counter(label for _, _, label in rows)
    if rows and len(counts) > 2 and counts[rows[0][2]] == 1 and sorted(counts.values())[1] > 1:
        # every other label comes more than once: this is a header that nobody told us of
        raise DataError(
            f"expected text<TAB>label in {path}, line 1, or a header with text and label, got a "
            f"line that looks like a header: {rows[0][1]!r}, {rows[0][2]!r}. "
            "Name its columns by --text and --label."
        )
    yield from rows


def one_column(
    where: str, there: Sequence[str], asked: str | None, usual: Sequence[str], option: str
) -> str:
    """Find the one column or field that holds something.

    Args:
        where: What has them, for the error.
        there: Names of the columns that there are.
        asked: The name that was asked for, if any.
        usual: The names to look for otherwise.
        option: Option of a command that names the column, for errors.

    Raises:
        DataError: If there is none, or several.
    """
    found = find_columns((asked,) if asked else usual, there)
    count = sum(list(there).count(name) for name in found)
    if count != 1:
        number = f"{count} of that name" if count else "none"
        raise DataError(
            f"expected one column {asked or ' or '.join(usual)} in {where}, got {number} among "
            f"{', '.join(map(str, there)) or 'no columns'}. Name it by {option}."
        )
    return found[0]


def _labels(value: object, columns: Columns, where: str) -> tuple[str, ...]:
    several = isinstance(value, list) or columns.separator is not None
    if isinstance(value, str) and columns.separator is not None:
        values: list[object] = [part for part in value.split(columns.separator) if part.strip()]
    else:
        values = value if isinstance(value, list) else [value]
    found = [label_of(one, columns.names, where) for one in values]
    if not several and not found[0]:
        raise DataError(f"expected a label in {where}, got none. Mend the line or drop it.")
    return tuple(dict.fromkeys(found))


def label_of(value: object, names: tuple[str, ...], where: str) -> str:
    """Read one label: a word, or a number.

    Args:
        value: Label as the file has it.
        names: The labels there are, in order, if known: a number then means the one at its
            position, from 0.
        where: File and line, for the error.

    Raises:
        DataError: If it is no label, or none of the names.
    """
    if not isinstance(value, str | int):
        raise DataError(
            f"expected a word or a number as label in {where}, got {type(value).__name__}. "
            "Mend the line."
        )
    label = str(value).strip()
    if not names or label in names:
        return label
    number = int(label) if label.lstrip("-").isdecimal() else -1
    if not 0 <= number < len(names):
        raise DataError(
            f"expected one of {len(names)} labels ({', '.join(names[:_EXAMPLES])}, …) or its "
            f"position from 0 to {len(names) - 1} in {where}, got {label!r}. Mend the line."
        )
    return names[number]
