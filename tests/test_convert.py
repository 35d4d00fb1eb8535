"""``clip-text convert``: what it says, what it refuses, and that a lie would be found out."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from models import tiny_checkpoint
from published import cn_clip_model, save_published

from clip_text import conversion as module
from clip_text.checkpoints import Checkpoint, load_checkpoint, recognise, save_checkpoint
from clip_text.conversion import BOUNDS, TEXTS, compare, convert, picture

pytest.importorskip("cn_clip", reason="pip install --no-deps cn_clip six")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A cn_clip file as it is published: fp16, with a pooler nobody reads."""
    path = tmp_path_factory.mktemp("source") / "clip_cn_vit-b-16.pt"
    extras = {"bert.pooler.dense.bias": torch.zeros(128)}
    return save_published(cn_clip_model("ViT-B-16"), path, dtype=torch.float16, extras=extras)


@pytest.fixture
def run(run):
    """Run ``clip-text convert ARGS``; returns exit code, stdout and stderr."""
    return partial(run, "convert")


def test_it_says_what_it_found_and_proves_what_it_wrote(source, tmp_path, run):
    code, out, _ = run(source, tmp_path / "hf", "--to", "hf")
    assert code == 0, out
    lines = out.splitlines()
    assert lines[0] == str(source)
    for said in (
        "format          cn_clip",
        "image tower     ViT, 2 layers, width 128, 2 heads, patch 16, 32 px, QuickGELU",
        "text tower      bert, 2 layers, width 128, 2 heads, vocabulary 21,128",
        "embed_dim       32",
        "context_length  52",
        "tensors         71 (71 float16), 3,449,473 numbers",
        "left out        1 that compute nothing: bert.pooler.dense.bias",
        "left out        epoch, step, name",
        f"{tmp_path / 'hf'} (hf)",
        "tensors         all as stored",
        "bound           1e-05: kept",
    ):
        assert said in lines, said
    assert any(line.startswith("logit_scale     3.21") for line in lines)
    assert any("max |difference|" in line and "lowest cosine 1.0000000" in line for line in lines)
    assert recognise(tmp_path / "hf").format == "hf"
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_all_the_way_round_in_json(source, tmp_path, run):
    steps = [(tmp_path / "one", "open_clip"), (tmp_path / "two", "hf")]
    steps.append((tmp_path / "three.pt", "cn_clip"))
    at = source
    for destination, to in steps:
        code, out, err = run(at, destination, "--to", to, "--json")
        assert code == 0, err
        report = json.loads(out)
        assert report["holds"]
        assert report["text"]["max_difference"] <= report["bound"] == 1e-5
        assert report["image"]["lowest_cosine"] == pytest.approx(1, abs=1e-6)
        assert str(at) in err
        at = destination
    first, last = (torch.load(path, weights_only=True)["state_dict"] for path in (source, at))
    del first["module.bert.pooler.dense.bias"]
    assert first.keys() == last.keys()
    assert all(torch.equal(last[name], tensor.float()) for name, tensor in first.items())


def test_fp16_halves_the_file_within_its_bound(tmp_path):
    file = save_published(cn_clip_model("ViT-B-16"), tmp_path / "full.pt")
    parity = convert(str(file), tmp_path / "half.pt", "cn_clip", dtype=torch.float16)
    assert 1e-5 < parity.text_difference < BOUNDS[torch.float16]  # it does round
    assert parity.unequal == ()
    assert recognise(tmp_path / "half.pt").dtypes == {"float32": 1, "float16": 70}
    assert (tmp_path / "half.pt").stat().st_size < 0.51 * file.stat().st_size


def test_the_context_length_can_be_said(source, tmp_path, run):
    code, out, _ = run(source, tmp_path / "new", "--to", "open_clip", "--context-length", 20)
    assert code == 0
    assert "context_length  20" in out
    assert load_checkpoint(tmp_path / "new").tokenizer.context_length == 20
    code, out, _ = run(tmp_path / "new", tmp_path / "new.pt", "--to", "cn_clip")
    assert code == 0, out
    assert "a cn_clip file has no context_length: ask for 20" in out


@pytest.mark.parametrize("tower", ["visual.proj", "text.proj.weight", "logit_scale"])
def test_a_wrong_weight_is_found_out_and_not_kept(tower, source, tmp_path, monkeypatch):
    def broken(checkpoint, path, to, *, dtype):
        state = checkpoint.model.state_dict()
        kept = {name: tensor.clone() for name, tensor in state.items()}
        state[tower].flatten()[0] += 0.1
        save_checkpoint(checkpoint, path, dtype=dtype)
        checkpoint.model.load_state_dict(kept)

    monkeypatch.setattr(module, "save_as", broken)
    lines = []
    parity = convert(str(source), tmp_path / "new", "open_clip", say=lines.append)
    assert not parity.holds
    assert parity.unequal == (tower,)
    if tower != "logit_scale":
        assert max(parity.text_difference, parity.image_difference) > 1e-5
    assert "bound           1e-05: BROKEN" in lines
    assert f"{tmp_path / 'new'}: nothing written" in lines
    assert list(tmp_path.iterdir()) == []


def test_the_command_exits_with_1_where_features_differ(source, tmp_path, run, monkeypatch):
    monkeypatch.setitem(module.BOUNDS, torch.float32, -1.0)
    code, out, _ = run(source, tmp_path / "new", "--to", "open_clip")
    assert code == 1
    assert "BROKEN" in out
    assert list(tmp_path.iterdir()) == []


def test_nan_is_no_parity(tmp_path):
    one, other = tiny_checkpoint(), tiny_checkpoint()
    assert compare(one, other).holds
    with torch.no_grad():
        for each in (one, other):
            each.model.text.proj.weight.fill_(float("nan"))
    assert not compare(one, other).holds


def test_a_model_no_other_format_has(tiny_folder, tmp_path, run):
    for to, name in (("hf", "hf"), ("cn_clip", "new.pt")):
        code, out, err = run(tiny_folder, tmp_path / name, "--to", to)
        assert code == 1
        assert "pooler mean, not cls" in err
        assert "format          open_clip" in out  # what was found is said before
    assert list(tmp_path.iterdir()) == []
    assert run(tiny_folder, tmp_path / "copy", "--to", "open_clip")[0] == 0


@pytest.mark.parametrize("vision", ["timm", "resnet"])
def test_image_towers_hugging_face_has_not(vision, tmp_path, run):
    save_checkpoint(tiny_checkpoint(vision=vision, pooler="cls"), tmp_path / "ours")
    code, _, err = run(tmp_path / "ours", tmp_path / "hf", "--to", "hf")
    assert code == 1
    assert ("ResNet image tower" if vision == "resnet" else "test_efficientnet") in err


def test_what_exists_is_replaced_only_when_asked(source, tmp_path, run):
    first = tmp_path / "new"
    assert run(source, first, "--to", "open_clip")[0] == 0
    (first / "README.md").write_text("# Card\n", encoding="utf-8")
    code, _, err = run(source, first, "--to", "hf")
    assert code == 1
    assert "which exists. Name another, or add --force" in err
    assert recognise(first).format == "open_clip"
    assert run(source, first, "--to", "hf", "--force")[0] == 0
    assert recognise(first).format == "hf"
    assert (first / "README.md").read_text(encoding="utf-8") == "# Card\n"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    file = tmp_path / "new.pt"
    file.write_bytes(b"older")
    assert run(source, file, "--to", "cn_clip", "--force")[0] == 0
    assert recognise(file).format == "cn_clip"


def test_force_does_not_remove_what_is_no_checkpoint(source, tmp_path, run):
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    (home / "letter.doc").write_bytes(b"dear")
    code, _, err = run(source, home, "--to", "open_clip", "--force")
    assert code == 1
    assert "which holds letter.doc, photos. Remove it yourself" in err
    code, _, err = run(source, home, "--to", "cn_clip", "--force")
    assert code == 1
    assert "expected a file" in err
    assert sorted(path.name for path in home.iterdir()) == ["letter.doc", "photos"]
    captions = tmp_path / "captions"  # files of the same kinds, but no weights
    captions.mkdir()
    (captions / "train.json").write_text("{}", encoding="utf-8")
    code, _, err = run(source, captions, "--to", "open_clip", "--force")
    assert code == 1
    assert "which holds train.json. Remove it yourself" in err
    assert [path.name for path in captions.iterdir()] == ["train.json"]


def test_the_source_is_never_overwritten(source, tmp_path, run):
    before = source.read_bytes()
    for destination in (source, source.parent):
        for to in ("cn_clip", "open_clip"):
            code, _, err = run(source, destination, "--to", to, "--force")
            assert code == 1
            assert "expected a destination beside the source" in err
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("/no/such.pt", "{new}.pt", "--to", "cn_clip"), "Check the path"),
        (("{source}", "{new}", "--to", "cn_clip"), "ends in .pt for cn_clip"),
        (("{source}", "{new}", "--to", "hf", "--context-length", "65"), "at most 64"),
    ],
)
def test_wrong_arguments(arguments, expected, source, tmp_path, run):
    code, _, err = run(*(each.format(source=source, new=tmp_path / "new") for each in arguments))
    assert code == 1
    assert expected in err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_a_wrong_option(source, tmp_path, run):
    code, _, err = run(source, tmp_path / "new", "--to", "onnx")
    assert code == 2
    assert "open_clip" in err


def test_a_full_disk_leaves_nothing_half_done(source, tmp_path, monkeypatch):
    from clip_text.checkpoints import folder

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_to_json", full)
    with pytest.raises(OSError, match="No space"):
        convert(str(source), tmp_path / "new", "open_clip")
    assert list(tmp_path.iterdir()) == []


def test_the_fixed_inputs_cover_what_they_should():
    drawn = picture()
    assert drawn.shape == (180, 240, 3)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert np.ptp(drawn.mean(axis=(0, 1))) < 0.2 < drawn.std()  # colourful, no plain field
    joined = "".join(TEXTS)
    assert any("一" <= char <= "龥" for char in joined)
    assert any(char.isascii() and char.isalpha() for char in joined)
    assert max(map(len, TEXTS)) > 52
    assert "" in TEXTS


def test_parity_of_checkpoints_with_other_tokenizers():
    """A vocabulary in another order is another model, though its weights are the same."""
    one = tiny_checkpoint()
    short = tiny_checkpoint(context_length=5)
    other = Checkpoint(one.model, one.config, short.tokenizer, one.preprocessing)
    parity = compare(one, other)
    assert parity.unequal == ()
    assert parity.image_difference == 0
    assert parity.text_difference > 1e-3
    assert not parity.holds
