"""What is said of pictures, each once with how many it is said of: to be suggested while typing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from retrieval.catalogue.connection import Connection
from retrieval.catalogue.fields import has_fields
from retrieval.catalogue.store import ReadableStore
from retrieval.filters.values import TEXT

__all__ = ["Saying", "read_sayings", "sayings_of"]

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
        if has_fields(connection.db):
            said += [
                Saying(text, "tag", count, field)
                for field, text, count in connection.read(_TAGS, (TEXT, _LONGEST, size, most))
            ]
        if len(said) < most:
            said += _names(connection, most - len(said))
    return _different(said)[:most]


def sayings_of(store: ReadableStore, most: int) -> list[Saying]:
    """Read the same of an index that a server keeps, which counts captions and tags.

    Args:
        store: Of the index.
        most: How many at most.
    """
    size = len(store)
    said = [
        Saying(str(facet.value), "caption", facet.count)
        for facet in (store.filters.facets("caption", limit=most) if size else ())
        if 0 < len(str(facet.value)) <= _LONGEST
    ]
    for field in store.filters.fields():
        if "text" in field.kinds:
            said += [
                Saying(facet.value, "tag", facet.count, field.name)
                for facet in store.filters.facets(field.name, limit=most)
                if isinstance(facet.value, str) and _is_tag(facet.value, facet.count, size)
            ]
    if len(said) < most:
        names = (record.picture.image_id for record in store)
        said += islice(_stems(names), most - len(said))
    return _different(said)[:most]


def _is_tag(text: str, count: int, size: int) -> bool:
    is_short = 0 < len(text) <= _LONGEST
    return is_short and count <= 1 + size / 2 and not text.lower().startswith("http")


def _different(said: list[Saying]) -> list[Saying]:
    """Leave each text once, those of most pictures first."""
    # of one text, what most pictures have it as; shorter ones are easier to choose among equals
    said.sort(key=lambda one: (-one.count, len(one.text), one.text, one.kind))
    different: dict[str, Saying] = {}
    for one in said:
        different.setdefault(one.text.strip().lower(), one)
    different.pop("", None)
    return list(different.values())


def _names(connection: Connection, most: int) -> Iterator[Saying]:
    return islice(_stems(_image_ids(connection)), most)


def _image_ids(connection: Connection) -> Iterator[str]:
    last = 0
    while page := connection.read(_NAMES, (last, _PAGE)):
        yield from (image_id for _, image_id in page)
        last = page[-1][0]


def _stems(image_ids: Iterable[str]) -> Iterator[Saying]:
    """Give the names of files without their folders and endings; numbers alone are no names."""
    for image_id in image_ids:
        name = image_id.rpartition("/")[2]
        stem = name.rpartition(".")[0] or name
        if len(stem) <= _LONGEST and any(map(str.isalpha, stem)):
            yield Saying(stem, "name", 1)
