"""Contrastive losses: pure functions on features."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, normalize

EVERY_ROW = (slice(None), slice(None))


def multi_positive_contrastive(
    text_features: Tensor,
    image_features: Tensor,
    positives: Tensor,
    logit_scale: Tensor,
    *,
    rows: tuple[slice, slice] = EVERY_ROW,
) -> Tensor:
    """Symmetric cross-entropy between texts and images, several right answers a row allowed.

    The target of a row is spread evenly over its positives, so two captions of one image (or two
    images with one caption) are not pushed apart. With exactly one positive a row this is CLIP's
    loss. A text without a positive is a hard negative: images are pushed away from it, and it
    asks for nothing itself.

    Args:
        text_features: [texts, embed_dim], of any length: they are normalised here.
        image_features: Unit rows of the images, [images, embed_dim].
        positives: Bool [texts, images], True where the text describes the image; every image has
            at least one.
        logit_scale: Factor on the cosines (the exp of the learned log), a scalar.
        rows: Texts and images to sum over. What the parts of a batch give adds up to the whole:
            the local form of the loss, where every process computes its own rows.

    Returns:
        Mean over both directions, a scalar.

    Raises:
        ValueError: If an image has no positive.

    Source:
        Khosla et al. 2020, equation 2 (arXiv:2004.11362), in both directions of
        Radford et al. 2021, figure 3 (arXiv:2103.00020).
    """
    _check_described(positives)
    texts, images = rows
    # of all pairs only the asked rows and columns are computed: they may be few
    logits = _logits(text_features[texts], image_features, logit_scale)
    columns = logits
    if rows != EVERY_ROW:
        columns = _logits(text_features, image_features[images], logit_scale)
    t2i = _spread_cross_entropy(logits, positives[texts]) / positives.any(1).sum()
    i2t = _spread_cross_entropy(columns.T, positives.T[images]) / len(image_features)
    return (t2i + i2t) / 2


def sigmoid_contrastive(
    text_features: Tensor,
    image_features: Tensor,
    positives: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    rows: tuple[slice, slice] = EVERY_ROW,
) -> Tensor:
    """Binary cross-entropy of every pair of a text and an image: does it describe it or not?

    No row competes with another, so several positives a row need no special care. With one
    positive a row this is SigLIP's loss.

    Args:
        text_features: [texts, embed_dim], of any length: they are normalised here.
        image_features: Unit rows of the images, [images, embed_dim].
        positives: Bool [texts, images], True where the text describes the image; every image has
            at least one. A text without one is a hard negative.
        logit_scale: Factor on the cosines, a scalar.
        logit_bias: What is added to the products, a scalar; SigLIP starts from -10.
        rows: Texts to sum over, as in :func:`multi_positive_contrastive`.

    Returns:
        Sum over all pairs by the number of texts, a scalar.

    Raises:
        ValueError: If an image has no positive.

    Source:
        Zhai et al. 2023, algorithm 1 (arXiv:2303.15343).
    """
    _check_described(positives)
    texts, _ = rows
    logits = _logits(text_features[texts], image_features, logit_scale) + logit_bias.float()
    signs = positives[texts].float() * 2 - 1
    return -logsigmoid(signs * logits).sum() / len(text_features)


def matryoshka(
    loss: Callable[[Tensor, Tensor], Tensor],
    text_features: Tensor,
    image_features: Tensor,
    widths: Iterable[int],
) -> Tensor:
    """Mean of a loss over beginnings of the rows and over the whole rows, all of one weight.

    Rows learnt by it can be cut: what tells most lies in the first dimensions.

    Args:
        loss: Of text and image features of any width, which it normalises.
        text_features: [texts, embed_dim], not normalised.
        image_features: [images, embed_dim], not normalised.
        widths: How many of the first dimensions to take, beside all of them; each counts once.

    Returns:
        A scalar; without widths the loss itself.

    Source:
        Kusupati et al. 2022, equation 1 with equal weights (arXiv:2205.13147).
    """
    kept = sorted({*widths, text_features.shape[1]})
    losses = [loss(text_features[:, :width], image_features[:, :width]) for width in kept]
    return torch.stack(losses).mean()


def _check_described(positives: Tensor) -> None:
    mute = int((~positives.any(0)).sum())
    if mute:
        raise ValueError(
            f"expected a positive text for every image, got {mute} images without one. "
            "Drop them from the batch."
        )


def _logits(text_features: Tensor, image_features: Tensor, logit_scale: Tensor) -> Tensor:
    # In bf16 a cosine is off by up to 0.004, which the scale turns into 0.4 of a logit.
    with torch.autocast(text_features.device.type, enabled=False):
        texts = normalize(text_features.float(), dim=-1)
        images = normalize(image_features.float(), dim=-1)
        return logit_scale.float() * (texts @ images.T)


def _spread_cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    target = positives / positives.sum(1, keepdim=True).clamp(min=1)
    return -(target * log_softmax(logits, 1)).sum()


def taught_rows(teacher: Tensor) -> Tensor:
    """Say which rows the teacher gave, bool [n]: a row of zeros means that it is silent."""
    return teacher.abs().sum(1) > 0


def cosine_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine between the student's rows and the teacher's, a scalar in [0, 2].

    Args:
        student: [n, width], of any length.
        teacher: [n, width]; a row of zeros means there is no teacher for it, and it is left out.

    Source:
        Reimers & Gurevych 2020 (arXiv:2004.09813), with cosine in place of squared error.
    """
    known = taught_rows(teacher)
    if not known.any():
        return student.sum() * 0
    cosines = torch.cosine_similarity(student[known], teacher[known], dim=-1)
    return (1 - cosines).mean()
