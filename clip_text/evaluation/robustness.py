"""How much of retrieval is left when texts are misspelt, retyped or reworded."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clip_text.data.collection import RetrievalSet
from clip_text.evaluation.perturbations import PERTURBATIONS, Perturbation, select
from clip_text.evaluation.ranking import Features, best_ranks, recall_at_k

__all__ = ["PERTURBATIONS", "Perturbation", "Robustness", "robustness", "select"]

EncodeText = Callable[[Sequence[str]], Features]


@dataclass(frozen=True, slots=True)
class Robustness:
    """What one perturbation does to text-to-image retrieval.

    Args:
        perturbation: Name of the perturbation.
        texts: How many texts were asked.
        changed: How many of them it changes at all.
        clean: Recall by k over all texts as they are, shares in [0, 1].
        perturbed: Recall by k over all texts, those it changes in their new form.
        changed_clean: Recall by k over the texts it changes, as they are; NaN if there are none.
        changed_perturbed: Recall by k over the texts it changes, in their new form; NaN as above.
        cosine: Mean cosine in [-1, 1] between the old and the new row of a text it changes; NaN
            as above.
    """

    perturbation: str
    texts: int
    changed: int
    clean: dict[int, float]
    perturbed: dict[int, float]
    changed_clean: dict[int, float]
    changed_perturbed: dict[int, float]
    cosine: float

    @property
    def change(self) -> dict[int, float]:
        """Recall gained, or lost where negative, by k, over the texts that changed."""
        return {k: self.changed_perturbed[k] - clean for k, clean in self.changed_clean.items()}


def robustness(
    encode_text: EncodeText,
    collection: RetrievalSet,
    image_features: Features,
    perturbations: Iterable[Perturbation] = tuple(PERTURBATIONS.values()),
    ks: Sequence[int] = (1, 5, 10),
    *,
    seed: int = 0,
) -> list[Robustness]:
    """Ask for every picture in the collection's words, and again in words changed.

    Args:
        encode_text: Texts to unit rows, [texts, embed_dim].
        collection: Pictures, texts and answers.
        image_features: Unit rows of the collection's pictures, [pictures, embed_dim].
        perturbations: What to do to the texts; all of the table unless told.
        ks: Depths of recall.
        seed: Seed of the perturbations that leave something to chance.

    Returns:
        One row a perturbation, in the order given.

    Raises:
        ValueError: If there is not one row of features per picture, or a feature isn't finite.
        MissingPackageError: If a perturbation needs a library that is missing.
    """
    check_pictures(collection, image_features)
    texts = [text.text for text in collection.texts]
    rows = encode_text(texts)
    ranks = best_ranks(rows, image_features, collection.answers)
    out = []
    for perturbation in perturbations:
        fresh = [perturbation(text, seed) for text in texts]
        at = [place for place, text in enumerate(texts) if fresh[place] != text]
        changed, cosine = ranks.copy(), float("nan")
        if at:
            fresh_rows = encode_text([fresh[place] for place in at])
            answers = [collection.answers[place] for place in at]
            changed[at] = best_ranks(fresh_rows, image_features, answers)
            # unit rows, so their inner product is the cosine
            cosine = float(np.einsum("td,td->t", rows[at], fresh_rows, dtype=np.float64).mean())
        row = Robustness(
            perturbation=perturbation.name,
            texts=len(texts),
            changed=len(at),
            clean=_recalls(ranks, ks),
            perturbed=_recalls(changed, ks),
            changed_clean=_recalls(ranks[at], ks),
            changed_perturbed=_recalls(changed[at], ks),
            cosine=cosine,
        )
        out.append(row)
    return out


def _recalls(ranks: NDArray[np.float64], ks: Sequence[int]) -> dict[int, float]:
    return {k: recall_at_k(ranks, k) for k in ks}


def check_pictures(collection: RetrievalSet, image_features: Features) -> None:
    """Refuse features, [pictures, embed_dim], that are not of the collection's pictures.

    Raises:
        ValueError: If there is not one row per picture.
    """
    if len(image_features) != len(collection.image_ids):
        raise ValueError(
            f"expected a row for each of the {len(collection.image_ids):,} pictures of "
            f"{collection.name}, got {len(image_features):,}. Encode these very pictures."
        )
