"""Checkpoint folders: what is saved comes back, and what is broken says so."""

import dataclasses
import json
import os
import re
import shutil

import pytest
import torch
from models import (
    CONTEXT_LENGTH,
    VOCABULARY,
    bert_tokenizer,
    rows,
    shared_checkpoint,
    tiny_checkpoint,
)
from open_clip import CustomTextCLIP
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from clip_text.checkpoints import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Preprocessing,
    load_checkpoint,
    resolve,
    save_checkpoint,
)
from clip_text.checkpoints import folder as folders
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError, ClipTextError
from clip_text.storage import partial_file
from clip_text.tokenizer import Tokenizer

TEXTS = ["红色的心", "dog", "", "“一只狗” running [MASK]"]
TOKENS = rows([2, 9, 30, 3], [2, 3])
PICTURES = torch.linspace(-2, 2, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the tiny checkpoint, to be damaged."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def edit_json(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_weights(folder, change):
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights)
    save_file(weights, folder / WEIGHTS_FILE)


def features(checkpoint):
    encoder = Encoder(checkpoint, device="cpu")
    with torch.inference_mode():
        return encoder.encode_text(TEXTS), encoder.model.encode_image(PICTURES).numpy()


def same(one, other):
    return all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision": "resnet", "kind": "roberta", "pooler": "cls", "projection": "mlp"},
        {"vision": "timm", "kind": "distilbert", "pooler": "max", "quick_gelu": True},
        {"kind": "albert", "embed_dim": 32, "projection": "none", "context_length": 9},
        {"kind": "xlm-roberta", "extra": {"init_logit_bias": -10, "ours": [1]}},
    ],
    ids=["vit-bert", "resnet-roberta", "timm-distilbert", "vit-albert", "vit-xlm-roberta"],
)
def test_save_and_load_bit_for_bit(changes, tmp_path):
    saved = tiny_checkpoint(**changes)
    save_checkpoint(saved, tmp_path / "new" / "folder")
    loaded = load_checkpoint(tmp_path / "new" / "folder")
    assert same(features(loaded), features(saved))
    for name, tensor in saved.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert loaded.preprocessing == saved.preprocessing
    assert not loaded.model.training
    unsaved = {"backbone"}  # transformers adds its version to it
    for field in dataclasses.fields(saved.config):
        if field.name not in unsaved:
            assert getattr(loaded.config, field.name) == getattr(saved.config, field.name)
    assert loaded.tokenizer.context_length == saved.config.context_length
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["folder"]


def weight_bytes(folder):
    """Size of the weights alone: a safetensors file opens with the size of its header."""
    content = (folder / WEIGHTS_FILE).read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def test_fp16_halves_the_file_and_is_close(tiny_folder, tmp_path):
    save_checkpoint(shared_checkpoint(), tmp_path / "half", dtype=torch.float16)
    # all weights of this model are floats; logit_scale alone stays fp32
    assert weight_bytes(tmp_path / "half") == weight_bytes(tiny_folder) / 2 + 2
    loaded = load_checkpoint(tmp_path / "half")
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float32}
    for half, full in zip(features(loaded), features(shared_checkpoint()), strict=True):
        assert_close(half, full, atol=5e-3, rtol=5e-3)
        assert (half != full).any()


def test_fp16_leaves_whole_numbers_alone(tmp_path):
    saved = tiny_checkpoint(vision="timm")
    save_checkpoint(saved, tmp_path / "half", dtype=torch.float16)
    weights = load_file(tmp_path / "half" / WEIGHTS_FILE)
    assert weights.pop("logit_scale").dtype == torch.float32  # one number, and its exp counts
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16, torch.int64}


def test_fp16_refuses_what_it_cannot_hold(tmp_path):
    saved = tiny_checkpoint()
    with torch.no_grad():
        saved.model.text.proj.weight[0, 0] = -70_000
    with pytest.raises(CheckpointError, match=r"below 65,504 .* got 70,000 in text\.proj\.weight"):
        save_checkpoint(saved, tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("pooler", ["mean", "cls"])
def test_open_clip_loads_the_folder_with_its_own_text_tower(pooler, tmp_path):
    saved = tiny_checkpoint(pooler=pooler)
    save_checkpoint(saved, tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / CONFIG_FILE).read_text(encoding="utf-8"))
    shape = config["model_cfg"]
    shape["text_cfg"]["hf_model_name"] = str(tmp_path / "ours")
    theirs = CustomTextCLIP(**shape).eval()
    theirs.load_state_dict(load_file(tmp_path / "ours" / WEIGHTS_FILE), strict=True)
    with torch.inference_mode():
        for ours, reference in zip(
            saved.model(PICTURES, TOKENS), theirs(PICTURES, TOKENS), strict=True
        ):
            assert_close(ours, reference, atol=1e-5, rtol=1e-5)


def test_settings_left_out_are_what_open_clip_takes_them_for(tmp_path):
    saved = tiny_checkpoint(pooler="mean", projection="mlp")
    save_checkpoint(saved, tmp_path / "ours")

    def leave_out(content):
        del content["model_cfg"]["text_cfg"]["hf_pooler_type"]
        del content["model_cfg"]["text_cfg"]["hf_proj_type"]

    edit_json(tmp_path / "ours" / CONFIG_FILE, leave_out)
    shape = json.loads((tmp_path / "ours" / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
    shape["text_cfg"]["hf_model_name"] = str(tmp_path / "ours")
    theirs = CustomTextCLIP(**shape).eval()
    theirs.load_state_dict(load_file(tmp_path / "ours" / WEIGHTS_FILE), strict=True)
    with torch.inference_mode():
        ours = load_checkpoint(tmp_path / "ours").model.encode_text(TOKENS)
        assert_close(ours, theirs.encode_text(TOKENS), atol=1e-5, rtol=1e-5)


def test_a_context_no_longer_than_the_positions_of_a_roberta(tmp_path):
    """Of 64 rows one is the padding's, and never a token's."""
    save_checkpoint(tiny_checkpoint(kind="xlm-roberta"), tmp_path / "ours")
    tower = load_checkpoint(tmp_path / "ours", context_length=63).model.text
    with torch.inference_mode():
        assert tower(torch.full((1, 63), 9)).isfinite().all()
    with pytest.raises(CheckpointError, match=r"context_length of at most 63, .*, got 64"):
        load_checkpoint(tmp_path / "ours", context_length=64)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"context_length": 2}, r"expected a context_length above 2 .*, got 2\. Use 52"),
        ({"context_length": 0}, r"expected a context_length above 2 .*, got 0\. Use 52"),
        ({"context_length": 65}, r"context_length of at most 64, .*, got 65\. Ask for fewer"),
        ({"compat": "clip"}, r"expected compat clip_text, .*, got 'clip'\. Choose one of them"),
    ],
)
def test_what_a_model_cannot_have_is_refused(asked, expected, tiny_folder):
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(tiny_folder, **asked)


def delete(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def truncate(name, keep):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def more_tokens(count):
    """Put the tokenizer of a model with more tokens."""

    def change(folder):
        Tokenizer(bert_tokenizer([*VOCABULARY, *"新词"[:count]])).save(folder)

    return change


def without_padding(folder):
    """A tokenizer of a class that has no padding token unless it is told."""

    def change(settings):
        del settings["pad_token"]
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"

    edit_json(folder / "tokenizer_config.json", change)


def config(change):
    return lambda folder: edit_json(folder / CONFIG_FILE, change)


def weights(change):
    return lambda folder: edit_weights(folder, change)


DAMAGE = {
    "weights cut short": (truncate(WEIGHTS_FILE, 0.7), "safetensors file .* cut short"),
    "weights cut in the header": (truncate(WEIGHTS_FILE, 0.001), "safetensors file"),
    "weights empty": (write(WEIGHTS_FILE, b""), "safetensors file"),
    "weights are a web page": (write(WEIGHTS_FILE, b"<!doctype html>" * 9), "safetensors file"),
    "no weights": (delete(WEIGHTS_FILE), f"expected {WEIGHTS_FILE} .* no such file"),
    "no config": (delete(CONFIG_FILE), f"expected {CONFIG_FILE} .* no such file"),
    "no backbone": (delete("config.json"), "expected a complete checkpoint"),
    "no tokenizer": (delete("tokenizer.json"), "expected a complete checkpoint"),
    "tokenizer cut short": (truncate("tokenizer.json", 0.5), "expected a complete checkpoint"),
    "backbone cut short": (truncate("config.json", 0.5), "expected a complete checkpoint"),
    "backbone unknown": (
        lambda folder: edit_json(folder / "config.json", lambda c: c.update(model_type="xyz")),
        "xyz",
    ),
    "config cut short": (truncate(CONFIG_FILE, 0.5), "expected JSON"),
    "config not UTF-8": (write(CONFIG_FILE, b'{"a": "\xff"}'), "expected JSON"),
    "config a list": (write(CONFIG_FILE, b"[1]"), "expected a JSON object in .*, got a list"),
    "config null": (write(CONFIG_FILE, b"null"), "expected a JSON object in .*, got a NoneType"),
    "no model_cfg": (config(lambda c: c.pop("model_cfg")), "model_cfg"),
    "no preprocess_cfg": (config(lambda c: c.pop("preprocess_cfg")), "preprocess_cfg"),
    "preprocess_cfg null": (config(lambda c: c.update(preprocess_cfg=None)), "complete"),
    "text_cfg null": (config(lambda c: c["model_cfg"].update(text_cfg=None)), "complete"),
    "embed_dim a word": (config(lambda c: c["model_cfg"].update(embed_dim="wide")), "wide"),
    "context_length 1": (
        config(lambda c: c["model_cfg"]["text_cfg"].update(context_length=1)),
        "context_length above 2",
    ),
    "context_length beyond the positions": (
        config(lambda c: c["model_cfg"]["text_cfg"].update(context_length=65)),
        "context_length of at most 64, .*, got 65",
    ),
    "no context_length": (  # open_clip takes it for 77
        config(lambda c: c["model_cfg"]["text_cfg"].pop("context_length")),
        "context_length of at most 64, .*, got 77",
    ),
    "a tokenizer with more tokens": (
        more_tokens(1),
        r"token ids below (\d+) .* got a tokenizer with ids up to \1\. Put",
    ),
    "a tokenizer with another padding": (
        lambda folder: edit_json(folder / "config.json", lambda c: c.update(pad_token_id=1)),
        r"pads with id 1 \(pad_token_id .*got 0\. Put",
    ),
    "a tokenizer without a padding": (
        without_padding,
        r"pads with id 0 .*got None\. Put",
    ),
    "other resize_mode": (
        config(lambda c: c["preprocess_cfg"].update(resize_mode="shortest")),
        "expected resize_mode squash .* got 'shortest'",
    ),
    "no resize_mode": (
        config(lambda c: c["preprocess_cfg"].pop("resize_mode")),
        "expected resize_mode squash .* got None",
    ),
    "other interpolation": (
        config(lambda c: c["preprocess_cfg"].update(interpolation="bilinear")),
        "interpolation bicubic.* got 'squash' and 'bilinear'",
    ),
    "pictures that are no square": (
        config(lambda c: c["preprocess_cfg"].update(size=[32, 48])),
        r"squashed to a square, got size \[32, 48\]",
    ),
    "no size": (config(lambda c: c["preprocess_cfg"].update(size=[])), r"got size \[\]"),
    "two means": (config(lambda c: c["preprocess_cfg"].update(mean=[0.5, 0.5])), "mean"),
    "other pooler": (
        config(lambda c: c["model_cfg"]["text_cfg"].update(hf_pooler_type="cls_pooler")),
        "expected hf_pooler_type .* got 'cls_pooler'",
    ),
    "other projection": (
        config(lambda c: c["model_cfg"]["text_cfg"].update(hf_proj_type="conv")),
        "expected projection linear, mlp, tanh or none, got 'conv'",
    ),
    "no projection between unequal widths": (
        config(lambda c: c["model_cfg"]["text_cfg"].update(hf_proj_type=None)),
        "projection 'none'",
    ),
    "vision_cfg of another kind": (
        config(lambda c: c["model_cfg"].update(vision_cfg={"depth": 3})),
        "expected a complete checkpoint",
    ),
    "unknown timm model": (
        config(lambda c: c["model_cfg"].update(vision_cfg={"timm_model_name": "no_such"})),
        "expected a complete checkpoint",
    ),
    "a tensor missing": (weights(lambda w: w.pop("text.proj.weight")), "missing text.proj.weight"),
    "a tensor too many": (
        weights(lambda w: w.update(surplus=torch.zeros(2))),
        "got: unknown surplus",
    ),
    "a tensor misshapen": (
        weights(lambda w: w.update({"text.proj.weight": torch.zeros(24, 31)})),
        r"text.proj.weight is \[24, 31\], not \[24, 32\]",
    ),
    "all tensors missing": (weights(dict.clear), r"missing .* and \d+ more"),
}
MESSAGE = re.compile(r"expected .+, got:? .+\. [A-Z].+\.", re.DOTALL)


@pytest.mark.parametrize("what", list(DAMAGE))
def test_a_damaged_folder_says_what_is_wrong(what, folder):
    damage, expected = DAMAGE[what]
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert MESSAGE.fullmatch(message), message
    assert re.search(expected, message, re.DOTALL), message
    assert str(folder) in message
    assert isinstance(caught.value, ClipTextError)


def test_a_table_longer_than_the_vocabulary_is_read(folder):
    """Tables get padded to a round number; no id points behind the vocabulary."""
    expected = features(load_checkpoint(folder))
    edit_json(folder / "config.json", lambda c: c.update(vocab_size=c["vocab_size"] + 7))
    name = "text.transformer.embeddings.word_embeddings.weight"
    edit_weights(folder, lambda w: w.update({name: torch.nn.functional.pad(w[name], (0, 0, 0, 7))}))
    assert same(features(load_checkpoint(folder)), expected)


def test_an_unknown_projection_or_pooler_does_not_reach_the_disk(tmp_path):
    with pytest.raises(ValueError, match="expected pooler"):
        tiny_checkpoint(pooler="tanh")


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./no", "~/no/such", "no-such", "a/b/c", "", "../a/b"]
)
def test_a_path_that_does_not_exist(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "":  # the current folder, as for pathlib; it holds no checkpoint
        with pytest.raises(CheckpointError, match=f"expected {CONFIG_FILE}"):
            load_checkpoint(name)
        return
    with pytest.raises(CheckpointError, match=r"got '.*'\. Check the path\.") as caught:
        resolve(name)
    assert repr(name) in str(caught.value)


def test_the_file_of_weights_names_its_folder(folder, monkeypatch):
    expected = features(load_checkpoint(folder))
    assert same(features(load_checkpoint(folder / WEIGHTS_FILE)), expected)
    monkeypatch.chdir(folder.parent)  # though it looks like owner/model
    assert same(features(load_checkpoint(f"{folder.name}/{WEIGHTS_FILE}")), expected)
    with pytest.raises(CheckpointError, match=r"expected a file of weights at .*config\.json"):
        load_checkpoint(folder / "config.json")


@pytest.mark.parametrize("name", ["owner/model", "not a/name?", "owner/.."])
def test_a_hub_name_without_the_hub(name):
    with pytest.raises(CheckpointError, match=r"or a model on the hub, got .* Check the name"):
        resolve(name)


def test_resolve_finds_folders(folder, monkeypatch):
    assert resolve(folder) == folder
    assert resolve(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert resolve(folder.name).samefile(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve(f"~/{folder.name}") == folder
    assert resolve("starter").name == "starter"


def test_overwriting_keeps_the_readme(folder):
    (folder / "README.md").write_text("# Card\n", encoding="utf-8")
    other = tiny_checkpoint(seed=1)
    save_checkpoint(other, folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == "# Card\n"
    assert same(features(load_checkpoint(folder)), features(other))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("broken", ["weights", "tokenizer", "config"])
def test_an_interrupted_save_leaves_the_old_one(broken, folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    other = tiny_checkpoint(seed=1)
    with monkeypatch.context() as patch:
        if broken == "weights":
            patch.setattr(folders, "write_weights", full)
        elif broken == "tokenizer":
            patch.setattr(type(other.tokenizer), "save", full)
        else:
            patch.setattr(folders, "_to_json", full)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(other, folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert same(features(load_checkpoint(folder)), features(shared_checkpoint()))
    # what was left lying by an earlier version's process does not disturb, and goes after a day
    left = folder.with_name(f"{folder.name}.partial")
    left.mkdir()
    (left / "half").write_bytes(b"")
    for path in (left / "half", left):
        os.utime(path, (0, 0))
    save_checkpoint(other, folder)
    assert not (folder / "half").exists()
    assert same(features(load_checkpoint(folder)), features(other))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_interrupted_first_save_leaves_no_folder(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "write_weights", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(shared_checkpoint(), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def write_some(path):
    """Write what does not fit on the disk."""
    path.write_bytes(b"some")
    raise OSError(28, "No space left on device")


def test_a_file_appears_when_it_is_complete(tmp_path):
    file = tmp_path / "new" / "model.pt"
    for earlier in ([], ["model.pt"]):
        with pytest.raises(OSError, match="No space"), partial_file(file) as partial:
            write_some(partial)
        assert [path.name for path in file.parent.iterdir()] == earlier
        with partial_file(file) as partial:
            partial.write_text(f"whole {len(earlier)}", encoding="utf-8")
            assert file.exists() == bool(earlier)
        assert file.read_text(encoding="utf-8") == f"whole {len(earlier)}"
        assert [path.name for path in file.parent.iterdir()] == ["model.pt"]


def test_open_clips_forms_of_size_are_read(folder):
    """open_clip writes a number or [height, width]."""
    edit_json(folder / CONFIG_FILE, lambda c: c["preprocess_cfg"].update(size=[32, 32]))
    loaded = load_checkpoint(folder)
    assert loaded.preprocessing == Preprocessing(32, (0.5, 0.4, 0.3), (0.25, 0.3, 0.35))
    assert loaded.config.context_length == CONTEXT_LENGTH
