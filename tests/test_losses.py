"""Losses against numbers computed by hand and against open_clip's own."""

import math
from math import log

import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn.functional import normalize

from clip_text.losses import cosine_distillation, multi_positive_contrastive

# With this factor on the cosines, exp(logit) is 3 for equal directions and 1 for orthogonal ones.
SCALE = torch.tensor(log(3))
X, Y = [1.0, 0.0], [0.0, 1.0]


def bools(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_two_captions_of_one_image_by_hand():
    texts, images = torch.tensor([X, X, Y]), torch.tensor([X, Y])
    positives = bools([1, 0], [1, 0], [0, 1])
    texts_to_images = log(4 / 3)  # 3 against 1, in all three rows
    first_image = log(7 / 3)  # 3, 3 and 1; half of the target on each of the threes
    second_image = log(5 / 3)  # 1, 1 and 3
    expected = (texts_to_images + (first_image + second_image) / 2) / 2
    loss = multi_positive_contrastive(texts, images, positives, SCALE)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_one_caption_of_two_images_by_hand():
    texts, images = torch.tensor([X, Y]), torch.tensor([X, Y])
    positives = bools([1, 1], [0, 1])
    # the target of the row with two positives is a half each; columns mirror the rows
    expected = ((log(4 / 3) + log(4)) / 2 + log(4 / 3)) / 2
    loss = multi_positive_contrastive(texts, images, positives, SCALE)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_a_lone_pair_costs_nothing():
    one = torch.tensor([[3.0, 4.0]])
    assert float(multi_positive_contrastive(one, -one, bools([1]), SCALE)) == 0


@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
def test_with_one_positive_each_it_is_open_clips_loss(scale):
    generator = torch.Generator().manual_seed(0)
    texts = normalize(torch.randn(6, 8, generator=generator), dim=-1)
    images = normalize(torch.randn(6, 8, generator=generator), dim=-1)
    expected = float(ClipLoss()(images, texts, torch.tensor(scale)))
    ours = multi_positive_contrastive(texts, images, torch.eye(6).bool(), torch.tensor(scale))
    assert float(ours) == pytest.approx(expected, rel=1e-6)
    order = torch.randperm(6, generator=generator)
    shuffled = multi_positive_contrastive(
        texts[order], images, torch.eye(6).bool()[order], torch.tensor(scale)
    )
    assert float(shuffled) == pytest.approx(expected, rel=1e-6)


def test_lengths_of_the_inputs_do_not_count():
    generator = torch.Generator().manual_seed(1)
    texts = torch.randn(5, 8, generator=generator)
    images = torch.randn(3, 8, generator=generator)
    positives = bools([1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1])
    loss = multi_positive_contrastive(texts, images, positives, torch.tensor(10.0))
    lengths = torch.tensor([0.01, 3.0, 7.0, 100.0, 0.5])[:, None]
    longer = multi_positive_contrastive(
        texts * lengths, images * lengths[:3], positives, torch.tensor(10.0)
    )
    assert float(longer) == pytest.approx(float(loss), rel=1e-5)


def text_gradient(positives):
    """Of two equal texts, each lying halfway between two images."""
    texts = torch.tensor([X, X], requires_grad=True)
    images = torch.tensor([[0.8, 0.6], [0.8, -0.6]])
    multi_positive_contrastive(texts, images, positives, torch.tensor(10.0)).backward()
    return texts.grad


def test_a_false_negative_neither_pulls_nor_pushes():
    assert text_gradient(bools([1, 1], [1, 1])).abs().max() < 1e-6
    # taken for a negative, it would push the text away from its second image
    pushed = text_gradient(bools([1, 0], [0, 1]))
    assert pushed[0, 1] < -0.1
    assert pushed[1, 1] > 0.1


def test_the_gradient_of_logit_scale_flows():
    scale = torch.tensor(1.0, requires_grad=True)
    multi_positive_contrastive(
        torch.tensor([X, Y]), torch.tensor([X, Y]), torch.eye(2).bool(), scale
    ).backward()
    # loss = log(1 + exp(-scale)) in all rows and columns
    assert float(scale.grad) == pytest.approx(-1 / (1 + math.e), rel=1e-5)


@pytest.mark.parametrize(
    ("positives", "counts"),
    [
        (bools([1, 0], [0, 0]), "1 texts and 1 images"),
        (bools([1, 1], [0, 0]), "1 texts and 0 images"),
        (bools([1, 0], [1, 0]), "0 texts and 1 images"),
        (bools([0, 0], [0, 0]), "2 texts and 2 images"),
    ],
)
def test_rows_without_a_positive_are_refused(positives, counts):
    features = torch.eye(2)
    with pytest.raises(ValueError, match=rf"expected a positive .*, got {counts} .*\. Drop them"):
        multi_positive_contrastive(features, features, positives, SCALE)


def test_distillation_by_hand_with_a_missing_teacher():
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    teacher = torch.tensor([[2.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    expected = (0 + (1 + math.sqrt(0.5))) / 2  # the second has no teacher
    assert float(cosine_distillation(student, teacher)) == pytest.approx(expected, rel=1e-6)
    assert float(cosine_distillation(student * 7, teacher * 0.1)) == pytest.approx(
        expected, rel=1e-6
    )


def test_distillation_does_not_move_a_text_without_teacher():
    student = torch.tensor([[1.0, 1.0], [0.0, 2.0]], requires_grad=True)
    cosine_distillation(student, torch.tensor([[2.0, 0.0], [0.0, 0.0]])).backward()
    assert student.grad[0].abs().max() > 0.1
    assert student.grad[1].tolist() == [0.0, 0.0]


def test_distillation_without_any_teacher_is_zero_and_differentiable():
    student = torch.tensor([[1.0, 1.0]], requires_grad=True)
    loss = cosine_distillation(student, torch.zeros(1, 2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert student.grad.tolist() == [[0.0, 0.0]]
