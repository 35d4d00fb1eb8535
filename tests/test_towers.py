"""Poolers by hand, every tower through one suite, and parity with the real libraries."""

import math

import pytest
import torch
from models import (
    BACKBONES,
    CLS,
    IMAGE_SIZE,
    PAD,
    SEP,
    VISION,
    VOCABULARY,
    WIDTH,
    backbone,
    rows,
    tower_config,
)
from open_clip.hf_model import HFTextEncoder, MaxPooler
from torch.testing import assert_close
from transformers import BertModel
from transformers.modeling_outputs import BaseModelOutput

from clip_text.towers import (
    INIT_LOGIT_SCALE,
    MAX_LOGIT_SCALE,
    POOLERS,
    TextTower,
    build_model,
    cls_pool,
    max_pool,
    mean_pool,
)

EMBED_DIM = 24
TEXTS = rows([CLS, 9, 30, 41, 17, SEP], [CLS, 12, SEP], [CLS, SEP], [CLS, 60, 61, 12, SEP])
# Padding whose values would win every maximum and spoil every mean.
STATES = torch.tensor(
    [
        [[1.0, 2.0], [3.0, -4.0], [100.0, -100.0]],
        [[-1.0, -5.0], [-3.0, -4.0], [-2.0, -9.0]],
        [[-7.0, 8.0], [50.0, 50.0], [60.0, 60.0]],
    ]
)
PADDING = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])


def text_tower(kind="bert", pooler="mean", projection="linear", embed_dim=EMBED_DIM, **changes):
    torch.manual_seed(0)
    return TextTower(backbone(kind, **changes), embed_dim, pooler, projection).eval()


def close(actual, expected):
    assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (cls_pool, [[1.0, 2.0], [-1.0, -5.0], [-7.0, 8.0]]),
        (mean_pool, [[2.0, -1.0], [-2.0, -6.0], [-7.0, 8.0]]),
        (max_pool, [[3.0, 2.0], [-1.0, -4.0], [-7.0, 8.0]]),
    ],
)
@pytest.mark.parametrize("mask", [PADDING, PADDING.long()], ids=["bool", "int64"])
def test_poolers_by_hand(pool, expected, mask):
    assert pool(STATES, mask).tolist() == expected
    assert pool(STATES[:0], mask[:0]).shape == (0, 2)


def test_open_clips_max_pooler_pools_the_padding():
    """Why ours is not theirs: theirs hides the real tokens and keeps the padding."""
    theirs = MaxPooler()(BaseModelOutput(last_hidden_state=STATES[:1]), PADDING[:1])
    if theirs.tolist() == max_pool(STATES, PADDING)[:1].tolist():
        pytest.skip("open_clip has mended its max pooler: add it to the parity test below")
    assert theirs.tolist() == [[100.0, -100.0]]


@pytest.mark.parametrize("projection", ["linear", "mlp", "none"])
@pytest.mark.parametrize("pooler", list(POOLERS))
@pytest.mark.parametrize("kind", BACKBONES)
@torch.inference_mode()
def test_text_tower_contract(kind, pooler, projection):
    width = WIDTH if projection == "none" else EMBED_DIM
    tower = text_tower(kind, pooler, projection, width)
    features = tower(TEXTS)
    assert features.shape == (4, width)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert (tower.output_dim, tower.vocab_size) == (width, len(VOCABULARY))
    # padding, order and company change nothing; the text does
    for at, tokens in enumerate(TEXTS):
        bare = tokens[tokens != PAD]
        close(tower(bare[None])[0], features[at])
        close(tower(torch.nn.functional.pad(bare, (0, 7)).unsqueeze(0))[0], features[at])
    close(tower(TEXTS.flip(0)).flip(0), features)
    assert torch.pdist(features).min() > 1e-2
    # nothing lies in the tower that no forward pass reads (the tanh pooler of BERT)
    assert not [name for name in tower.state_dict() if "transformer.pooler" in name]


@pytest.mark.parametrize("vision", list(VISION))
@pytest.mark.parametrize("kind", BACKBONES)
def test_pair_contract(kind, vision):
    torch.manual_seed(0)
    model = build_model(tower_config(vision, kind)).eval()
    pictures = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.inference_mode():
        images = model.encode_image(pictures)
        texts = model.encode_text(TEXTS)
        assert images.shape == (3, EMBED_DIM)
        assert images.isfinite().all()
        for at in range(3):
            close(model.encode_image(pictures[at : at + 1])[0], images[at])
        close(texts, model.text(TEXTS))
        unit_images, unit_texts, scale = model(pictures, TEXTS)
    close(unit_images, images / images.norm(dim=1, keepdim=True))
    close(unit_texts, texts / texts.norm(dim=1, keepdim=True))
    assert float(scale) == pytest.approx(1 / 0.07)
    assert {name.split(".")[0] for name in model.state_dict()} == {"visual", "text", "logit_scale"}
    assert (model.context_length, model.vocab_size) == (16, len(VOCABULARY))


def test_logit_scale_bounds_are_clips():
    assert pytest.approx(2.6592600369) == INIT_LOGIT_SCALE
    assert math.exp(MAX_LOGIT_SCALE) == pytest.approx(100)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected pooler cls, mean, max, got 'tanh'\. Choose"):
        TextTower(backbone(), EMBED_DIM, pooler="tanh")
    with pytest.raises(
        ValueError, match=r"expected projection linear, mlp, tanh or none, got 'conv'"
    ):
        TextTower(backbone(), EMBED_DIM, projection="conv")
    with pytest.raises(ValueError, match=r"width 24 \(embed_dim\).* got 32\. Use projection"):
        TextTower(backbone(), EMBED_DIM, projection="none")


@pytest.mark.parametrize(
    ("pooler", "theirs"), [("mean", "mean_pooler"), ("cls", "cls_last_hidden_state_pooler")]
)
@pytest.mark.parametrize("projection", ["linear", "mlp", "none"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])  # all that open_clip knows
@torch.inference_mode()
def test_parity_with_open_clip(kind, projection, pooler, theirs, tmp_path):
    width = WIDTH if projection == "none" else EMBED_DIM
    ours = text_tower(kind, pooler, projection, width)
    ours.config.save_pretrained(tmp_path)
    reference = HFTextEncoder(
        str(tmp_path),
        width,
        pooler_type=theirs,
        proj_type=None if projection == "none" else projection,
        pretrained=False,
    ).eval()
    assert list(reference.state_dict()) == list(ours.state_dict())
    reference.load_state_dict(ours.state_dict(), strict=True)
    close(ours(TEXTS), reference(TEXTS))


@pytest.mark.parametrize("pooler", list(POOLERS))
@torch.inference_mode()
def test_parity_with_transformers(pooler):
    """BertModel, one unpadded text at a time, pooled by hand; another attention kernel, too."""
    ours = text_tower(pooler=pooler)
    config = backbone()
    config._attn_implementation = "eager"
    reference = BertModel(config, add_pooling_layer=False).eval()
    reference.load_state_dict(ours.transformer.state_dict(), strict=True)
    for tokens, actual in zip(TEXTS, ours(TEXTS), strict=True):
        states = reference(tokens[tokens != PAD][None]).last_hidden_state[0]
        pooled = {"cls": states[0], "mean": states.mean(0), "max": states.max(0).values}[pooler]
        close(actual, ours.proj.weight @ pooled)


def checkpointing(module):
    return any(getattr(part, "gradient_checkpointing", False) for part in module.modules())


LAYERS = {
    "bert": "encoder.layer.",
    "roberta": "encoder.layer.",
    "xlm-roberta": "encoder.layer.",
    "distilbert": "transformer.layer.",
}


@pytest.mark.parametrize("unlocked", [0, 1, 2, 3, 99])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("freeze_layer_norm", [True, False])
def test_lock_freezes_exactly_what_it_should(kind, unlocked, freeze_layer_norm):
    model = build_model(tower_config(kind=kind))
    model.lock_text_tower(unlocked, freeze_layer_norm)
    learns = {name for name, p in model.text.named_parameters() if p.requires_grad}
    everything = [name for name, _ in model.text.named_parameters()]
    prefixes = tuple(f"transformer.{LAYERS[kind]}{at}." for at in (1, 0)[:unlocked])
    expected = {name for name in everything if name.startswith((*prefixes, "proj."))}
    if not freeze_layer_norm:
        norms = {n for n in everything if "LayerNorm" in n or "layer_norm" in n}
        assert len(norms) == 10  # embeddings and two in each of two layers; weight and bias
        expected |= norms
    assert learns == expected
    assert all(p.requires_grad for p in model.visual.parameters())
    assert model.logit_scale.requires_grad


def test_lock_reaches_alberts_shared_layer():
    tower = text_tower("albert")
    tower.lock(1)
    learns = {name for name, p in tower.transformer.named_parameters() if p.requires_grad}
    assert learns == {n for n, _ in tower.transformer.named_parameters() if "layer_groups.0" in n}
    assert learns


@pytest.mark.parametrize("pooler", list(POOLERS))
def test_packed_texts_give_the_features_and_gradients_of_padded_ones(pooler):
    torch.manual_seed(0)
    tower = TextTower(backbone("bert"), EMBED_DIM, pooler).eval()
    numbers = torch.randint(5, len(VOCABULARY), (40, 30))
    lengths = torch.randint(2, 31, (40, 1))
    tokens = numbers.masked_fill(torch.arange(30) >= lengths, PAD)
    tokens[3, 1] = tokens[7, 2] = PAD  # holes, as dropped tokens leave them
    tokens = torch.cat([tokens, rows([CLS, SEP])[:, :1].expand(1, 30).clone()])
    tokens[-1, 1:] = PAD
    seen = []
    tower.transformer.embeddings.register_forward_hook(lambda *a: seen.append(a[2].shape[:2]))
    weights = torch.randn(len(tokens), EMBED_DIM)
    found = []
    for packed in (False, True):
        tower.zero_grad()
        tower.pack(packed)
        features = tower(tokens)
        (features * weights).sum().backward()
        gradients = {n: p.grad.clone() for n, p in tower.named_parameters() if p.grad is not None}
        found.append((features.detach(), gradients))
    assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        assert_close(found[1][1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)
    padded, packed_size = (rows * columns for rows, columns in seen)
    assert packed_size < 0.75 * padded


@pytest.mark.parametrize("kind", [kind for kind in BACKBONES if kind != "bert"])
def test_backbones_that_cannot_pack_pad(kind):
    tower = TextTower(backbone(kind), EMBED_DIM).eval()
    expected = tower(TEXTS)
    tower.pack()
    assert not tower.packed
    assert torch.equal(tower(TEXTS), expected)


def test_lock_can_be_undone_by_a_wider_lock():
    tower = text_tower()
    tower.lock(0)
    tower.lock(1)
    assert any(p.requires_grad for p in tower.transformer.parameters())


@pytest.mark.parametrize("kind", LAYERS)  # transformers has none for ALBERT
def test_gradient_checkpointing_gives_equal_gradients(kind):
    dropless = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tower = text_tower(kind, **dropless).train()

    def gradients():
        tower.zero_grad()
        tower(TEXTS).square().sum().backward()
        return {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}

    plain = gradients()
    tower.set_grad_checkpointing()
    assert checkpointing(tower.transformer)
    checkpointed = gradients()
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        close(checkpointed[name], gradient)
    tower.set_grad_checkpointing(False)
    assert not checkpointing(tower.transformer)


def test_open_clips_hooks_reach_both_towers():
    model = build_model(tower_config("vit"))
    model.set_grad_checkpointing()
    assert model.visual.transformer.grad_checkpointing
    assert checkpointing(model.text.transformer)
    model.text.init_parameters()
