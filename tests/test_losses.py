"""Losses against numbers computed by hand and against open_clip's own."""

import math
from math import log

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn.functional import normalize

from clip_text import losses
from clip_text.losses import (
    cosine_distillation,
    matryoshka,
    multi_positive_contrastive,
    sigmoid_contrastive,
)

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


@pytest.mark.parametrize("positives", [bools([1, 0], [1, 0]), bools([0, 0], [0, 0])])
def test_images_without_a_text_are_refused(positives):
    features, number = torch.eye(2), int((~positives.any(0)).sum())
    for loss in (multi_positive_contrastive, with_bias):
        with pytest.raises(ValueError, match=rf"positive text .*, got {number} images .*\. Drop"):
            loss(features, features, positives, SCALE)


def with_bias(texts, images, positives, scale, **rows):
    return sigmoid_contrastive(texts, images, positives, scale, torch.tensor(-1.0), **rows)


def test_a_hard_negative_by_hand():
    texts, images = torch.tensor([X, Y, X]), torch.tensor([X, Y])
    positives = bools([1, 0], [0, 1], [0, 0])  # the third looks like the first image's
    first_image, second_image = log(7 / 3), log(5 / 3)  # 3, 1 and 3; 1, 3 and 1
    expected = (log(4 / 3) + (first_image + second_image) / 2) / 2
    loss = multi_positive_contrastive(texts, images, positives, SCALE)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_sigmoid_by_hand_with_two_captions_of_one_image():
    texts, images = torch.tensor([X, X, Y]), torch.tensor([X, Y])
    positives = bools([1, 0], [1, 0], [0, 1])
    equal, orthogonal = log(3) - 1, -1.0  # products with the bias
    cost = {True: lambda z: log(1 + math.exp(-z)), False: lambda z: log(1 + math.exp(z))}
    expected = (3 * cost[True](equal) + 3 * cost[False](orthogonal)) / 3
    assert float(with_bias(texts, images, positives, SCALE)) == pytest.approx(expected, rel=1e-6)


def test_with_one_positive_each_the_sigmoid_loss_is_open_clips():
    generator = torch.Generator().manual_seed(0)
    texts = normalize(torch.randn(6, 8, generator=generator), dim=-1)
    images = normalize(torch.randn(6, 8, generator=generator), dim=-1)
    scale, bias = torch.tensor(10.0), torch.tensor(-3.0)
    expected = float(SigLipLoss()(images, texts, scale, bias))
    ours = sigmoid_contrastive(texts, images, torch.eye(6).bool(), scale, bias)
    assert float(ours) == pytest.approx(expected, rel=1e-6)


def test_matryoshka_by_hand():
    texts = torch.tensor([[3.0, 4.0, 0.0], [-3.0, 4.0, 0.0]])
    images = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    # of one dimension all are ±1; of two or three the cosines are ±3/5
    one, whole = log(1 + math.exp(-2 * log(3))), log(1 + math.exp(-1.2 * log(3)))

    def loss(some, others):
        return multi_positive_contrastive(some, others, torch.eye(2).bool(), SCALE)

    for widths, expected in (
        ((1,), (one + whole) / 2),
        ((1, 2), (one + 2 * whole) / 3),
        ((1, 1, 3), (one + whole) / 2),  # each width once, the whole as well
        ((), whole),
    ):
        found = float(matryoshka(loss, texts, images, widths))
        assert found == pytest.approx(expected, rel=1e-6)


def test_matryoshka_reaches_what_lies_behind_by_the_whole_alone():
    texts = torch.tensor([[3.0, 4.0], [-3.0, 4.0]], requires_grad=True)
    images = torch.tensor([[0.6, 0.8], [-0.6, 0.8]])

    def loss(some, others):
        return multi_positive_contrastive(some, others, torch.eye(2).bool(), SCALE)

    (whole,) = torch.autograd.grad(loss(texts, images), texts)
    (both,) = torch.autograd.grad(matryoshka(loss, texts, images, [1]), texts)
    # of one dimension a row is its sign, which no small step changes
    torch.testing.assert_close(both, whole / 2)
    assert both[:, 1].abs().min() > 0.005


@pytest.mark.parametrize("loss", [multi_positive_contrastive, with_bias])
def test_the_parts_of_the_local_form_add_up(loss):
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(5, 8, generator=generator, dtype=torch.float32)
    images = torch.randn(3, 8, generator=generator)
    positives = bools([1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1])
    whole = loss(texts, images, positives, torch.tensor(10.0))
    parts = [
        loss(texts, images, positives, torch.tensor(10.0), rows=rows)
        for rows in ((slice(0, 2), slice(0, 1)), (slice(2, 5), slice(1, 3)))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("loss", [multi_positive_contrastive, with_bias])
def test_the_local_form_computes_no_more_pairs_than_its_own(loss, monkeypatch):
    """Or memory would grow with the square of the batch of all processes."""
    pairs, logits = [], losses._logits

    def counted(texts, images, scale):
        pairs.append(len(texts) * len(images))
        return logits(texts, images, scale)

    monkeypatch.setattr(losses, "_logits", counted)
    loss(torch.randn(64, 4), torch.randn(64, 4), torch.eye(64).bool(), SCALE)
    assert pairs == [64 * 64]
    pairs.clear()
    own = (slice(8, 16), slice(8, 16))
    loss(torch.randn(64, 4), torch.randn(64, 4), torch.eye(64).bool(), SCALE, rows=own)
    assert set(pairs) == {8 * 64}


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
