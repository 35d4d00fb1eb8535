"""Exported models: the same rows without torch, folders that are whole or refused, Immich."""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
import tokenizers
from fakes import save_picture
from models import bert_tokenizer, shared_checkpoint, tiny_checkpoint
from PIL import Image

from clip_text import CheckpointError, Encoder
from clip_text.checkpoints import load_checkpoint, save_checkpoint
from clip_text.conversion import TEXTS
from clip_text.errors import MissingPackageError
from clip_text.exporting import card, export, immich, parity
from clip_text.model_info import describe_model
from clip_text.runtimes.exported import MANIFEST_FILE, load_exported, read_manifest, verify
from clip_text.runtimes.processor import has_bf16
from clip_text.tokenizer import Tokenizer

HERE = Path(__file__).parent
FAMILIES = ["onnx", "openvino"]
MIXED = [*TEXTS, "", "红" * 10_000, "a dog", "“红”[MASK]１２"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_folder):
    """Gives the folder of the tiny model as onnx, openvino or immich; do not write to it."""
    base = tmp_path_factory.mktemp("exported")

    @functools.cache
    def made(target):
        export(tiny_folder, base / target, target)
        return base / target

    return made


@pytest.fixture(scope="module")
def source():
    return Encoder(shared_checkpoint(), "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        save_picture(folder / f"{seed}.png", seed)
    Image.effect_mandelbrot((90, 33), (-3, -2.5, 2, 2.5), 60).save(folder / "wide.jpg")
    return folder


@pytest.fixture
def copied(tmp_path, exported):
    return Path(shutil.copytree(exported("onnx"), tmp_path / "copied"))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_folder_is_the_same_model(family, source, photos, exported):
    encoder = Encoder.from_pretrained(exported(family))
    for texts in ([], ["狗"], MIXED, MIXED * 60):
        np.testing.assert_allclose(
            encoder.encode_text(texts), source.encode_text(texts), rtol=0, atol=1e-5
        )
    pictures = sorted(photos.iterdir())
    for chosen in (pictures[:1], pictures):
        np.testing.assert_allclose(
            encoder.encode_image(chosen), source.encode_image(chosen), rtol=0, atol=1e-5
        )
    assert encoder.encode_image([]).shape == (0, source.embed_dim)
    for name in ("fingerprint", "embed_dim", "context_length", "logit_scale", "preprocessing"):
        assert getattr(encoder, name) == getattr(source, name), name
    assert encoder.tokenizer.contract == source.tokenizer.contract
    assert encoder.text_report(["龘"]) == source.text_report(["龘"])
    assert encoder.runtime.name == {"onnx": "onnxruntime", "openvino": "openvino"}[family]


COME_AND_GO = """
import os, signal, sys
from clip_text import Encoder
first, second = (Encoder.from_pretrained(sys.argv[1]) for _ in range(2))
first.encode_text(["狗"]), second.encode_text(["狗"])
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_is_heard_after_models_came_and_went(exported):
    """OpenVINO's plug-in gives a thread a stack for signals, and frees it with its Core."""
    command = [sys.executable, "-c", COME_AND_GO, exported("openvino")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_share_an_exported_model(family, source, exported):
    encoder = Encoder.from_pretrained(exported(family))
    expected = [source.encode_text([text]) for text in MIXED]
    with ThreadPoolExecutor(8) as pool:
        rows = pool.map(lambda text: encoder.encode_text([text]), MIXED)
        for row, wanted in zip(rows, expected, strict=True):
            np.testing.assert_allclose(row, wanted, rtol=0, atol=1e-5)


def test_the_report_and_the_card_say_what_was_measured(exported):
    folder = exported("onnx")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (report["source"], report["target"], report["precision"]) == ("tiny", "onnx", "fp32")
    assert report["holds"]
    for tower in ("text", "image"):
        worst = max(s["difference"] for s in report["shapes"] if s["tower"] == tower)
        assert report[tower]["max_difference"] == worst <= 1e-5
    texts = {(s["batch"], s["length"]) for s in report["shapes"] if s["tower"] == "text"}
    assert {(1, 2), (32, 16), (7, 8)} <= texts
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| opset | {report['opset']} |" in card
    assert "lowest cosine 1.0000000" in card
    manifest = read_manifest(folder)
    assert (manifest.family, manifest.opset) == ("onnx", report["opset"])
    assert manifest.made_from["model"] == "tiny"
    assert read_manifest(exported("openvino")).opset is None
    card = (exported("immich") / "README.md").read_text(encoding="utf-8")
    assert "| in Immich | 512 numbers, zeros behind ours; the name ViT-B-32__openai |" in card


def test_rows_of_shapes_are_padded_as_texts_are():
    tokenizer = shared_checkpoint().tokenizer
    assert parity.lengths(tokenizer) == [2, 3, 8, 13, 15, 16]
    rows = parity.token_rows(tokenizer, 7, 8)
    assert rows.shape == (7, 8)
    assert [int((row != tokenizer.pad_id).sum()) for row in rows] == [8, 7, 6, 5, 4, 8, 7]
    assert (parity.token_rows(tokenizer, 2, 2) == tokenizer.frame([])).all()
    pictures = parity.pictures(8, 16)
    assert len(np.unique(pictures.reshape(8, -1), axis=0)) == 8


def test_bounds_of_a_comparison():
    def at(difference, cosine, precision="fp32"):
        shape = parity.ShapeParity("text", 1, 2, difference, cosine)
        return parity.ExportParity((shape, replace(shape, tower="image")), precision)

    assert at(1e-6, 1.0).holds
    assert at(1e-6, 1.0).same_rows
    assert not at(2e-5, 1.0).holds
    assert not at(1e-6, 0.999).holds
    assert not at(float("nan"), 1.0).holds
    assert at(0.01, 0.998, "bf16").holds
    assert not at(0.01, 0.998, "bf16").same_rows
    assert at(0.01, 0.9995, "bf16").same_rows
    assert not at(0.01, 0.98, "bf16").holds
    assert at(0.01, 0.98, "bf16").lines()[-1] == "bound           cosine 0.99: BROKEN"


@pytest.mark.skipif(not has_bf16(), reason="the processor has no bfloat16")
def test_half_precision_has_its_own_fingerprint_where_its_rows_are_others(
    tmp_path, tiny_folder, monkeypatch, source
):
    export(tiny_folder, tmp_path / "near", "openvino", "bf16")
    near = Encoder.from_pretrained(tmp_path / "near")
    assert near.runtime.name == "openvino-bf16"
    assert (near.encode_text(["狗"]) * source.encode_text(["狗"])).sum() > 0.99
    monkeypatch.setattr(parity, "SAME_ROWS", 1.1)
    export(tiny_folder, tmp_path / "far", "openvino", "bf16")
    far = Encoder.from_pretrained(tmp_path / "far")
    assert far.fingerprint != source.fingerprint
    assert len(far.fingerprint) == 32
    verify(tmp_path / "far")


def test_an_export_that_is_not_the_model_is_not_kept(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(parity, "DIFFERENCE", 0.0)
    told = []
    with pytest.raises(CheckpointError, match="expected rows of onnx fp32 within the bound above"):
        export(tiny_folder, tmp_path / "out", "onnx", say=told.append)
    assert told[-1].endswith("BROKEN")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told(tmp_path, tiny_folder, exported):
    with pytest.raises(
        CheckpointError, match=r"expected precision fp32 or int8 for onnx, got 'bf16'\."
    ):
        export(tiny_folder, tmp_path / "out", "onnx", "bf16")
    with pytest.raises(FileExistsError, match="expected a new folder"):
        export(tiny_folder, tmp_path, "onnx")
    with pytest.raises(CheckpointError, match=r"a model with its weights, got .*onnx"):
        export(exported("onnx"), tmp_path / "out", "openvino")
    with pytest.raises(CheckpointError, match=r"expected a model with its weights, .* exported"):
        load_checkpoint(exported("onnx"))


@pytest.mark.parametrize("name", ["text.onnx", "tokenizer.json"])
def test_a_truncated_or_missing_file_is_refused(copied, name):
    file = copied / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    said = rf"expected {len(whole):,} bytes in .*{re.escape(name)}, got {len(whole) - 1:,}\. Copy"
    with pytest.raises(CheckpointError, match=said):
        Encoder.from_pretrained(copied)
    file.unlink()
    with pytest.raises(CheckpointError, match="got no such file"):
        Encoder.from_pretrained(copied)


def test_an_altered_file_is_found_by_its_digest(copied):
    assert verify(copied) == read_manifest(copied)
    content = bytearray((copied / "text.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "text.onnx").write_bytes(content)
    read_manifest(copied)
    with pytest.raises(
        CheckpointError, match=r"expected digest \w{32} of .*text\.onnx, got \w{32}"
    ):
        verify(copied)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m | {"version": 2}, r"expected version 1 of clip_text_model\.json, got 2"),
        (lambda m: m | {"family": "tflite"}, r"damaged \(ValueError: family 'tflite'"),
        (lambda m: {k: v for k, v in m.items() if k != "embed_dim"}, r"KeyError: 'embed_dim'"),
        (lambda m: m | {"files": {}}, r"no text\.onnx among files"),
        (lambda m: m | {"preprocessing": {"size": 9, "mean": [0], "std": [1]}}, r"mean \(0\.0,\)"),
        (lambda m: m | {"contract": "hf/1"}, r"expected a tokenizer of contract hf/1"),
        (lambda m: [], r"expected the manifest of an exported model"),
    ],
)
def test_a_damaged_manifest_is_told(copied, change, said):
    file = copied / MANIFEST_FILE
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(CheckpointError, match=said):
        Encoder.from_pretrained(copied)


def test_another_context_contract_or_runtime_is_not_to_be_had(exported):
    folder = exported("onnx")
    own = load_exported(folder, 16, "clip_text", "onnxruntime")
    assert own.tokenizer.context_length == 16
    said = "expected context_length 16, compat clip_text, runtime onnxruntime, all that .*onnx was"
    for asked in ((9, None, "auto"), (None, "cn_clip", None), (None, None, "torch")):
        with pytest.raises(CheckpointError, match=said):
            load_exported(folder, *asked)


def test_the_variable_is_a_preference_that_an_exported_model_outranks(
    exported, photos, tmp_path, monkeypatch, run
):
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "torch-bf16")
    assert Encoder.from_pretrained(exported("openvino")).runtime.name == "openvino"
    folder = exported("onnx")
    named = ("--index", tmp_path / "index", "--model", folder)
    code, _, err = run("index", photos, *named)
    assert (code, err) == (0, "Pictures are computed by onnxruntime.\n")
    assert run("search", "狗", *named)[0] == 0
    code, _, err = run("search", "狗", *named, "--runtime", "torch-bf16")
    assert code == 1
    assert "all that" in err


@pytest.mark.parametrize(("family", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_names_its_install(family, package, monkeypatch, exported):
    folder = exported(family)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"package {package} .* pip install {package}\."):
        Encoder.from_pretrained(folder)


def light(*arguments):
    """A process of ``clip-text`` that cannot import torch, transformers or open_clip."""
    return subprocess.Popen(
        [sys.executable, HERE / "light_process.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"CLIP_TEXT_RUNTIME": "auto", "COLUMNS": "200"},
    )


def done(*arguments):
    process = light(*arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@contextlib.contextmanager
def serving(index, model):
    process = light("serve", "--index", index, "--model", model, "--port", 0)
    try:
        line = process.stderr.readline()
        address = re.search(r"http://[^/]+", line)
        assert address, line + process.stderr.read()
        yield address[0]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("family", FAMILIES)
def test_index_search_and_serve_need_no_torch(family, photos, tmp_path, source, exported):
    model, index = exported(family), tmp_path / "index"
    report = json.loads(done("index", photos, "--index", index, "--model", model, "--json"))
    assert (report["added"], report["failed"]) == (4, 0)
    found = json.loads(done("search", "红色的心", "--index", index, "--model", model, "--json"))
    paths = sorted(photos.iterdir())
    scores = source.encode_image(paths) @ source.encode_text(["红色的心"])[0]
    by_path = {str(path): score for path, score in zip(paths, scores.tolist(), strict=True)}
    assert {hit["path"]: pytest.approx(hit["score"], abs=1e-3) for hit in found["hits"]} == by_path
    with serving(index, model) as address:
        answer = httpx.post(
            f"{address}/v1/search", json={"query": "红色的心"}, trust_env=False, timeout=60
        ).json()
        version = httpx.get(f"{address}/version", trust_env=False, timeout=60).json()
    own = {"onnx": "onnxruntime", "openvino": "openvino"}[family]
    assert (version["runtime"], version["embed_dim"], version["notes"]) == (own, 24, [])
    assert version["fingerprint"] == source.fingerprint
    assert [hit["image_id"] for hit in answer["hits"]] == [h["image_id"] for h in found["hits"]]


def test_info_needs_no_torch(exported, source):
    folder = exported("onnx")
    told = json.loads(done("info", folder, "--measure", "--json"))
    assert (told["format"], told["fingerprint"]) == ("exported for onnx, fp32", source.fingerprint)
    about = told["towers"]["text"]
    assert about["about"].startswith("bert, 2 layers, width 32, 4 heads")
    assert about["parameters"] == sum(p.numel() for p in source.model.text.parameters())
    assert told["made_from"]["model"] == "tiny"
    assert told["bytes"] > (folder / "text.onnx").stat().st_size
    assert told["runtimes"]["text"]["rows"] == [1, 16]
    assert all(time > 0 for time in told["runtimes"]["text"]["milliseconds"]["onnxruntime"])


def test_an_export_of_before_says_nothing_of_its_towers(copied):
    file = copied / MANIFEST_FILE
    said = json.loads(file.read_text())
    del said["towers"]
    file.write_text(json.dumps(said))
    told = describe_model(copied)
    assert (told.towers, told.parameters) == ({}, None)
    assert not any(line.startswith("text tower") for line in told.lines())


def test_without_torch_another_model_names_the_whole_installation(tiny_folder):
    process = light("search", "狗", "--model", tiny_folder)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert re.fullmatch(
        r"error: expected the package \w+ for a model that was not exported, got none\. "
        r"Run: pip install clip-text\.\n",
        err,
    )


def immich_text(folder, text):
    """What Immich's service does with a query."""
    context = json.loads((folder / "config.json").read_text())["text_cfg"]["context_length"]
    pad = json.loads((folder / "textual/tokenizer_config.json").read_text())["pad_token"]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "textual/tokenizer.json"))
    tokenizer.enable_padding(length=context, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=context)
    ids = tokenizer.encode(" ".join(text.split())).ids
    session = onnxruntime.InferenceSession(folder / "textual/model.onnx")
    return session.run(None, {"text": np.array([ids], np.int32)})[0][0]


def immich_image(folder, path):
    """What it does with a picture, where it honours resize_mode."""
    config = json.loads((folder / "visual/preprocess_cfg.json").read_text())
    assert config["resize_mode"] == "squash"
    picture = Image.open(path).convert("RGB")
    resampling = {each.name.lower(): each for each in Image.Resampling}[config["interpolation"]]
    picture = picture.resize((config["size"], config["size"]), resampling)
    mean, std = (np.array(config[name], np.float32) for name in ("mean", "std"))
    pixels = np.asarray(picture, np.float32) / 255.0
    pixels = pixels * (1.0 / std) - mean / std
    session = onnxruntime.InferenceSession(folder / "visual/model.onnx")
    return session.run(None, {"image": pixels.transpose(2, 0, 1)[None]})[0][0]


def test_immich_gets_the_rows_of_the_encoder(source, photos, exported):
    folder = exported("immich")
    texts = ["红色的心", "“红”ＡＢ１，狗", "红" * 99, "", "a dog\u3000 running"]
    for text, row in zip(texts, source.encode_text(texts), strict=True):
        ours = immich_text(folder, text)
        assert ours.shape == (512,)
        np.testing.assert_allclose(ours[: len(row)], row, rtol=0, atol=1e-5)
        assert not ours[len(row) :].any()
    for path in photos.iterdir():
        row = source.encode_image([Image.open(path).convert("RGB")])[0]
        np.testing.assert_allclose(immich_image(folder, path)[: len(row)], row, rtol=0, atol=1e-5)


def test_our_stand_in_for_immich_does_what_it_does(photos, exported):
    folder = exported("immich")
    stand_in = immich.ImmichModel(folder)
    np.testing.assert_allclose(
        stand_in.encode_text(["红 狗"])[0], immich_text(folder, "红 狗"), rtol=0, atol=1e-6
    )
    wide = photos / "wide.jpg"
    row = stand_in.encode_pixels([stand_in.load_pixels(wide)])[0]
    np.testing.assert_allclose(row, immich_image(folder, wide), rtol=0, atol=1e-5)
    # older versions of it crop the middle
    cropped = immich.ImmichModel(folder, "shortest").load_pixels(wide)
    assert cropped.shape == (32, 32, 3)
    middle = (
        Image.open(wide).convert("RGB").resize((int(90 / 33 * 32), 32), Image.Resampling.BICUBIC)
    )
    left = int(middle.width / 2 - 16)
    assert (cropped == np.asarray(middle)[:, left : left + 32]).all()


def test_what_immich_cannot_hold_is_told(tmp_path):
    wide = tmp_path / "wide"
    save_checkpoint(tiny_checkpoint(embed_dim=1100), wide)
    with pytest.raises(CheckpointError, match="expected an embed_dim of at most 1024"):
        export(wide, tmp_path / "out", "immich")
    cleaned = tmp_path / "cleaned"
    tokenizer = Tokenizer(bert_tokenizer(), 16, "open_clip")
    save_checkpoint(replace(shared_checkpoint(), tokenizer=tokenizer), cleaned)
    with pytest.raises(CheckpointError, match="expected compat clip_text, cn_clip or hf"):
        export(cleaned, tmp_path / "out", "immich")
    assert not (tmp_path / "out").exists()
    assert [immich.immich_width(dim) for dim in (24, 512, 513, 1024)] == [512, 512, 640, 1024]


def test_the_command_prints_the_comparison_and_measures_recall(run, tmp_path, tiny_folder, photos):
    lines = [{"file_name": path.name, "text": "红"} for path in sorted(photos.iterdir())]
    data = photos.parent / "captions.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for path in photos.iterdir():
        shutil.copy(path, data.parent)
    out = tmp_path / "exported"
    code, said, _ = run("export", tiny_folder, out, "--to", "immich", "--data", data)
    assert code == 0
    assert re.search(r"text rows +max \|difference\| .* 24 shapes|24 shapes", said)
    assert re.search(r"bound +1e-05, cosine 0\.9999999: kept", said)
    assert re.search(r"recall@10 +100\.00%  source", said)
    assert re.search(r"recall@10 +100\.00%  exported \(\+0\.00 points\)", said)
    code, _, err = run("export", tiny_folder, out, "--to", "onnx")
    assert code == 1
    assert "expected a new folder" in err


def test_a_card_in_another_encoding_keeps_no_export_from_being_made(tmp_path):
    (tmp_path / "README.md").write_bytes("# 模型\n\n很好 model".encode("gb18030"))
    front, body = card._parts(tmp_path)
    assert front == ""
    assert body.endswith("model\n")
