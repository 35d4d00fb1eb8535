"""The towers as graphs: the rows of the Encoder, whatever the backbone and however texts lie."""

import threading

import numpy as np
import pytest
import torch
from models import BACKBONES, CLS, IMAGE_SIZE, PAD, SEP, VISION, rows, tiny_checkpoint

from clip_text.encoder import Encoder
from clip_text.runtimes.graph import ImageGraph, PackedText, TextGraph, can_pack, traceable

SAME = 1e-5
TOKENS = rows([CLS, 7, 8, 9, SEP], [CLS, SEP], [CLS, 20, 21, SEP], [CLS, *range(5, 18), SEP])


@pytest.mark.parametrize("pooler", ["cls", "mean", "max"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_the_text_graph_gives_the_encoders_rows(kind, pooler):
    checkpoint = tiny_checkpoint(kind=kind, pooler=pooler)
    expected = Encoder(checkpoint, "cpu").runtime.text(TOKENS.numpy())
    with torch.inference_mode():
        np.testing.assert_allclose(TextGraph(checkpoint.model.text)(TOKENS), expected, atol=SAME)
    packs = kind in ("bert", "roberta", "xlm-roberta") and pooler != "max"
    assert can_pack(checkpoint.model.text) == packs


def test_a_hole_in_a_text_is_seen_by_no_token():
    checkpoint = tiny_checkpoint(pooler="mean")
    tokens = torch.tensor([[CLS, 7, PAD, 9, SEP, PAD]])
    expected = Encoder(checkpoint, "cpu").runtime.text(tokens.numpy())
    with torch.inference_mode():
        np.testing.assert_allclose(TextGraph(checkpoint.model.text)(tokens), expected, atol=SAME)


@pytest.mark.parametrize("pooler", ["cls", "mean"])
def test_texts_behind_one_another_dont_see_each_other(pooler):
    checkpoint = tiny_checkpoint(pooler=pooler)
    expected = Encoder(checkpoint, "cpu").runtime.text(TOKENS[:3].numpy())
    # the third text and the first in one row, the second in another, with padding
    ids = torch.tensor([[CLS, 20, 21, SEP, CLS, 7, 8, 9, SEP], [CLS, SEP, *[PAD] * 7]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [0, 1, *[0] * 7]])
    owners = torch.tensor([[0] * 4 + [1] * 5, [0, 0, *[-1] * 7]])
    firsts = torch.tensor([[0, 4], [0, 0]])
    with torch.inference_mode():
        packed = PackedText(checkpoint.model.text)(ids, positions, owners, firsts)
    np.testing.assert_allclose(packed[[0, 1, 0], [1, 0, 0]], expected, atol=SAME)


def test_the_last_layer_computes_only_what_cls_pooling_reads():
    checkpoint = tiny_checkpoint(pooler="cls")
    sizes = []
    for layer in checkpoint.model.text.transformer.encoder.layer:
        layer.output.dense.register_forward_hook(lambda _, given, out: sizes.append(out.shape[1]))
    with torch.inference_mode():
        TextGraph(checkpoint.model.text)(TOKENS)
    assert sizes == [15, 1]


@pytest.mark.parametrize("vision", VISION)
def test_the_image_graph_gives_the_encoders_rows(vision):
    checkpoint = tiny_checkpoint(vision=vision)
    encoder = Encoder(checkpoint, "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    graph = ImageGraph(checkpoint.model, checkpoint.preprocessing)
    with torch.inference_mode():
        computed = graph(torch.from_numpy(pixels))
    np.testing.assert_allclose(computed, encoder.runtime.image(pixels), atol=SAME)


def test_two_traces_at_once_leave_torch_as_it_was():
    """The first to begin is the first to end, while the other is within."""
    before, fast = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    began, ended = threading.Event(), threading.Event()

    def second():
        began.set()
        with traceable():
            ended.wait(10)

    torch.set_num_threads(3)
    try:
        other = threading.Thread(target=second)
        with traceable():
            other.start()
            assert began.wait(10)
            other.join(0.1)  # is within by now, if nothing keeps it out
        ended.set()
        other.join()
        assert (torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()) == (3, fast)
    finally:
        torch.set_num_threads(before)
