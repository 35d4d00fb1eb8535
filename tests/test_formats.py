"""The three formats against the real libraries: files both ways, features within 1e-5."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import VOCABULARY, backbone, bert_tokenizer, tiny_checkpoint, tiny_tokenizer
from open_clip import CustomTextCLIP
from published import (
    CONTEXT_LENGTH,
    FULL,
    SIZES,
    TOKENS,
    VITS,
    cn_clip_model,
    features_of_cn_clip,
    features_of_hf,
    features_of_open_clip,
    hf_model,
    pictures,
    randomise,
    save_published,
)
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
    XLMRobertaForMaskedLM,
)

from clip_text.checkpoints import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    Preprocessing,
    load_checkpoint,
    load_text_tower,
    recognise,
    save_as,
    save_checkpoint,
)
from clip_text.checkpoints.cn_clip import chinese_tokenizer
from clip_text.checkpoints.files import read_state
from clip_text.checkpoints.keys import CN_CLIP, to_left
from clip_text.checkpoints.parts import OPENAI_MEAN, OPENAI_STD
from clip_text.checkpoints.recognition import read_source
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TowerConfig, build_model

pytest.importorskip("cn_clip", reason="pip install --no-deps cn_clip six")


def close(actual, expected):
    """Text and image features, as they are and as unit rows, within 1e-5."""
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        unit, reference = (torch.nn.functional.normalize(each, dim=-1) for each in (ours, theirs))
        assert_close(unit, reference, atol=1e-5, rtol=0)
        # it tells one input from another, or the parity says nothing
        assert (theirs[0] - theirs[1]).norm() > 0.02 * theirs[0].norm()


def same_tensors(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def images_of(name):
    return pictures(SIZES.get(name, FULL)["image_resolution"])


def published(name, path):
    """A cn_clip file of a size, the model that wrote it, and pictures for it."""
    model = cn_clip_model(name)
    return save_published(model, path / "epoch_latest.pt"), model, images_of(name)


def check_cn_clip(name, path):
    file, model, images = published(name, path)
    expected = features_of_cn_clip(model, images)
    loaded = load_checkpoint(file)
    close(features_of_open_clip(loaded.model, images), expected)
    save_as(loaded, path / "ours.pt", "cn_clip")
    # as cn_clip.clip.utils.create_model reads it
    state = torch.load(path / "ours.pt", weights_only=True)["state_dict"]
    again = cn_clip_model(name, seed=1)
    again.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    same_tensors(again.state_dict(), model.state_dict())
    close(features_of_cn_clip(again, images), expected)
    assert all(key.startswith("module.") for key in state)  # as its training's --resume needs
    return loaded


def check_hugging_face(name, path):
    model, images = hf_model(name), images_of(name)
    model.save_pretrained(path / "theirs")
    chinese_tokenizer(CONTEXT_LENGTH).save(path / "theirs")
    expected = features_of_hf(model, images)
    loaded = load_checkpoint(path / "theirs")
    close(features_of_open_clip(loaded.model, images), expected)
    save_as(loaded, path / "ours", "hf")
    again, info = ChineseCLIPModel.from_pretrained(path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    # files, because transformers sets the padding's row to zero while it loads
    weights = "model.safetensors"
    same_tensors(load_file(path / "ours" / weights), load_file(path / "theirs" / weights))
    close(features_of_hf(again.eval(), images), expected)
    return loaded


def open_clip_model(folder):
    """Build open_clip's own model, with its own text tower, from our folder's config."""
    shape = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
    shape["text_cfg"]["hf_model_name"] = str(folder)
    return CustomTextCLIP(**shape).eval()


def check_open_clip(name, path):
    file, model, images = published(name, path)
    expected = features_of_cn_clip(model, images)
    save_as(load_checkpoint(file), path / "ours", "open_clip")
    theirs = open_clip_model(path / "ours")
    theirs.load_state_dict(load_file(path / "ours" / WEIGHTS_FILE), strict=True)
    close(features_of_open_clip(theirs, images), expected)
    # and what open_clip itself saves is read
    randomise(theirs, seed=5)
    save_file(theirs.state_dict(), path / "ours" / WEIGHTS_FILE)
    loaded = load_checkpoint(path / "ours")
    close(
        features_of_open_clip(loaded.model, images),
        features_of_open_clip(theirs, images),
    )


@pytest.mark.parametrize("name", SIZES)
def test_cn_clip_both_ways(name, tmp_path):
    loaded = check_cn_clip(name, tmp_path)
    info = SIZES[name]
    assert loaded.config.embed_dim == info["embed_dim"]
    assert loaded.config.context_length == loaded.tokenizer.context_length == 52
    side = info["image_resolution"]
    assert loaded.preprocessing == Preprocessing(side, OPENAI_MEAN, OPENAI_STD)
    assert loaded.model.logit_scale.item() == pytest.approx(3.21)


@pytest.mark.parametrize("name", VITS)
def test_hugging_face_both_ways(name, tmp_path):
    loaded = check_hugging_face(name, tmp_path)
    assert loaded.model.logit_scale.item() == pytest.approx(3.21)
    config = json.loads((tmp_path / "ours" / "config.json").read_text(encoding="utf-8"))
    assert config["vision_config"]["hidden_act"] == "quick_gelu"
    assert config["vision_config"]["layer_norm_eps"] == 1e-5
    assert config["text_config"]["hidden_act"] == "gelu"
    assert config["text_config"]["layer_norm_eps"] == 1e-12
    processor = ChineseCLIPImageProcessor.from_pretrained(tmp_path / "ours")
    side = SIZES[name]["image_resolution"]
    wide = torch.zeros(3, 3 * side, 5 * side, dtype=torch.uint8)
    shape = processor(wide, return_tensors="pt")["pixel_values"].shape
    assert shape == (1, 3, side, side)  # squashed, not cropped


@pytest.mark.parametrize("name", SIZES)
def test_open_clip_both_ways(name, tmp_path):
    check_open_clip(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_cn_clip, check_hugging_face, check_open_clip])
def test_full_size_both_ways(check, tmp_path):
    """ViT-B/16 and RoBERTa-base with all their layers."""
    check("full", tmp_path)


@pytest.mark.parametrize("name", SIZES)
def test_a_round_trip_is_bit_identical(name, tmp_path):
    file, _, _ = published(name, tmp_path)
    start = load_checkpoint(file)
    if name != "RN50":  # which transformers has not
        save_as(start, tmp_path / "hf", "hf")
        start = load_checkpoint(tmp_path / "hf")
    save_as(start, tmp_path / "open_clip", "open_clip")
    save_as(load_checkpoint(tmp_path / "open_clip"), tmp_path / "end.pt", "cn_clip")
    first = torch.load(file, weights_only=True)["state_dict"]
    last = torch.load(tmp_path / "end.pt", weights_only=True)["state_dict"]
    same_tensors(first, last)


def test_transformers_cannot_have_a_resnet(tmp_path):
    file, _, _ = published("RN50", tmp_path)
    with pytest.raises(CheckpointError, match=r"got one with a ResNet image tower\. Write cn_clip"):
        save_as(load_checkpoint(file), tmp_path / "hf", "hf")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("to", ["cn_clip", "hf", "open_clip"])
def test_a_full_disk_leaves_nothing(to, tmp_path, monkeypatch):
    file, _, _ = published("ViT-B-16", tmp_path)
    checkpoint = load_checkpoint(file)

    def full(*arguments):
        next(path for path in arguments if isinstance(path, Path)).write_bytes(b"some")
        raise OSError(28, "No space left on device")

    # each the last that its writer calls
    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr("clip_text.checkpoints.huggingface.write_json", full)
    monkeypatch.setattr("clip_text.checkpoints.folder.write_json", full)
    with pytest.raises(OSError, match="No space"):
        save_as(checkpoint, tmp_path / "new.pt", to)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


class FlashState:
    """A model whose tensors have the names they have under FlashAttention."""

    def __init__(self, model):
        from cn_clip.clip.model import convert_state_dict

        # cn_clip's own, which wants the prefix
        state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        self.state = convert_state_dict(state)

    def state_dict(self):
        return {name.removeprefix("module."): tensor for name, tensor in self.state.items()}


@pytest.mark.parametrize("name", ["ViT-B-16", "RN50"])
def test_flash_attention_names(name, tmp_path):
    model = cn_clip_model(name)
    flash = FlashState(model)
    assert any("bert" in key and "Wqkv" in key for key in flash.state)
    loaded = load_checkpoint(save_published(flash, tmp_path / "flash.pt"))
    plain = load_checkpoint(save_published(model, tmp_path / "plain.pt"))
    same_tensors(loaded.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_wrapped_and_bare_state_dicts(wrapper, tmp_path):
    model = cn_clip_model("ViT-B-16")
    state = {wrapper + name: tensor for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "bare.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "bare.safetensors")
    optimizer = {"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.ones(3)}}}
    optimizer["param_groups"] = [{"lr": 1e-5, "betas": (0.9, 0.98), "params": [0]}]
    save_published(model, tmp_path / "full.pt", wrapper=wrapper, optimizer=optimizer)
    expected = dict(to_left(model.state_dict(), CN_CLIP).weights)
    for name in ("bare.pt", "legacy.pt", "bare.safetensors", "full.pt"):
        same_tensors(dict(read_source(tmp_path / name).weights), expected)
    assert read_state(tmp_path / "full.pt").beside == ("epoch", "step", "name", "optimizer")


def test_what_computes_nothing_is_left_out_and_said(tmp_path):
    model = cn_clip_model("ViT-B-16")
    extras = {
        "bert.pooler.dense.weight": torch.zeros(128, 128),
        "bert.pooler.dense.bias": torch.zeros(128),
        "bert.embeddings.position_ids": torch.arange(64)[None],
    }
    path = save_published(model, tmp_path / "old.pt", dtype=torch.float16, extras=extras)
    found = recognise(path)
    assert set(found.dropped) == set(extras)
    assert (found.format, found.path) == ("cn_clip", path)
    assert (found.image_layers, found.text_layers, found.embed_dim) == (2, 2, 32)
    assert found.context_length == CONTEXT_LENGTH
    assert found.logit_scale == pytest.approx(3.21, abs=1e-3)
    assert found.dtypes == {"float16": 71}
    assert found.tensors == 71
    assert found.parameters == sum(tensor.numel() for tensor in model.state_dict().values())
    said = "\n".join(found.lines())
    assert "ViT, 2 layers, width 128, 2 heads, patch 16, 32 px, QuickGELU" in said
    assert "bert, 2 layers, width 128, 2 heads, vocabulary 21,128" in said
    assert "3 that compute nothing: bert.pooler.dense.weight" in said
    images = images_of("ViT-B-16")
    half = randomise(cn_clip_model("ViT-B-16"))
    half.load_state_dict({name: t.half().float() for name, t in model.state_dict().items()})
    close(
        features_of_open_clip(load_checkpoint(path).model, images),
        features_of_cn_clip(half, images),
    )


def hf_folder(path, name="ViT-B-16"):
    hf_model(name).save_pretrained(path)
    chinese_tokenizer(CONTEXT_LENGTH).save(path)
    return path


@pytest.mark.parametrize("kind", ["whole bin", "shards of bin", "shards of safetensors"])
def test_hugging_face_weights_in_other_files(kind, tmp_path):
    folder = hf_folder(tmp_path / "hf")
    expected = load_checkpoint(folder).model.state_dict()
    state = load_file(folder / "model.safetensors")
    # as folders of 2022 have them
    state["text_model.embeddings.position_ids"] = torch.arange(64)[None]
    (folder / "model.safetensors").unlink()
    if kind == "whole bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        name, suffix = ("pytorch_model", "bin") if "bin" in kind else ("model", "safetensors")
        places = {key: f"{name}-{at % 2 + 1}-of-2.{suffix}" for at, key in enumerate(state)}
        for file in set(places.values()):
            part = {key: state[key] for key, place in places.items() if place == file}
            (torch.save if suffix == "bin" else save_file)(part, folder / file)
        index = folder / f"{name}.{suffix}.index.json"
        index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    assert recognise(folder).dropped == ("text_model.embeddings.position_ids",)
    same_tensors(load_checkpoint(folder).model.state_dict(), expected)


def test_hugging_face_folders_as_they_are_published(tmp_path):
    """A size as one number, and a vocab.txt, or no vocabulary at all."""
    folder = hf_folder(tmp_path / "hf")
    settings = {
        "do_center_crop": False,
        "feature_extractor_type": "ChineseCLIPFeatureExtractor",
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "resample": 3,
        "size": 32,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    whole = load_checkpoint(folder)
    assert whole.preprocessing == Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    vocabulary = whole.tokenizer.backend.get_vocab()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    texts = ["一只狗 running", "DOG，ＡＢＣ"]
    expected = whole.tokenizer.token_ids(texts)
    assert load_checkpoint(folder).tokenizer.token_ids(texts) == expected
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    assert load_checkpoint(folder).tokenizer.token_ids(texts) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_center_crop": True, "size": 32}, "without a centre crop"),
        ({"do_center_crop": False, "size": {"shortest_edge": 32}}, "expected pictures squashed"),
        ({"do_center_crop": False, "size": 32, "resample": 2}, "expected resample 3"),
    ],
)
def test_other_preprocessing_is_refused(settings, expected, tmp_path):
    folder = hf_folder(tmp_path / "hf")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(folder)


def test_hugging_face_keeps_what_others_fix(tmp_path):
    """GELU, another epsilon, another head width and a context length come back."""
    model = hf_model("ViT-B-16")
    model.config.vision_config.hidden_act = "gelu"
    model.config.vision_config.layer_norm_eps = 1e-3
    model.config.vision_config.num_attention_heads = 4
    model = randomise(ChineseCLIPModel(model.config))
    model.save_pretrained(tmp_path / "one")
    chinese_tokenizer(CONTEXT_LENGTH).save(tmp_path / "one")
    images = images_of("ViT-B-16")
    save_as(load_checkpoint(tmp_path / "one", context_length=20), tmp_path / "two", "hf")
    again = load_checkpoint(tmp_path / "two")
    assert again.config.context_length == again.tokenizer.context_length == 20
    close(features_of_open_clip(again.model, images), features_of_hf(model, images))
    save_as(again, tmp_path / "three", "open_clip")
    loaded = load_checkpoint(tmp_path / "three")
    close(features_of_open_clip(loaded.model, images), features_of_hf(model, images))
    with pytest.raises(CheckpointError) as caught:
        save_as(again, tmp_path / "four.pt", "cn_clip")
    for what in (
        "quick_gelu False, not True",
        "head_width 32, not 64",
        "norm_kwargs {'eps': 0.001",
    ):
        assert what in str(caught.value)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_hub_repository_with_the_weights_of_cn_clip_too(sharded, tmp_path, monkeypatch):
    """As OFA-Sys publishes them; here in the hub's cache, which needs no network."""
    repository = tmp_path / "models--OFA-Sys--chinese-clip"
    snapshot = repository / "snapshots" / "0123abc"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name, encoding="ascii")
    hf_folder(snapshot)
    save_published(cn_clip_model("ViT-B-16", seed=9), snapshot / "clip_cn_vit-b-16.pt")
    if sharded:
        places = dict.fromkeys(load_file(snapshot / "model.safetensors"), "all.safetensors")
        (snapshot / "model.safetensors").rename(snapshot / "all.safetensors")
        index = snapshot / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = recognise("OFA-Sys/chinese-clip")
    name = "model.safetensors" + (".index.json" if sharded else "")
    assert (found.format, found.path) == ("hf", snapshot / name)
    expected = load_checkpoint(found.path).model.state_dict()
    same_tensors(load_checkpoint("OFA-Sys/chinese-clip").model.state_dict(), expected)
    assert recognise(snapshot / "clip_cn_vit-b-16.pt").format == "cn_clip"
    with pytest.raises(CheckpointError, match="got several"):  # what lies here is for us to say
        recognise(snapshot)


@pytest.mark.parametrize("kind", ["bin", "training"])
def test_open_clip_weights_in_other_files(kind, tmp_path):
    save_as(load_checkpoint(published("ViT-B-16", tmp_path)[0]), tmp_path / "ours", "open_clip")
    expected = load_checkpoint(tmp_path / "ours").model.state_dict()
    state = load_file(tmp_path / "ours" / WEIGHTS_FILE)
    (tmp_path / "ours" / WEIGHTS_FILE).unlink()
    if kind == "bin":
        torch.save(state, tmp_path / "ours" / "open_clip_pytorch_model.bin")
        found = tmp_path / "ours" / "open_clip_pytorch_model.bin"
    else:  # as open_clip_train.main saves
        state = {f"module.{name}": tensor for name, tensor in state.items()}
        found = tmp_path / "ours" / "epoch_3.pt"
        torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": {}}, found)
    for name in (tmp_path / "ours", found):
        same_tensors(load_checkpoint(name).model.state_dict(), expected)
        assert (recognise(name).format, recognise(name).path) == ("open_clip", found)


def test_an_encoder_takes_any_format(tmp_path):
    file, _, _ = published("ViT-B-16", tmp_path)
    texts = ["一只狗", "a red heart"]
    rows = Encoder.from_pretrained(file, "cpu").encode_text(texts)
    Encoder.from_pretrained(file, "cpu").save_pretrained(tmp_path / "folder")
    save_as(load_checkpoint(file), tmp_path / "hf", "hf")
    for name in (str(file), tmp_path / "folder", tmp_path / "hf"):
        assert (Encoder.from_pretrained(name, "cpu").encode_text(texts) == rows).all()


# ---- plain encoders as a text tower ----

TINY = {"num_hidden_layers": 2, "max_position_embeddings": 40}


def plain_bert(path, model_class=BertForMaskedLM, **changes):
    """A plain encoder as hfl publishes them: pytorch_model.bin, old names of the norms."""
    config = backbone("bert", vocab_size=21128, **TINY | changes)
    model = randomise(model_class(config))
    config.save_pretrained(path)
    chinese_tokenizer(CONTEXT_LENGTH).save(path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in model.state_dict().items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    old["bert.pooler.dense.bias"] = old.get("bert.pooler.dense.bias", torch.zeros(32))
    torch.save(old, path / "pytorch_model.bin")
    return model


@pytest.mark.parametrize("pooler", ["cls", "mean"])
def test_a_masked_language_model_starts_a_text_tower(pooler, tmp_path):
    model = plain_bert(tmp_path)
    loaded = load_text_tower(tmp_path, 24, pooler=pooler)
    tower = loaded.tower
    tokens = TOKENS[:2, :30]
    with torch.inference_mode():
        states = model.bert(tokens, attention_mask=(tokens != 0).long()).last_hidden_state
        assert_close(tower.states(tokens)[0], states, atol=1e-5, rtol=1e-5)
        pooled = states[:, 0] if pooler == "cls" else states[1, :3].mean(0)
        assert_close(tower.pool(tokens)[1], pooled[1] if pooler == "cls" else pooled)
    assert loaded.new == ("proj.weight",)
    assert tower.proj.weight.detach().std() == pytest.approx(32**-0.5, rel=0.15)
    heads = {name for name in loaded.dropped if name.startswith("cls.predictions.")}
    assert heads
    assert set(loaded.dropped) - heads == {"embeddings.position_ids", "pooler.dense.bias"}
    assert tower.context_length == loaded.tokenizer.context_length == 40
    assert not tower.training
    # a pair is made of it
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    config = TowerConfig(24, vision, tower.config, pooler, context_length=40)
    pair = build_model(config).eval()
    pair.text.load_state_dict(tower.state_dict())
    with torch.inference_mode():
        assert_close(pair.encode_text(tokens), tower(tokens))


def test_xlm_roberta_starts_a_text_tower(tmp_path):
    config = backbone("xlm-roberta", **TINY | {"pad_token_id": 1})
    model = randomise(XLMRobertaForMaskedLM(config))
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save(tmp_path)
    # [PAD] is 0 there: a row would depend on how much of it its neighbours cause
    with pytest.raises(CheckpointError, match=r"pads with id 1 .*, got 0\. Put"):
        load_text_tower(tmp_path, 24)
    vocabulary = [VOCABULARY[1], VOCABULARY[0], *VOCABULARY[2:]]
    Tokenizer(bert_tokenizer(vocabulary)).save(tmp_path)
    loaded = load_text_tower(tmp_path, 24, projection="mlp")
    tokens = torch.tensor([[0, 5, 9, 2, 1, 1], [0, 7, 8, 9, 10, 2]])
    with torch.inference_mode():
        states = model.roberta(tokens, attention_mask=(tokens != 1).long()).last_hidden_state
        assert_close(loaded.tower.pool(tokens), states[:, 0], atol=1e-5, rtol=1e-5)
    assert loaded.new == ("proj.0.weight", "proj.2.weight")
    assert all(name.startswith("lm_head.") for name in loaded.dropped)
    assert loaded.tower.context_length == 38  # positions start behind the padding's
    with pytest.raises(CheckpointError, match=r"context_length of at most 38, .*, got 39"):
        load_text_tower(tmp_path, 24, context_length=39)


def test_a_bare_encoder_starts_a_text_tower(tmp_path):
    config = backbone("bert", vocab_size=21128, **TINY)
    model = randomise(BertModel(config))
    model.save_pretrained(tmp_path)
    chinese_tokenizer(CONTEXT_LENGTH).save(tmp_path)
    loaded = load_text_tower(tmp_path / "model.safetensors", 32, projection="none")
    assert set(loaded.dropped) == {"pooler.dense.weight", "pooler.dense.bias"}
    same_tensors(
        loaded.tower.transformer.state_dict(),
        {k: v for k, v in model.state_dict().items() if not k.startswith("pooler.")},
    )
    assert loaded.new == ()


def test_taiyi_clip_is_matched(tmp_path):
    """Its text features are the logits of a BertForSequenceClassification."""
    model = plain_bert(tmp_path, BertForSequenceClassification, num_labels=24)
    tower = load_text_tower(tmp_path, 24, projection="tanh").tower
    tokens = TOKENS[:2, :6]
    with torch.inference_mode():
        theirs = model(tokens, attention_mask=(tokens != 0).long()).logits
        assert_close(tower(tokens), theirs, atol=1e-5, rtol=1e-5)
        without_bias = theirs - model.classifier.bias
    assert (without_bias - tower(tokens)).abs().max() > 0.01
    # and it comes back from a folder of ours
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    config = TowerConfig(24, vision, tower.config, "cls", "tanh", context_length=40)
    pair = build_model(config).eval()
    pair.text.load_state_dict(tower.state_dict())
    parts = Checkpoint(
        pair, config, chinese_tokenizer(40), Preprocessing(32, OPENAI_MEAN, OPENAI_STD)
    )
    save_checkpoint(parts, tmp_path / "pair")
    with torch.inference_mode():
        again = load_checkpoint(tmp_path / "pair").model
        assert torch.equal(again.encode_text(tokens), tower(tokens))
    with pytest.raises(CheckpointError, match="projection tanh, not linear"):
        save_as(parts, tmp_path / "pair.pt", "cn_clip")


@pytest.mark.parametrize("projection", ["linear", "mlp", "tanh"])
def test_another_text_tower_is_saved_with_what_belongs_to_it(projection, tmp_path):
    plain_bert(tmp_path / "bert", BertForSequenceClassification, num_labels=24)
    drop = () if projection == "tanh" else ("classifier.*",)
    start = load_text_tower(tmp_path / "bert", 24, projection=projection, drop=drop)
    old = tiny_checkpoint()
    texts, images = ["一只狗在草地上跑", "dog", ""], [torch.rand(40, 50, 3).numpy()]
    before = Encoder(old, "cpu").encode_text(texts)
    new = Encoder(old.with_text_tower(start), "cpu")
    rows = new.encode_text(texts)
    assert abs(rows - before).max() > 0.01
    assert (new.model.visual, new.context_length) == (old.model.visual, 40)
    new.save_pretrained(tmp_path / "pair")
    again = Encoder.from_pretrained(tmp_path / "pair", "cpu")
    assert (again.encode_text(texts) == rows).all()
    assert (again.encode_image(images) == new.encode_image(images)).all()
    assert again.fingerprint == new.fingerprint
    assert (Encoder(old, "cpu").encode_text(texts) == before).all()
    assert old.model.logit_scale is not new.model.logit_scale


def test_a_text_tower_of_another_space_is_refused(tmp_path):
    plain_bert(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"embed_dim 24 .*, got 16\. Load it with embed_dim=2"
    ):
        tiny_checkpoint().with_text_tower(load_text_tower(tmp_path, 16))


@pytest.mark.parametrize("to", ["cn_clip", "hf", "open_clip"])
def test_a_config_of_another_model_is_not_written(to, tmp_path):
    (tmp_path / "bert").mkdir()
    plain_bert(tmp_path / "bert")
    file, _, _ = published("ViT-B-16", tmp_path)
    tower = load_text_tower(tmp_path / "bert", 32).tower

    def refuse(checkpoint, *expected):
        with pytest.raises(CheckpointError) as caught:
            save_as(checkpoint, tmp_path / "new.pt", to)
        for each in (*expected, "fits the checkpoint's config", "Checkpoint.with_text_tower."):
            assert each in str(caught.value)

    whole = load_checkpoint(file)
    changes = {
        "pooler": ("mean", "pooler 'cls', not 'mean'"),
        "projection": ("mlp", "projection 'linear', not 'mlp'"),
        "context_length": (40, "context_length 52, not 40"),
        "quick_gelu": (False, "quick_gelu True, not False"),
        "embed_dim": (16, "embed_dim 32, not 16"),
        "backbone": (tower.config, "backbone "),
        "vision": (whole.config.vision | {"layers": 1}, "unknown visual.transformer.resblocks.1."),
    }
    for name, (value, expected) in changes.items():
        refuse(replace(whole, config=replace(whole.config, **{name: value})), expected)
    whole.model.text = tower
    refuse(whole, "context_length 40, not 52", "backbone ")
    whole.model.text = torch.nn.Identity()
    with pytest.raises(CheckpointError, match=r"expected a .*TextTower to write, got a Identity"):
        save_as(whole, tmp_path / "new.pt", to)
    assert {path.name for path in tmp_path.iterdir()} == {"bert", file.name}


def test_an_image_tower_of_timm_is_written_with_its_config(tmp_path):
    whole = tiny_checkpoint(vision="timm")
    save_checkpoint(whole, tmp_path / "ours")
    backbone_ = backbone("bert", intermediate_size=64)
    other = replace(whole, config=replace(whole.config, backbone=backbone_))
    other.model.text.config = backbone_
    with pytest.raises(CheckpointError, match=r"got: text\.transformer\.encoder\.layer\.0\."):
        save_checkpoint(other, tmp_path / "other")


def test_a_classifier_is_not_lost_silently(tmp_path):
    plain_bert(tmp_path, BertForSequenceClassification, num_labels=24)
    with pytest.raises(CheckpointError, match=r"a classifier of 24 rows.*projection='tanh'"):
        load_text_tower(tmp_path, 24)
    loaded = load_text_tower(tmp_path, 16, drop=("classifier.*",))
    assert "classifier.weight" in loaded.dropped
    with pytest.raises(CheckpointError, match=r"classifier.weight is \[24, 32\], not \[16, 32\]"):
        load_text_tower(tmp_path, 16, projection="tanh")


def test_a_text_tower_of_something_else(tmp_path, tiny_folder):
    with pytest.raises(CheckpointError, match="got a chinese_clip with text_config and vision_con"):
        load_text_tower(hf_folder(tmp_path / "hf"), 24)
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors or pytorch_model.bin"):
        load_text_tower(tiny_folder, 24)
    plain_bert(tmp_path)
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    del state["bert.encoder.layer.1.output.dense.bias"]
    state["bert.encoder.layer.1.surplus"] = torch.zeros(1)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"missing encoder.layer.1.output.dense.bias; unknown .*surplus"
    ):
        load_text_tower(tmp_path, 24)
