"""Precision, recall and F1 of entities: one is found if its characters and its type agree."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clip_text.data.tags import Entity


@dataclass(frozen=True, slots=True)
class EntityScores:
    """Figures in [0, 1]; 0 where there is nothing to divide by.

    Args:
        precision: Share of what was found that is right.
        recall: Share of what there is that was found.
        f1: Harmonic mean of precision and recall, in [0, 1].
        support: Number of entities that the right answers have.
        found: Number of entities that were found, rightly or not.
    """

    precision: float
    recall: float
    f1: float
    support: int
    found: int


def entity_scores(
    truth: Sequence[Sequence[Entity]], found: Sequence[Sequence[Entity]]
) -> tuple[EntityScores, dict[str, EntityScores]]:
    """Compare what was found in some texts with what there is.

    Returns:
        The scores of all entities alike (seqeval's ``micro avg``), and those of each type.

    Raises:
        ValueError: If there are not as many texts on both sides.

    Source:
        Tjong Kim Sang & De Meulder 2003, section 2.3 (CoNLL-2003), as in seqeval's default mode.
    """
    if len(truth) != len(found):
        raise ValueError(
            f"expected entities found for each of {len(truth)} texts, got {len(found)}. Pair them."
        )
    there, seen, right = Counter[str](), Counter[str](), Counter[str]()
    for known, given in zip(truth, found, strict=True):
        there.update(one.label for one in known)
        seen.update(one.label for one in given)
        right.update(
            label for _, _, label in {one.key for one in known} & {one.key for one in given}
        )
    by_type = {
        label: _scores(right[label], seen[label], there[label]) for label in sorted(there | seen)
    }
    return _scores(right.total(), seen.total(), there.total()), by_type


def entity_confusion(
    truth: Sequence[Sequence[Entity]], found: Sequence[Sequence[Entity]], types: Sequence[str]
) -> NDArray[np.float64]:
    """Count which types were taken for which, among entities with the same characters.

    Args:
        truth: Entities of each text.
        found: The same of what was found.
        types: All types there are.

    Returns:
        [types + 1, types + 1]: right type in rows, type found in columns. The last column holds
        entities whose characters were not found as one, the last row what was found where none is.
    """
    places = {label: at for at, label in enumerate(types)}
    none = len(types)
    counts = np.zeros((none + 1, none + 1))
    for known, given in zip(truth, found, strict=True):
        right = {(one.start, one.end): places[one.label] for one in known}
        answer = {(one.start, one.end): places[one.label] for one in given}
        for span in right.keys() | answer.keys():
            counts[right.get(span, none), answer.get(span, none)] += 1
    return counts


def _scores(right: int, seen: int, there: int) -> EntityScores:
    precision, recall = right / max(seen, 1), right / max(there, 1)
    f1 = 2 * right / max(seen + there, 1)
    return EntityScores(precision, recall, f1, there, seen)
