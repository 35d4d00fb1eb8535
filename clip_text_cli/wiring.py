"""Names to objects: a model's name to its Encoder; the rooms that commands bring together."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text import Encoder
    from retrieval.protocols import EncodeAndClassify

Contract = Literal["clip_text", "cn_clip", "hf", "open_clip"]
RuntimeName = Literal["auto", "torch", "torch-bf16", "openvino", "openvino-bf16", "onnxruntime"]


def load_encoder(
    model: str, compat: Contract | None = None, runtime: RuntimeName | None = None
) -> "Encoder":
    """Load the model.

    Args:
        model: As ``--model`` names it.
        compat: Whose tokens a text becomes, if not those the model was saved with.
        runtime: How it computes; ``CLIP_TEXT_RUNTIME`` or ``auto`` if not given.
    """
    from clip_text import Encoder

    return Encoder.from_pretrained(model, compat=compat, runtime=runtime)


def load_for_queries(model: str, runtime: RuntimeName) -> "Encoder":
    """Load what encodes queries: the starter by its exported form, in a tenth of the time.

    That form is made at first use and kept in the user's cache; its rows are those of the starter,
    to the last digits of float32. Where it cannot be made, the starter itself is loaded.

    Args:
        model: As ``--model`` names it.
        runtime: How it computes; the exported form stands for ``auto``.
    """
    if model == "starter" and runtime == "auto" and (kept := _kept_starter()):
        return kept
    return load_encoder(model, runtime=runtime)


def _kept_starter() -> "Encoder | None":
    from clip_text import Encoder
    from clip_text.errors import ClipTextError
    from clip_text.runtimes.exported import is_exported
    from clip_text.runtimes.kept import kept_family, kept_starter

    family = kept_family()
    if family is None:
        return None
    folder = kept_starter(family)
    if is_exported(folder):
        with suppress(ClipTextError):  # truncated, say: it is made anew
            return Encoder.from_pretrained(folder)
    try:
        from clip_text.exporting.kept import keep_starter
    except ImportError:  # only exported models run here
        return None
    return Encoder.from_pretrained(folder) if keep_starter(folder, family) else None


def query_classifier(encoder: "Encoder", head: str | None) -> "EncodeAndClassify | None":
    """What encodes and classifies queries in one pass; None where the model has no head for it.

    Raises:
        ClipTextError: If a head is named that the model has not.
    """
    from clip_text.errors import ClipTextError

    heads = [name for name, each in encoder.heads.items() if each.task == "classification"]
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
