"""What is said of pictures, each once with how many it is said of: to be suggested while typing."""

from collections.abc import Iterator
from dataclasses import dataclass

from retrieval.catalogue.connection import Connection
from retrieval.catalogue.fields import FIELDS
from retrieval.catalogue.follower import has_follower
from retrieval.filters.values import TEXT

__all__ = ["Saying", "read_sayings"]

_LONGEST = 200  # characters: nobody types more, and chooses from it
_PAGE = 4096

_CAPTIONS = (
    "SELECT caption, count(*) FROM images "
    "WHERE length(caption) BETWEEN 1 AND ? GROUP BY caption ORDER BY 2 DESC, 1 LIMIT ?"
)
# What most pictures have, such as a licence, tells nothing of any; an address is not searched for.
_TAGS = (
    "SELECT field, value, count(*) FROM fields JOIN field_names USING (name) "
    "WHERE kind = ? AND length(value) BETWEEN 1 AND ? AND value NOT LIKE 'http%' "
    "GROUP BY name, value HAVING count(*) <= 1 + ? / 2 ORDER BY 3 DESC, 2 LIMIT ?"
)
_NAMES = "SELECT row, image_id FROM images WHERE row > ? ORDER BY row LIMIT ?"


@dataclass(frozen=True, slots=True)
class Saying:
    """Something that is said of pictures.

    Args:
        text: As it is said.
        kind: ``caption``, ``tag`` (a text of the metadata) or ``name`` (of a file).
        count: Of how many pictures.
        field: Of the metadata, for a tag.
    """

    text: str
    kind: str
    count: int
    field: str | None = None


def read_sayings(connection: Connection, most: int) -> list[Saying]:
    """Read captions, tags and names, each text once, those of most pictures first.

    Args:
        connection: To the catalogue's file.
        most: How many at most.
    """
    with connection.snapshot():
        ((size,),) = connection.read("SELECT count(*) FROM images")
        said = [
            Saying(text, "caption", count)
            for text, count in connection.read(_CAPTIONS, (_LONGEST, most))
        ]
        if has_follower(connection.db, FIELDS):
            said += [
                Saying(text, "tag", count, field)
                for field, text, count in connection.read(_TAGS, (TEXT, _LONGEST, size, most))
            ]
        if len(said) < most:
            said += _names(connection, most - len(said))
    # of one text, what most pictures have it as; shorter ones are easier to choose among equals
    said.sort(key=lambda one: (-one.count, len(one.text), one.text, one.kind))
    different: dict[str, Saying] = {}
    for one in said:
        different.setdefault(one.text.strip().lower(), one)
    different.pop("", None)
    return list(different.values())[:most]


def _names(connection: Connection, most: int) -> Iterator[Saying]:
    """Give the names of files without their folders and endings; numbers alone are no names."""
    last, given = 0, 0
    while given < most and (page := connection.read(_NAMES, (last, _PAGE))):
        for row, image_id in page:
            last = row
            name = image_id.rpartition("/")[2]
            stem = name.rpartition(".")[0] or name
            if given < most and len(stem) <= _LONGEST and any(map(str.isalpha, stem)):
                given += 1
                yield Saying(stem, "name", 1)
