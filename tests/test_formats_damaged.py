"""Files that are broken, foreign or hostile: refused, with what is wrong and what to do."""

import json
import math
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from published import cn_clip_model, hf_model, save_published
from safetensors.torch import load_file, save_file

from clip_text.checkpoints import CONFIG_FILE, WEIGHTS_FILE, load_checkpoint, recognise
from clip_text.checkpoints.cn_clip import chinese_tokenizer
from clip_text.checkpoints.files import read_state
from clip_text.errors import CheckpointError

pytest.importorskip("cn_clip", reason="pip install --no-deps cn_clip six")

MESSAGE = re.compile(r"expected .+, got:? .+\. [A-Z].+\.", re.DOTALL)
NORM = "visual.transformer.resblocks.1.ln_2.weight"


@pytest.fixture(scope="module")
def model():
    return cn_clip_model("ViT-B-16")


@pytest.fixture(scope="module")
def hf_master(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    hf_model("ViT-B-16").save_pretrained(folder)
    chinese_tokenizer(52).save(folder)
    return folder


@pytest.fixture
def hf_folder(hf_master, tmp_path):
    return shutil.copytree(hf_master, tmp_path / "hf")


def refused(name, *expected, of=None):
    """Loading and recognising both fail, with a message of the form that names the file."""
    for read in (load_checkpoint, recognise):
        complains(read, name, expected, of)


def misfit(name, *expected, of=None):
    """Recognising works, loading does not: sizes can be told, but the tensors do not fit."""
    recognise(name)
    complains(load_checkpoint, name, expected, of)


def complains(read, name, expected, of):
    with pytest.raises(CheckpointError) as caught:
        read(name)
    message = str(caught.value)
    assert MESSAGE.fullmatch(message), message
    assert str(of or name) in message
    for each in expected:
        assert re.search(each, message, re.DOTALL), message


@pytest.mark.parametrize("keep", [0.0, 0.0001, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_short(keep, legacy, model, tmp_path):
    path = tmp_path / "cut.pt"
    torch.save({"state_dict": model.state_dict()}, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refused(path, "cut short")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_short_anywhere(legacy, tmp_path):
    path = tmp_path / "cut.pt"
    weights = {"a": torch.ones(2, 3), "b": torch.ones(3).half()}
    torch.save(weights, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    for keep in range(len(content)):
        path.write_bytes(content[:keep])
        complains(read_state, path, [], None)


def test_a_damaged_file(tmp_path):
    path = tmp_path / "damaged.pt"
    torch.save({"a": torch.ones(3)}, path)
    zipped = path.read_bytes()
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    legacy = path.read_bytes()
    key = legacy.rindex(re.findall(rb"\d{8,}", legacy)[-1])
    entry = zipped.index(b"PK\x01\x02")
    for damaged in (
        zipped.replace(b"data.pkl", b"\xff\xffta.pkl"),  # no UTF-8
        zipped[: entry + 6] + b"\xc8" + zipped[entry + 7 :],  # a zip of version 20
        legacy[:key] + b"0000" + legacy[key + 4 :],  # a storage of another name
    ):
        path.write_bytes(damaged)
        complains(read_state, path, ["cut short"], None)


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x04"])
def test_a_safetensors_file_that_begins_like_a_pickle(start, tmp_path):
    """Its first bytes are a length, and a length may be any number."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    length = int.from_bytes(start, "little")
    path = tmp_path / "odd.safetensors"
    content = header.ljust(length).encode() + b"\0\0\x80\x3f"
    path.write_bytes(length.to_bytes(8, "little") + content)
    assert path.read_bytes().startswith(start)
    assert torch.equal(read_state(path).weights["a"], torch.ones(1))


class Code:
    """Runs a command where a careless program unpickles it."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("where", ["beside", "instead", "bare pickle", "legacy"])
def test_a_pickle_with_code_is_not_run(where, model, tmp_path):
    path, witness = tmp_path / "evil.pt", tmp_path / "witness"
    evil = Code(witness)
    if where == "beside":
        torch.save({"state_dict": model.state_dict(), "args": evil}, path)
    elif where == "bare pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=where != "legacy")
    refused(path, "got a pickle with code or objects in it", "nothing of it was run", "safetensors")
    assert not witness.exists()
    if where == "bare pickle":  # the trap works
        pickle.loads(path.read_bytes())
        assert witness.exists()


def test_a_hugging_face_bin_with_code_is_not_run(hf_folder, tmp_path):
    (hf_folder / "model.safetensors").unlink()
    torch.save({"a": Code(tmp_path / "witness")}, hf_folder / "pytorch_model.bin")
    refused(hf_folder, "got a pickle with code", "nothing of it was run")
    assert not (tmp_path / "witness").exists()


def test_a_zip_of_other_things(tmp_path):
    path = tmp_path / "photos.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"not a picture")
    refused(path, r"a zip of other things \(photo\.jpg\)", "Name the file of weights itself")


def test_a_torchscript_program(tmp_path):
    """OpenAI's CLIP files are such; loading one would be running it."""
    path = tmp_path / "program.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"program/{name}", b"")
    refused(path, "got a TorchScript program; nothing of it was run")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(3)], "got a list"),
        ({"epoch": 3, "lr": 0.1}, "got a dict of epoch, lr"),
        ({"state_dict": {"a": 1}}, "got a dict of a"),
        ({}, r"got 0 tensors \(none\)"),
        ({"bert.embeddings.word_embeddings.weight": torch.zeros(3, 2)}, "load_text_tower reads it"),
        (
            {"visual.proj": torch.zeros(2), "token_embedding.weight": torch.zeros(2)},
            "OpenAI's kind",
        ),
        (
            {
                "visual.proj": torch.zeros(2),
                "text.token_embedding.weight": torch.zeros(2),
                "text.transformer.resblocks.0.ln_1.weight": torch.zeros(2),
            },
            "OpenAI's kind",
        ),
        ({"conv1.weight": torch.zeros(2)}, "cn_clip, transformers or open_clip wrote them"),
    ],
    ids=["list", "no tensors", "numbers", "empty", "text alone", "OpenAI's", "open's", "resnet"],
)
def test_tensors_of_something_else(content, expected, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", expected)


def test_a_text_file(tmp_path):
    (tmp_path / "notes.pt").write_text("dear diary " * 9, encoding="utf-8")
    refused(tmp_path / "notes.pt", "expected a file of weights")


def test_tensors_that_do_not_fit_a_cn_clip(model, tmp_path):
    def saved(change):
        state = dict(model.state_dict())
        change(state)
        torch.save({"state_dict": state}, tmp_path / "odd.pt")
        return tmp_path / "odd.pt"

    misfit(saved(lambda s: s.pop(NORM)), f"missing {NORM}")
    misfit(saved(lambda s: s.pop("logit_scale")), "missing logit_scale")
    two = {"logit_scale": torch.ones(2)}
    misfit(saved(lambda s: s.update(two)), r"logit_scale is \[2\], not \[\]")
    quantised = {NORM: torch.ones(128, dtype=torch.int8)}
    misfit(saved(lambda s: s.update(quantised)), rf"got: {NORM} in whole numbers \(int8\)")
    misfit(saved(lambda s: s.update(surplus=torch.ones(1))), "got: unknown surplus")
    misfit(saved(lambda s: s.update({"bert.surplus": torch.ones(1)})), r"unknown bert\.surplus")
    misfit(saved(lambda s: s.update({NORM: torch.ones(7)})), rf"{NORM} is \[7\], not \[128\]")
    refused(saved(lambda s: s.pop("visual.conv1.weight")), r"got no visual\.conv1\.weight")
    refused(saved(lambda s: s.pop("text_projection")), "got no text_projection")
    refused(
        saved(lambda s: s.update({"visual.positional_embedding": torch.ones(6, 128)})),
        "got 6 image positions, not a square and one more",
    )
    first = "bert.encoder.layer.0."
    refused(
        saved(lambda s: [s.pop(name) for name in list(s) if name.startswith(first)]),
        r"got layers \[1\] under",
    )
    embeddings = "bert.embeddings.word_embeddings.weight"
    refused(
        saved(lambda s: s.update({embeddings: s[embeddings][:9]})), "21128 word embeddings.*got 9"
    )


def spoilt(weights, name, value):
    """The same weights, but for one number in one of them."""
    tensor = weights[name].clone()
    tensor.view(-1)[-1] = value
    return {**weights, name: tensor}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_cn_clip_with_a_number_that_is_none(value, dtype, model, tmp_path):
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": spoilt(weights, NORM, value)}, tmp_path / "odd.pt")
    misfit(tmp_path / "odd.pt", rf"got NaN or infinity in {NORM}\. Its training")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_folders_with_a_number_that_is_none(value, hf_folder, tiny_folder, tmp_path):
    file = hf_folder / "model.safetensors"
    name = "vision_model.encoder.layers.1.self_attn.k_proj.bias"
    save_file(spoilt(load_file(file), name, value), file)
    misfit(hf_folder, rf"got NaN or infinity in .*{name}.*\. Its")
    ours = shutil.copytree(tiny_folder, tmp_path / "ours")
    weights = load_file(ours / WEIGHTS_FILE)
    one, other = [name for name in weights if name.endswith("weight")][:2]
    broken = spoilt(spoilt(weights, one, value), other, value)
    save_file(broken, ours / WEIGHTS_FILE)
    misfit(ours, rf"got NaN or infinity in {one}; {other}\.")


def test_flash_attention_that_does_not_fit(model, tmp_path):
    """A tensor that is there twice, or does not come apart, is not lost on the way."""
    path, state = tmp_path / "flash.pt", dict(model.state_dict())
    layer = "bert.encoder.layer.0.attention.self."
    parts = [f"{layer}{part}.weight" for part in ("query", "key", "value")]
    joined = torch.cat([state[name] for name in parts])
    for flash in ({f"{layer}Wqkv.weight": joined} | state, state | {f"{layer}Wqkv.weight": joined}):
        torch.save({"state_dict": flash}, path)
        misfit(path, rf"{layer}query\.weight.* a second time, in .*weight")
    for odd in (joined[:-1], torch.tensor(1.0)):
        flash = {name: tensor for name, tensor in state.items() if name not in parts}
        torch.save({"state_dict": flash | {f"{layer}Wqkv.weight": odd}}, path)
        misfit(path, rf"{layer}Wqkv\.weight .*, which is not 3 equal parts")


def test_tensors_that_do_not_fit_a_hugging_face_model(hf_folder):
    weights = load_file(hf_folder / "model.safetensors")
    layer = "vision_model.encoder.layers.1.self_attn."

    def saved(change):
        state = dict(weights)
        change(state)
        save_file(state, hf_folder / "model.safetensors")
        return hf_folder

    misfit(saved(lambda s: s.pop(f"{layer}k_proj.bias")), rf"missing {layer}k_proj\.bias")
    odd = {f"{layer}k_proj.bias": torch.ones(7)}
    misfit(saved(lambda s: s.update(odd)), rf"unequal parts .*{layer}k_proj\.bias \[7\]")
    misfit(saved(lambda s: s.update(surplus=torch.ones(1))), "unknown surplus")
    misfit(saved(lambda s: s.pop("visual_projection.weight")), r"missing visual_projection\.weight")
    misfit(
        saved(lambda s: s.update({"text_projection.weight": torch.ones(5, 128)})),
        r"text_projection\.weight is \[5, 128\], not \[32, 128\]",
    )
    refused(
        saved(lambda s: [s.pop(name) for name in list(s) if name.startswith("vision_model.")]),
        "expected an image and a text tower",
        of=hf_folder / "model.safetensors",
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"vision_config": {"hidden_act": "relu"}}, "expected hidden_act quick_gelu or gelu"),
        ({"vision_config": {"hidden_size": "wide"}}, "complete checkpoint"),
        ({"vision_config": {"num_attention_heads": 7}}, "complete checkpoint"),
        ({"text_config": {"hidden_size": 65}}, "complete checkpoint"),
        ({"vision_config": None}, "complete checkpoint|fit each other"),
        ({"context_length": "long"}, "complete checkpoint"),
    ],
)
def test_a_hugging_face_config_that_is_wrong(change, expected, hf_folder):
    path = hf_folder / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    for key, value in change.items():
        raw[key] = raw[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(hf_folder)
    assert MESSAGE.fullmatch(str(caught.value)), caught.value
    assert re.search(expected, str(caught.value))
    assert str(hf_folder) in str(caught.value)


def test_hugging_face_files_that_are_damaged(hf_folder):
    path = hf_folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    refused(hf_folder, "safetensors file .*cut short", of=path)
    path.unlink()
    refused(hf_folder, r"expected model\.safetensors or pytorch_model\.bin", "no such file")
    index = hf_folder / "model.safetensors.index.json"
    for places in (None, {}, {"a": "../outside.safetensors"}):
        index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
        refused(hf_folder, "under weight_map", of=index)
    index.write_text(json.dumps({"weight_map": {"a": ["list"]}}), encoding="utf-8")
    refused(hf_folder, r"expected \['list'\] in")
    index.write_text(json.dumps([{"weight_map": {}}]), encoding="utf-8")
    refused(hf_folder, "expected a JSON object in .*, got a list", of=index)
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}), encoding="utf-8")
    refused(hf_folder, r"expected gone\.safetensors in")
    index.unlink()
    path.write_bytes(content)
    (hf_folder / "config.json").write_text('{"model_type": ', encoding="utf-8")
    refused(hf_folder, "expected JSON", of=hf_folder / "config.json")


def test_a_folder_of_nothing(tmp_path):
    refused(tmp_path, f"expected {CONFIG_FILE} .*chinese_clip.* one .pt file .*no such file")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    refused(tmp_path, "but a config.json of 'bert'", "load_text_tower")


def test_a_folder_of_two_formats(model, hf_folder, tiny_folder):
    file = save_published(model, hf_folder / "clip_cn.pt")
    refused(hf_folder, r"got several \(config\.json, clip_cn\.pt\)", "Name the file of weights")
    assert recognise(file).format == "cn_clip"
    assert recognise(hf_folder / "model.safetensors").format == "hf"
    file.unlink()
    (hf_folder / "optimizer.pt").write_bytes(b"transformers.Trainer left it")
    assert recognise(hf_folder).format == "hf"
    shutil.copy(tiny_folder / CONFIG_FILE, hf_folder)
    refused(hf_folder, r"got several \(open_clip_config\.json, config\.json\)")


def test_a_folder_of_several_files(model, tmp_path):
    save_published(model, tmp_path / "epoch1.pt")
    assert recognise(tmp_path).path == tmp_path / "epoch1.pt"
    save_published(model, tmp_path / "epoch2.pt")
    refused(tmp_path, r"got several \(epoch1\.pt, epoch2\.pt\)")


def test_a_context_longer_than_the_positions(model, tmp_path):
    path = save_published(model, tmp_path / "model.pt")
    assert load_checkpoint(path, context_length=64).tokenizer.context_length == 64
    with pytest.raises(CheckpointError, match=r"context_length of at most 64, .*, got 65"):
        load_checkpoint(path, context_length=65)
    assert load_checkpoint(path, compat="hf").tokenizer.compat == "hf"
    with pytest.raises(CheckpointError, match=r"context_length above 2 .*, got 1\. "):
        load_checkpoint(path, context_length=1)
