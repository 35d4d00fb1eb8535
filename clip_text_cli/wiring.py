"""Names to objects: a model's name to its Encoder; the rooms that commands bring together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text import Encoder
    from retrieval.protocols import EncodeAndClassify

Contract = Literal["clip_text", "cn_clip", "hf", "open_clip"]


def load_encoder(model: str, compat: Contract | None = None) -> "Encoder":
    """Load the model."""
    from clip_text import Encoder

    return Encoder.from_pretrained(model, compat=compat)


def query_classifier(encoder: "Encoder", head: str | None) -> "EncodeAndClassify | None":
    """What encodes and classifies queries in one pass; None where the model has no head for it.

    Raises:
        ClipTextError: If a head is named that the model has not.
    """
    from clip_text.checkpoints.heads import heads_for
    from clip_text.errors import ClipTextError
    from clip_text.heads import ClassificationHead

    heads = heads_for(encoder.heads, ClassificationHead)
    if head is None and len(heads) != 1:
        return None
    if head is not None and head not in heads:
        raise ClipTextError(
            f"expected one of the model's classification heads "
            f"({', '.join(heads) or 'it has none'}), got {head!r}. Leave --head out, or "
            "train one: clip-text train classifier."
        )

    def classify(texts: Sequence[str]) -> "tuple[Any, list[tuple[str, float] | None]]":
        rows, found = encoder.encode_and_classify(texts, head, top_k=1)
        # a head of several labels may find none
        return rows, [(one.label, one.probability) if one.chosen else None for one in found]

    return classify
