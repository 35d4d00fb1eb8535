"""What a search gives: pictures in their order, and what the query came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.records import Record, is_gone

__all__ = ["Answer", "Hit", "hit_of"]


@dataclass(frozen=True, slots=True)
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
            found with it, best first, with the ranks they would have had.
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
        return is_gone(self.path)


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


def hit_of(rank: int, score: float, record: Record, recognised: str | None) -> Hit:
    """Make a hit of what the catalogue knows of its picture."""
    picture = record.picture
    return Hit(
        rank=rank,
        score=score,
        row=record.row,
        image_id=picture.image_id,
        path=record.path,
        caption=picture.caption,
        metadata=record.metadata,
        recognised=recognised,
    )
