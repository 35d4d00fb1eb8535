"""What a search gives: pictures in their order, and what the query came to."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from retrieval.records import Record, is_gone, read_metadata

__all__ = ["Answer", "Hit", "Order", "Place", "hit_at"]


class _PathOnDemand:
    """A field of a hit that may be given as the file system spells it; a path when it is read."""

    def __get__(self, hit: "Hit", _: type["Hit"]) -> Path | None:
        given = hit.__dict__["path"]
        if isinstance(given, bytes):
            given = hit.__dict__["path"] = Path(os.fsdecode(given))
        return cast("Path | None", given)

    def __set__(self, hit: "Hit", given: Path | bytes | None) -> None:
        hit.__dict__["path"] = given


class _ParsedOnDemand:
    """A field of a hit that may be given as JSON text; parsed when it is read."""

    def __get__(self, hit: "Hit", _: type["Hit"]) -> dict[str, Any]:
        given = hit.__dict__["metadata"]
        if isinstance(given, str):
            given = hit.__dict__["metadata"] = read_metadata(given)
        return cast("dict[str, Any]", given)

    def __set__(self, hit: "Hit", given: dict[str, Any] | str) -> None:
        hit.__dict__["metadata"] = given


@dataclass(frozen=True)
class Hit:
    """One picture found for one query.

    Args:
        rank: Place in the result; 1 is best.
        score: Cosine in [-1, 1], higher is better.
        row: The picture's number in the index; never used again for another picture.
        image_id: Path below the indexed folder, with ``/``, safe to print; of a picture from
            outside a folder, the id that it was added under.
        path: Where the picture lies; may hold surrogates where the name is not UTF-8. None for a
            picture that was added without a file.
        caption: The picture's caption from ``metadata.jsonl``, if any.
        metadata: The other keys of the picture's line in ``metadata.jsonl``.
        folded: Pictures that are near-duplicates of this one, where the query folds them: those
            found with it among the best 4,000 hits, best first, with the ranks they would have had.
        probability: That it is right, in [0, 1]; None where the index has no calibration, or the
            query is more than one text, see :mod:`retrieval.search.relevance`.
        recognised: The text that was read in the picture, if any.
        word_score: BM25 of the words that are said of the picture, higher is better; None if it
            was not found by them.
    """

    rank: int
    score: float
    row: int
    image_id: str
    path: Path | None
    caption: str | None
    metadata: dict[str, Any]
    folded: tuple["Hit", ...] = ()
    probability: float | None = None
    recognised: str | None = None
    word_score: float | None = None

    @property
    def missing(self) -> bool:
        """True if there is no such file any more; looks each time it is asked.

        A picture that was added without a file misses none.
        """
        return is_gone(self.__dict__["path"])

    @property
    def metadata_json(self) -> str:
        """The metadata as JSON text of one object."""
        given = self.__dict__["metadata"]
        if isinstance(given, str) and not ("Infinity" in given or "NaN" in given):
            return given  # as nearly all of it: parsing it would take longer than a search
        return json.dumps(self.metadata, ensure_ascii=False)


# Most hits of a busy service are sent on without anybody looking into these two.
Hit.path = _PathOnDemand()  # type: ignore[assignment]
Hit.metadata = _ParsedOnDemand()  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query came to.

    Args:
        hits: Pictures, best first.
        category: What kind of query it is, and the probability of that in [0, 1]; None without
            a classifier, or where it says nothing.
        probability: That a right picture is among those searched, in [0, 1], if one is for every
            second query; None without a calibration, without hits, and where the query is more
            than one text.
        nothing_matches: True if there are no hits, or that is less probable than the calibration
            asks for.
    """

    hits: list[Hit]
    category: tuple[str, float] | None
    probability: float | None = None
    nothing_matches: bool = False


class Place(NamedTuple):
    """A hit of which nothing but its row is known yet; the fields are those of a :class:`Hit`."""

    rank: int
    score: float
    row: int
    probability: float | None = None
    word_score: float | None = None
    folded: "tuple[Place, ...]" = ()


@dataclass(frozen=True, slots=True)
class Order:
    """An answer before anything is read of its pictures.

    Args:
        places: Best first.
        category: See :class:`Answer`.
        probability: See :class:`Answer`.
        nothing_matches: See :class:`Answer`.
    """

    places: list[Place]
    category: tuple[str, float] | None = None
    probability: float | None = None
    nothing_matches: bool = False

    @property
    def rows(self) -> list[int]:
        """The rows of all pictures that its hits tell of."""
        return [each.row for place in self.places for each in (place, *place.folded)]

    def answer(self, hits: list[Hit]) -> Answer:
        """Say of hits what is said of the whole answer."""
        return Answer(hits, self.category, self.probability, self.nothing_matches)


def hit_at(place: Place, records: dict[int, Record], read: dict[int, str]) -> Hit:
    """Make a hit of a place and what the catalogue knows of its picture.

    Args:
        place: Of a picture among ``records``; what it folds may be gone.
        records: By row.
        read: By row, the text that was read in pictures, empty where there was none.
    """
    record = records[place.row]
    picture = record.picture
    return Hit(
        rank=place.rank,
        score=place.score,
        row=record.row,
        image_id=picture.image_id,
        path=picture.path,  # type: ignore[arg-type]  # as it is stored
        caption=picture.caption,
        metadata=picture.metadata,  # type: ignore[arg-type]
        folded=tuple(hit_at(each, records, read) for each in place.folded if each.row in records),
        probability=place.probability,
        recognised=read.get(place.row) or None,
        word_score=place.word_score,
    )
