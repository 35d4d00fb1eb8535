"""What a run of fine-tuning says of recall, in words."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from clip_text.data.collection import RetrievalSet
from clip_text.data.duplicates import pictures_by_wording
from clip_text.evaluation.measure import Encoded, measure

KS = (1, 5, 10)
PICTURES_OF_A_LABEL = 4
"""Pictures for each wording of a caption, on average, above which captions are labels."""
SHOWN_LABELS = 3
"""How many of them are named."""
BEST_BY = "mean_recall"
"""Mean of recall@1, @5 and @10 both ways: what Chinese-CLIP's tables call MR.

Of a run that trains beginnings of rows, too, the mean of that over their widths and the whole.
"""


def told_labels(collection: RetrievalSet) -> str:
    """Say what recall means where captions are labels that many pictures share; else nothing.

    Args:
        collection: What is measured on, with equal wordings merged.
    """
    pictures = pictures_by_wording(collection)
    described = len(set().union(*pictures.values()))
    labels = len(pictures) * PICTURES_OF_A_LABEL < described or len(pictures) == 1 < described
    if not labels:
        return ""
    most = sorted(pictures, key=lambda wording: -len(pictures[wording]))[:SHOWN_LABELS]
    shown = ", ".join(f"{wording} ({len(pictures[wording]):,})" for wording in most)
    if more := len(pictures) - len(most):
        shown += f" and {more:,} more"
    return (
        f"note: the captions of {described:,} pictures to measure on have {len(pictures):,} "
        f"wording{'s' if len(pictures) > 1 else ''}: {shown}. They are labels: i2t recall@1 is "
        "the share of pictures whose own label is the nearest (guessing gives 1 in "
        f"{len(pictures):,}), t2i recall@k that of captions with a picture of their label among "
        "the first k, which is soon reached"
    )


def mean_recalls(
    collection: RetrievalSet, encoded: Encoded, widths: Sequence[int]
) -> dict[str, float]:
    """Measure what a run chooses by.

    Args:
        collection: What to measure on.
        encoded: Whole rows of it.
        widths: Numbers of first dimensions that are trained to do alone.

    Returns:
        Recall of the whole rows both ways by name, shares in [0, 1]; with widths, for each of
        them and the whole the mean, such as ``mean_recall_64d``; and :data:`BEST_BY`.
    """
    metrics = measure(collection, encoded, KS).recalls()
    means = {encoded.texts.shape[1]: fmean(metrics.values())}
    for width in widths:
        cut = measure(collection, encoded.truncated(width), KS)
        means[width] = fmean(cut.recalls().values())
    if len(means) > 1:
        metrics |= {f"{BEST_BY}_{width}d": means[width] for width in sorted(means)}
    return metrics | {BEST_BY: fmean(means.values())}


def told(metrics: Mapping[str, float], before: Mapping[str, float] | None = None) -> str:
    """Say metrics in a line, in percent, with the change of the mean since the start."""
    recalls = " / ".join(f"{100 * metrics[f't2i_recall@{k}']:.1f}" for k in KS)
    line = f"t2i recall@{'/'.join(map(str, KS))} {recalls}, mean {100 * metrics[BEST_BY]:.2f}"
    by_width = [
        f"{name.removeprefix(BEST_BY + '_').removesuffix('d')}: {100 * value:.2f}"
        for name, value in metrics.items()
        if name.startswith(f"{BEST_BY}_")
    ]
    if by_width:
        line += f" over dimensions ({', '.join(by_width)})"
    return line if before is None else f"{line} ({_change(metrics, before)})"


def _change(metrics: Mapping[str, float], before: Mapping[str, float]) -> str:
    return f"{100 * (metrics[BEST_BY] - before[BEST_BY]):+.2f} since the start"
