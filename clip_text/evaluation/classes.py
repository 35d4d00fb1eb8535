"""The classes that pictures are sorted into, with their names, and which picture is in which."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clip_text.data.collection import refuse
from clip_text.data.text_files import text_lines
from clip_text.errors import DataError

Truth = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NamedClass:
    """One class.

    Args:
        label: What the data set calls it: the folder's name, or the label in a jsonl file.
        names: What to call it in a sentence; several are synonyms, none better than another.
    """

    label: str
    names: tuple[str, ...]


def named_classes(labels: Iterable[str]) -> list[NamedClass]:
    """Make classes that are called by their labels.

    Raises:
        DataError: If there is none, or one comes twice or is blank.
    """
    classes = [NamedClass(label, (label,)) for label in labels]
    check_classes(classes, "the labels")
    return classes


def read_classes(path: Path) -> list[NamedClass]:
    """Read a file with a class a line; empty lines are passed over.

    A line is ``name``, or ``name|synonym|…``, or with a label of its own and a tab
    ``label<TAB>name|synonym|…``. Without a tab the first name is the label.

    Two labels may share a name, as "crane" is a bird and a machine.

    Raises:
        DataError: If there is no class, a label comes twice or a name twice in its class, or one
            is blank.
        NoFileError: If there is no file that can be read.
    """
    classes = [_parse(line) for _, line in text_lines(path) if line.strip()]
    check_classes(classes, str(path))
    return classes


def _parse(line: str) -> NamedClass:
    label, tab, rest = line.rstrip("\n").partition("\t")
    names = tuple(composed(name) for name in (rest if tab else label).replace("\t", "|").split("|"))
    return NamedClass(composed(label) if tab else names[0], names)


def composed(name: str) -> str:
    """A name without blanks around it, its accents composed: file systems store either form."""
    return unicodedata.normalize("NFC", name).strip()


def check_classes(classes: Sequence[NamedClass], name: str) -> None:
    """Refuse a list of classes that cannot be told apart or have no name.

    Raises:
        DataError: With the number of offenders and the first few.
    """
    if not classes:
        raise DataError(f"expected a class in {name}, got none. Give one a line.")
    blank = [
        f"class {number} ({one.label or 'no label'})"
        for number, one in enumerate(classes, 1)
        if not one.label.strip() or not one.names or not all(map(str.strip, one.names))
    ]
    refuse(name, "a name for every class", blank, "Name or drop")
    refuse(name, "classes that differ", _repeated(one.label for one in classes), "Rename")
    twice = [f"{one.label}: {name}" for one in classes for name in _repeated(one.names)]
    refuse(name, "synonyms that differ", twice, "Drop")


def truth_matrix(
    labels: Sequence[Sequence[str]], classes: Sequence[NamedClass], name: str = "the data"
) -> Truth:
    """Say which picture is in which class.

    Labels that are whole numbers, one of them 0, are positions in a class list that has no such
    labels, as cn_clip's folders ``000``, ``001``, … are.

    Args:
        labels: Labels of each picture, one or several.
        classes: All classes, see :func:`check_classes`.
        name: Name of the data set, for errors.

    Returns:
        True where the picture has the class's label, [pictures, classes].

    Raises:
        DataError: If there are no pictures, or labels of no class.
    """
    if not len(labels):
        raise DataError(f"expected labelled pictures in {name}, got none. Check the path.")
    position = {one.label: at for at, one in enumerate(classes)}
    used = Counter(label for several in labels for label in several)
    if not used.keys() & position.keys() and all(map(_is_number, used)):
        numbers = {label: int(label) for label in used}
        if 0 in numbers.values():
            position = {label: at for label, at in numbers.items() if at < len(classes)}
    unknown = [
        f"{label} ({number:,} {'picture' if number == 1 else 'pictures'})"
        for label, number in used.most_common()
        if label not in position
    ]
    refuse(name, "labels of the class list", unknown, "Add their classes, or drop")
    truth = np.zeros((len(labels), len(classes)), bool)
    for row, several in zip(truth, labels, strict=True):
        row[[position[label] for label in several]] = True
    return truth


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal()


def _repeated(names: Iterable[str]) -> list[str]:
    return [one for one, number in Counter(names).items() if number > 1]
