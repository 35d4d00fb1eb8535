"""``clip-text info``: what a model is, which runtime computes it here, and how fast."""

import json

import pytest
from models import CONTEXT_LENGTH, VOCABULARY, shared_checkpoint, tiny_checkpoint

from clip_text import CheckpointError, Encoder, model_info
from clip_text.checkpoints import WEIGHTS_FILE, save_checkpoint
from clip_text.model_info import KeptForm, RuntimeInfo, describe_kept, describe_model
from clip_text.runtimes import auto, processor
from clip_text.runtimes.kept import kept_family, kept_starter, run_by
from clip_text_cli.wiring import load_encoder

CARD = """---
language: zh
license: 'other'
license_name: research-only
---
# tiny
license: not this one
"""


@pytest.fixture
def new_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "_SECONDS", 0.0)
    monkeypatch.setattr(auto, "_AT_MOST_SECONDS", 0.0)


def test_a_checkpoint_is_told_by_what_it_holds(tmp_path):
    checkpoint = tiny_checkpoint(vision="resnet", pooler="cls")
    folder = tmp_path / "tiny"
    save_checkpoint(checkpoint, folder)
    (folder / "README.md").write_text(CARD)
    told = describe_model(folder, "torch")
    assert (told.format, told.place, told.licence) == ("open_clip", folder, "other (research-only)")
    text, image = told.towers["text"], told.towers["image"]
    assert text.about == (
        f"bert, 2 layers, width 32, 4 heads, vocabulary {len(VOCABULARY)}, pooler cls, "
        "projection linear"
    )
    assert (text.layers, text.width) == (2, 32)
    assert (image.layers, image.width) == (4, 8)  # blocks of four stages
    assert "ResNet, 1, 1, 1, 1 blocks, width 8, 32 px" in image.about
    everything = sum(each.numel() for each in checkpoint.model.parameters())
    assert told.parameters == text.parameters + image.parameters == everything - 1  # logit_scale
    assert (told.embed_dim, told.context_length) == (24, CONTEXT_LENGTH)
    assert (told.contract, told.vocabulary) == ("clip_text/1", len(VOCABULARY))
    assert told.preprocessing == checkpoint.preprocessing
    assert told.bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert told.fingerprint == Encoder(checkpoint, "cpu").fingerprint
    assert told.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert told.runtimes["text"] == RuntimeInfo("torch", "fp32", False, [], {}, {})


def test_a_single_file_has_its_own_size_and_the_card_beside_it(tmp_path):
    save_checkpoint(shared_checkpoint(), tmp_path / "tiny")
    file = tmp_path / "tiny" / WEIGHTS_FILE
    told = describe_model(file, "torch")
    assert (told.format, told.licence, told.bytes) == ("open_clip", None, file.stat().st_size)
    for card, licence in (("# no head\n\nlicense: mit\n", None), ("---\nlicense: mit\n---", "mit")):
        (tmp_path / "tiny" / "README.md").write_text(card)
        assert describe_model(file, "torch").licence == licence


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="expected"):
        describe_model(tmp_path / "none")


def test_auto_is_told_by_what_it_remembers_and_measured_when_asked(new_cache, tiny_folder):
    nothing = describe_model(tiny_folder, "auto").runtimes
    assert nothing["text"] == RuntimeInfo(None, None, True, [], {}, {})
    measured = describe_model(tiny_folder, "auto", measure=True).runtimes
    for tower, rows in (("text", [1, 16]), ("image", [2])):
        told = measured[tower]
        assert (told.is_chosen, told.rows) == (True, rows)
        assert told.milliseconds.keys() - told.refused.keys() >= {told.name}
        assert {"torch", told.name} <= told.milliseconds.keys()
        assert all(time > 0 for taken in told.milliseconds.values() for time in taken)
        assert told.precision == ("bf16" if told.name.endswith("bf16") else "fp32")
    assert describe_model(tiny_folder, "auto").runtimes == measured
    # the choice is the one that encodes
    encoder = Encoder.from_pretrained(tiny_folder, runtime="auto")
    assert encoder.runtime_of("text").name == measured["text"].name


def test_a_runtime_that_was_named_is_timed_by_itself(new_cache, tiny_folder):
    told = describe_model(tiny_folder, "torch", measure=True).runtimes
    assert (told["text"].rows, told["image"].rows) == ([1, 16], [2])
    assert set(told["text"].milliseconds) == {"torch"}
    assert all(time > 0 for time in told["text"].milliseconds["torch"])


def test_lines_name_figures_and_reasons(monkeypatch):
    told = RuntimeInfo(
        name="openvino-bf16",
        precision="bf16",
        is_chosen=True,
        rows=[1, 16],
        milliseconds={"torch": [1.5, 4.0], "openvino-bf16": [0.25, 2.125], "slow": [9.0, 9.0]},
        refused={"slow": "it takes 6.00 times as long as torch", "wrong": "a cosine of 0.99"},
    )
    assert told.lines("text") == [
        "text runs by     openvino-bf16, bf16 (chosen by auto)",
        "  openvino-bf16  0.25 CPU ms for 1 text, 2.12 CPU ms for 16 texts",
        "  torch          1.50 CPU ms for 1 text, 4.00 CPU ms for 16 texts",
        "  slow           9.00 CPU ms for 1 text, 9.00 CPU ms for 16 texts; out: it takes 6.00 "
        "times as long as torch",
        "  wrong          out: a cosine of 0.99",
    ]
    monkeypatch.setattr(model_info, "CLOCK", "wall")  # as on Windows
    assert told.lines("text")[1] == "  openvino-bf16  0.25 ms for 1 text, 2.12 ms for 16 texts"
    unknown = RuntimeInfo(None, None, True, [], {}, {})
    assert unknown.lines("image") == [
        "image runs by    auto has not chosen yet; --measure times it"
    ]


def test_the_command(run, tiny_folder, monkeypatch):
    code, out, err = run("info", tiny_folder, "--runtime", "torch")
    assert (code, err) == (0, "")
    assert f"place            {tiny_folder}" in out
    assert "licence          none is named" in out
    assert "text runs by     torch, fp32; --measure times it" in out
    monkeypatch.setenv("CLIP_TEXT_MODEL", str(tiny_folder))
    code, out, _ = run("info", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["name"], told["place"]) == (str(tiny_folder), str(tiny_folder))
    assert (told["kept"], told["clock"]) == (None, "cpu")
    assert told["towers"]["text"]["layers"] == 2
    assert told["parameters"] == sum(tower["parameters"] for tower in told["towers"].values())
    assert told["runtimes"]["image"]["name"] == "torch"
    assert run("info", tiny_folder / "none")[0] == 1


def test_what_commands_run_in_place_of_the_starter_is_told(run, new_cache, monkeypatch):
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "auto")
    family = kept_family()
    folder, name = kept_starter(family), run_by(family)
    precision = "bf16" if name.endswith("bf16") else "fp32"
    for gpu, commands in ((False, "search, serve, index and demo"), (True, "search and serve")):
        monkeypatch.setattr(processor, "may_have_gpu", lambda gpu=gpu: gpu)
        code, out, err = run("info")
        assert (code, err) == (0, "")
        runs = f"{commands} run an exported form ({name}, {precision}) in {folder}"
        assert f"{runs}, which is made at first use\n" in out
    monkeypatch.setattr(processor, "may_have_gpu", lambda: False)
    assert not folder.exists()  # nothing is made in order to tell of it
    assert load_encoder("starter", queries_only=True).runtime.name == name
    code, out, _ = run("info", "--json")
    kept = json.loads(out)["kept"]
    assert (kept["place"], kept["commands"][0], kept["commands"][-1]) == (
        str(folder),
        "search",
        "demo",
    )
    assert (kept["runtimes"]["text"]["name"], kept["name"], kept["precision"]) == (
        name,
        name,
        precision,
    )
    told = describe_kept(family, ["search", "serve"], measure=True)
    assert (told.runtimes["text"].rows, told.runtimes["image"].rows) == ([1, 16], [2])
    # one that is damaged will be made anew
    (folder / "text.bin").unlink()
    assert describe_kept(family, ["search", "serve"]).runtimes == {}
    for named in (("--runtime", "torch"), ("--runtime", "openvino")):
        assert "exported form" not in run("info", *named)[1]


def test_a_form_that_cannot_be_kept_is_not_said_to_be_made_at_first_use(
    run, new_cache, monkeypatch, tmp_path
):
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "auto")
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path / "file" / "below"))
    code, out, _ = run("info")
    assert (code, "made at first use" in out, "once it can be written" in out) == (0, False, True)


def test_lines_of_a_kept_form_name_its_times(tmp_path):
    runtimes = {
        "text": RuntimeInfo("openvino", "fp32", False, [1, 16], {"openvino": [0.5, 3.0]}, {}),
        "image": RuntimeInfo("openvino", "fp32", False, [2], {"openvino": [30.0]}, {}),
    }
    told = KeptForm(["search", "serve", "index"], tmp_path, "openvino", "fp32", runtimes)
    assert told.lines() == [
        f"search, serve and index run an exported form (openvino, fp32) in {tmp_path}",
        "  text           0.50 CPU ms for 1 text, 3.00 CPU ms for 16 texts",
        "  image          30.00 CPU ms for 2 pictures",
        "other commands and Python run the model itself:",
    ]
