"""Retrieval by the language of its texts, over the same pictures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from clip_text.data.collection import RetrievalSet
from clip_text.evaluation.ranking import Features, best_ranks, recall_at_k
from clip_text.evaluation.robustness import check_pictures

if TYPE_CHECKING:  # it brings torch, which takes seconds to import
    from clip_text.tokenizer import TokenReport


class TextEncoder(Protocol):
    """What is asked of a model here; :class:`clip_text.Encoder` is one."""

    def encode_text(self, texts: Sequence[str], /) -> Features:
        """Encode texts into unit rows, [texts, embed_dim]."""


class Reporting(Protocol):
    """What says, where a model has it, which parts of texts it has no word for."""

    def __call__(self, texts: Sequence[str], /) -> "TokenReport":
        """Report on texts."""


@dataclass(frozen=True, slots=True)
class LanguageRecall:
    """Text-to-image retrieval by the texts of one language.

    Args:
        language: Language of the texts, the kind of the captions.
        recall: By k, share of texts in [0, 1] with a right picture in the top k.
        median_rank: Rank of the best right picture of the median text; 1 is best.
        texts: How many texts were asked.
        pictures: How many pictures each was asked over.
        unknown: Share in [0, 1] of [UNK] among the tokens read, special tokens not counted; None
            of a model that does not say.
    """

    language: str
    recall: dict[int, float]
    median_rank: float
    texts: int
    pictures: int
    unknown: float | None


def by_language(
    encoder: TextEncoder,
    collection: RetrievalSet,
    image_features: Features,
    ks: Sequence[int] = (1, 5, 10),
) -> list[LanguageRecall]:
    """Ask in each language in turn, over all pictures of the collection.

    The candidates are the same for all, so that a language with few texts is not an easier one.

    Args:
        encoder: The model.
        collection: Pictures, and texts with their language as kind.
        image_features: Unit rows of the collection's pictures, [pictures, embed_dim].
        ks: Depths of recall.

    Returns:
        One row a language, in the order in which the collection first has them.

    Raises:
        ValueError: If there is not one row of features per picture, or a feature isn't finite.
    """
    check_pictures(collection, image_features)
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, text in enumerate(collection.texts):
        places[text.kind].append(at)
    out = []
    report: Reporting | None = getattr(encoder, "text_report", None)
    for language, here in places.items():
        texts = [collection.texts[place].text for place in here]
        answers = [collection.answers[place] for place in here]
        ranks = best_ranks(encoder.encode_text(texts), image_features, answers)
        out.append(
            LanguageRecall(
                language=language,
                recall={k: recall_at_k(ranks, k) for k in ks},
                median_rank=float(np.median(ranks)),
                texts=len(texts),
                pictures=len(image_features),
                unknown=report(texts).unknown_share if report else None,
            )
        )
    return out
