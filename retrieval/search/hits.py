"""What a search gives: pictures in their order, and what the query came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Answer", "Hit"]


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
    """

    rank: int
    score: float
    row: int
    image_id: str
    path: Path | None
    caption: str | None
    metadata: dict[str, Any]

    @property
    def missing(self) -> bool:
        """True if there is no such file any more; looks each time it is asked.

        A picture that was added without a file misses none.
        """
        if self.path is None:
            return False
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # out of reach, which is not to say that it is gone
            return False
        return False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query came to.

    Args:
        hits: Pictures, best first.
        category: What kind of query it is, and the probability of that in [0, 1]; None without
            a classifier, or where it says nothing.
    """

    hits: list[Hit]
    category: tuple[str, float] | None
