"""Gradients of cached pieces against those of the whole batch, dropout on."""

import pytest
import torch
from models import IMAGE_SIZE, tiny_checkpoint
from torch import nn

from clip_text.training import gather, gradient_cache
from clip_text.training.contrastive import ContrastiveLoss, ContrastiveModel
from clip_text.training.gradient_cache import cached_backward, split
from clip_text.training.image_tower import PixelImageTower
from clip_text.training.recipe import Recipe

TEXTS = ["红色的心", "一只狗", "two cats", "大树", "黄 花", "鸟在天上飞", "a red dog", "水"]
PICTURES = 5
POSITIVES = torch.zeros(len(TEXTS), PICTURES, dtype=torch.bool)
for row, columns in enumerate([[0], [1], [2, 3], [3], [4], [4], [], [0]]):
    POSITIVES[row, columns] = True


def recipe(**changes):
    numbers = {"epochs": 1, "image": "all", "token_dropout": 0.2, "patch_dropout": 0.25}
    return Recipe(**numbers | changes)


def network(recipe, teacher_dim=0):
    checkpoint = tiny_checkpoint()
    images = PixelImageTower(checkpoint.model.visual, checkpoint.preprocessing)
    torch.manual_seed(0)
    return ContrastiveModel(checkpoint.model, images, recipe, teacher_dim).train(), checkpoint


def batch(checkpoint):
    shape = (PICTURES, IMAGE_SIZE, IMAGE_SIZE, 3)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.manual_seed(1))
    return checkpoint.tokenizer(TEXTS), pixels


def gradients(model):
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def whole(model, pieces, loss):
    """The whole batch with a graph: every piece once, its features put together."""
    parts = [model(*piece) for piece in pieces]
    features = {
        name: torch.cat([part[name] for part in parts]) if first.ndim else first
        for name, first in parts[-1].items()
    }
    value = loss(features)
    value.backward()
    return value.detach()


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
@pytest.mark.parametrize(
    ("kind", "widths"), [("softmax", ()), ("sigmoid", ()), ("softmax", (4, 9)), ("sigmoid", (9,))]
)
@pytest.mark.parametrize("teacher_dim", [0, 6])
def test_pieces_give_the_gradients_of_the_whole_with_dropout_on(
    kind, widths, micro_batch, teacher_dim
):
    model, checkpoint = network(recipe(loss=kind, matryoshka=widths), teacher_dim)
    tokens, pixels = batch(checkpoint)
    teacher = torch.randn(len(TEXTS), teacher_dim) if teacher_dim else None
    loss = ContrastiveLoss(model.recipe)

    def of(features):
        return loss(features, POSITIVES, teacher)

    pieces = split((tokens, pixels), micro_batch, checkpoint.tokenizer.pad_id)
    torch.manual_seed(7)
    expected_loss = whole(model, pieces, of)
    expected = gradients(model)
    expected_state = torch.get_rng_state()
    model.zero_grad()
    torch.manual_seed(7)
    value = cached_backward(
        model, (tokens, pixels), of, micro_batch, pad_id=checkpoint.tokenizer.pad_id
    )
    found = gradients(model)
    torch.testing.assert_close(value, expected_loss, rtol=1e-6, atol=0)
    assert found.keys() == expected.keys()
    assert "pair.logit_scale" in found
    for name, gradient in expected.items():
        far = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-4)
        assert far < 1e-6, (name, float(far))
    assert torch.equal(torch.get_rng_state(), expected_state), "the run goes on as if once"


def test_without_dropout_pieces_equal_the_batch_in_one_pass():
    model, checkpoint = network(recipe(token_dropout=0.0, patch_dropout=0.0))
    model.eval()
    tokens, pixels = batch(checkpoint)
    loss = ContrastiveLoss(model.recipe)
    loss(model(tokens, pixels), POSITIVES).backward()
    expected = gradients(model)
    model.zero_grad()
    cached_backward(
        model,
        (tokens, pixels),
        lambda features: loss(features, POSITIVES),
        2,
        pad_id=checkpoint.tokenizer.pad_id,
    )
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_dropout_is_really_on_and_really_replayed():
    """A second pass with masks of its own would give other gradients: the test can fail."""
    model, checkpoint = network(recipe())
    tokens, pixels = batch(checkpoint)
    loss = ContrastiveLoss(model.recipe)

    def once(seed):
        model.zero_grad()
        torch.manual_seed(seed)
        cached_backward(model, (tokens, pixels), lambda f: loss(f, POSITIVES), 2, pad_id=0)
        return gradients(model)["pair.text.proj.weight"]

    torch.testing.assert_close(once(1), once(1), rtol=0, atol=0)
    assert not torch.allclose(once(1), once(2), rtol=1e-2)


def test_pieces_are_as_many_of_texts_as_of_images_and_cut_padding():
    tokens = torch.tensor([[1, 2, 0, 0], [1, 0, 0, 0], [1, 2, 3, 0], [1, 2, 3, 4], [1, 0, 0, 0]])
    pieces = split((tokens, torch.arange(3)), 2, 0)
    assert [text.shape for text, _ in pieces] == [(1, 2), (2, 3), (2, 4)]
    assert [images.tolist() for _, images in pieces] == [[0], [1], [2]]
    both = split((tokens, torch.arange(2)), 1, 0)  # both towers run in every piece
    assert [len(text) for text, _ in both] == [2, 3]


def test_a_frozen_tower_gets_no_gradient_and_the_other_the_right_one():
    model, checkpoint = network(recipe(image="none", patch_dropout=0.0))
    tokens, pixels = batch(checkpoint)
    loss = ContrastiveLoss(model.recipe)
    cached_backward(model, (tokens, pixels), lambda f: loss(f, POSITIVES), 2, pad_id=0)
    names = gradients(model)
    assert not [name for name in names if name.startswith("pair.visual")]
    assert [name for name in names if name.startswith("pair.text")]


def test_the_loss_is_checked_before_anything_runs_backward():
    model, checkpoint = network(recipe())

    class RefusedError(Exception):
        pass

    def check(loss):
        raise RefusedError(float(loss.detach()))

    with pytest.raises(RefusedError):
        cached_backward(
            model,
            batch(checkpoint),
            lambda features: features["texts"].sum() * torch.nan,
            2,
            check=check,
        )
    assert not gradients(model)
    assert isinstance(model, nn.Module)


def test_processes_ask_each_other_on_the_device_of_the_batch(monkeypatch):
    """NCCL exchanges no tensors of a CPU."""
    seen = []

    def gather_rows(local):
        seen.append(local.device.type)
        return torch.tensor([3])

    monkeypatch.setattr(gather, "gather_rows", gather_rows)
    assert gather.largest(2, torch.device("meta")) == 3
    assert seen == ["meta"]
    asked = []
    monkeypatch.setattr(gradient_cache, "largest", lambda n, device: asked.append(device) or n)
    tokens = torch.ones(2, 2, dtype=torch.int64)
    split((tokens, tokens), 1, 0)
    assert asked == [tokens.device] * 2
