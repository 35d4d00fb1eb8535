"""Contrastive losses: pure functions on features."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize


def multi_positive_contrastive(
    text_features: Tensor, image_features: Tensor, positives: Tensor, logit_scale: Tensor
) -> Tensor:
    """Symmetric cross-entropy between texts and images, several right answers a row allowed.

    The target of a row is spread evenly over its positives, so two captions of one image (or two
    images with one caption) are not pushed apart. With exactly one positive a row this is CLIP's
    loss.

    Args:
        text_features: [texts, embed_dim], of any length: they are normalised here.
        image_features: [images, embed_dim].
        positives: Bool [texts, images], True where the text describes the image; every text and
            every image has at least one.
        logit_scale: Factor on the cosines (the exp of the learned log), a scalar.

    Returns:
        Mean over both directions, a scalar.

    Raises:
        ValueError: If a text or an image has no positive.

    Source:
        Khosla et al. 2020, equation 2 (arXiv:2004.11362), in both directions of
        Radford et al. 2021, figure 3 (arXiv:2103.00020).
    """
    lonely = int((~positives.any(1)).sum()), int((~positives.any(0)).sum())
    if any(lonely):
        raise ValueError(
            f"expected a positive for every text and image, got {lonely[0]} texts and "
            f"{lonely[1]} images without one. Drop them from the batch."
        )
    # In bf16 a cosine is off by up to 0.004, which the scale turns into 0.4 of a logit.
    with torch.autocast(text_features.device.type, enabled=False):
        texts = normalize(text_features.float(), dim=-1)
        images = normalize(image_features.float(), dim=-1)
        logits = logit_scale.float() * (texts @ images.T)
    return (
        _spread_cross_entropy(logits, positives) + _spread_cross_entropy(logits.T, positives.T)
    ) / 2


def _spread_cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    target = positives / positives.sum(1, keepdim=True)
    return -(target * log_softmax(logits, 1)).sum(1).mean()


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
