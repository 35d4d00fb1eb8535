"""int8: calibrated with what is real, rows of their own, graphs that are kept and exported."""

import json
import os
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from fakes import save_picture
from models import IMAGE_SIZE, shared_checkpoint, tiny_checkpoint

from clip_text import CheckpointError, Encoder
from clip_text.checkpoints import save_checkpoint
from clip_text.data.readers import read_retrieval_set
from clip_text.errors import MissingPackageError
from clip_text.exporting import export, immich, parity
from clip_text.names import RUNTIMES
from clip_text.runtimes import calibration, choice, nncf, onnx_quantization
from clip_text.runtimes.calibration import CalibrationSet, bundled_calibration
from clip_text.runtimes.exported import verify
from clip_text.runtimes.graph import ImageGraph
from clip_text.runtimes.openvino import convert
from clip_text_cli.export import recall_at_10

FLICKR = Path(__file__).parents[2] / "shared" / "data" / "flickr8k-cn"
TEXTS = ["一只狗在草地上跑", "红色的心", "dog", "", "大" * 40, "白色的鸟看马"]
TORCH = Encoder(shared_checkpoint(), "cpu")


def drawn(seed):
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def small():
    return CalibrationSet.drawn_from("some drawings", TEXTS, [drawn(seed) for seed in range(6)])


@pytest.fixture
def quick(monkeypatch, tmp_path, small):
    """Little to calibrate with, and a cache of its own."""
    monkeypatch.setattr(choice, "bundled_calibration", lambda: small)
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "runtimes"


def test_what_int8_is_calibrated_with():
    texts = [str(number) for number in range(1000)]
    pictures = [drawn(0), drawn(1), drawn(2)]
    some = CalibrationSet.drawn_from("some", texts, pictures)
    assert len(some.texts) == calibration.TEXTS
    assert (some.texts[0], some.texts[-1]) == ("0", "999")
    assert len(set(some.texts)) == calibration.TEXTS
    assert some.described == "300 texts and 3 pictures of some"
    again = CalibrationSet.drawn_from("other", texts, [picture.copy() for picture in pictures])
    assert again.digest == some.digest
    others = [
        CalibrationSet.drawn_from("some", ["a", *texts[1:]], pictures),
        CalibrationSet.drawn_from("some", texts, [*pictures[:2], drawn(3)]),
    ]
    assert len({some.digest, *(other.digest for other in others)}) == 3
    tokens = some.tokens(TORCH.tokenizer)
    assert tokens[0].tolist() == TORCH.tokenizer.token_ids(["0"])
    pixels = some.pixels(TORCH.preprocessing)
    np.testing.assert_array_equal(pixels[1][0], TORCH.load_pixels(pictures[1]))
    for given in (([], pictures), (texts, [])):
        with pytest.raises(CheckpointError, match=r"expected texts and pictures to calibrate int8"):
            CalibrationSet.drawn_from("nothing", *given)


def test_the_bundled_calibration_is_the_gallerys_photographs(monkeypatch):
    bundled = bundled_calibration()
    assert len(bundled.texts) > 200
    assert "橙色的大丽花" in CalibrationSet.drawn_from("all", bundled.texts, bundled.pictures).texts
    assert len(bundled.pictures) == calibration.PICTURES
    assert all(Path(picture).parent.name == "photos" for picture in bundled.pictures)
    monkeypatch.setattr(calibration, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match="expected the bundled gallery, to calibrate int8"):
        bundled_calibration.__wrapped__()


def test_rows_in_int8_have_a_fingerprint_of_their_own(quick, small, monkeypatch):
    names = ("onnxruntime-int8", "openvino-int8")
    rows = {name: Encoder(shared_checkpoint(), "cpu", name).fingerprint for name in names}
    assert len({TORCH.fingerprint, *rows.values()}) == 3
    for name in RUNTIMES:
        assert (choice.rows_of(name, "one") != "one") == (name in names)
    assert choice.rows_of("openvino-bf16", TORCH.fingerprint) == TORCH.fingerprint
    for name in names:  # known before a graph is made, and the same each time
        assert choice.rows_of(name, TORCH.fingerprint) == rows[name]
        assert choice.rows_of(name, "another") != rows[name]
    with monkeypatch.context() as patch:
        patch.setattr(nncf, "version", lambda _: "another")
        assert choice.rows_of("openvino-int8", TORCH.fingerprint) != rows["openvino-int8"]
    other = CalibrationSet.drawn_from("another", TEXTS, [drawn(9)])
    monkeypatch.setattr(choice, "bundled_calibration", lambda: other)
    assert choice.rows_of("openvino-int8", TORCH.fingerprint) != rows["openvino-int8"]
    assert choice.rows_of("onnxruntime-int8", TORCH.fingerprint) == rows["onnxruntime-int8"]
    assert not list(quick.glob("*"))


def test_auto_never_takes_int8(monkeypatch):
    encoder = Encoder(shared_checkpoint(), "cpu", "auto")
    assert {"torch", "openvino"} <= set(encoder.runtime._makers) <= set(RUNTIMES)
    assert not any("int8" in name for name in encoder.runtime._makers)


@pytest.mark.parametrize(
    ("runtime", "module", "said"),
    [
        ("openvino-int8", "nncf", r"package nncf for int8 by OpenVINO.* 'clip-text\[quantize\]'"),
        ("onnxruntime-int8", "onnx", r"package onnx for int8 .* 'clip-text\[onnxruntime\]'"),
    ],
)
def test_what_quantises_is_named_where_it_is_missing(monkeypatch, runtime, module, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=rf"expected the {said}\."):
        Encoder(shared_checkpoint(), "cpu", runtime)


def test_quantised_graphs_are_kept(quick, monkeypatch):
    first = Encoder(shared_checkpoint(), "cpu", "onnxruntime-int8")
    rows, seen = first.encode_text(TEXTS), first.encode_image([drawn(0)])
    assert {file.name[-12:] for file in quick.iterdir()} == {"text-i8.onnx", "mage-i8.onnx"}

    def again(*_):
        raise AssertionError("quantised again")

    monkeypatch.setattr(onnx_quantization, "quantize", again)
    second = Encoder(shared_checkpoint(), "cpu", "onnxruntime-int8")
    np.testing.assert_array_equal(second.encode_text(TEXTS), rows)
    np.testing.assert_array_equal(second.encode_image([drawn(0)]), seen)
    other = Encoder(tiny_checkpoint(seed=1), "cpu", "onnxruntime-int8")
    with pytest.raises(CheckpointError, match="int8 can run, got: quantised again"):
        other.encode_text(TEXTS)


def test_an_index_of_float_refuses_queries_in_int8(run, quick, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        save_picture(folder / f"{seed}.png", seed)
    save_checkpoint(shared_checkpoint(), tmp_path / "model")
    named = ("--model", tmp_path / "model", "--index")
    assert run("index", folder, *named, tmp_path / "float", "--runtime", "torch")[0] == 0
    search = ("search", "红", *named)
    code, out, err = run(*search, tmp_path / "float", "--runtime", "onnxruntime-int8")
    assert (code, out) == (1, "")
    assert re.search(r"expected .*[0-9a-f]{8}.*, got .*[0-9a-f]{8}", err), err
    eight = ("--runtime", "onnxruntime-int8")
    assert run("index", folder, *named, tmp_path / "eight", *eight)[0] == 0
    code, told, _ = run(*search, tmp_path / "eight", *eight, "--json")
    assert (code, len(json.loads(told)["hits"])) == (0, 3)
    assert run(*search, tmp_path / "eight", "--runtime", "torch")[0] == 1


def quantised_inputs(graph):
    """Say of each convolution and product in order whether its input is quantised."""
    return [
        (node.get_type_name(), node.input(0).get_source_output().get_node().get_type_name())
        for node in graph.get_ordered_ops()
        if node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")
    ]


@pytest.mark.slow  # NNCF takes seconds to import, and to quantise
def test_which_convolutions_stay_in_float(monkeypatch):
    monkeypatch.setattr(nncf, "GROUPS", 4)
    checkpoint = tiny_checkpoint(vision="timm")
    graph = ImageGraph(checkpoint.model, checkpoint.preprocessing)
    pixels = torch.zeros((2, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)
    model = convert(graph, {"pixels": pixels}, [(-1, *pixels.shape[1:])])
    before = len(model.get_ops())
    small = [np.asarray(drawn(seed)[:IMAGE_SIZE, :IMAGE_SIZE])[None] for seed in range(4)]
    made = nncf.quantize(model, [{"pixels": each} for each in small])
    assert len(model.get_ops()) == before
    (_, stem), *others = quantised_inputs(made)
    assert stem != "FakeQuantize"
    for kind, source in others:
        assert (kind == "Convolution") == (source == "FakeQuantize")
    assert sum(kind == "Convolution" for kind, _ in others) > 5
    rows = openvino.compile_model(made, "CPU")([small[0]])[0]
    expected = openvino.compile_model(model, "CPU")([small[0]])[0]
    np.testing.assert_allclose(np.linalg.norm(rows), 1, atol=1e-5)
    assert (rows * expected).sum() > 0.99


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export(tiny_folder, folder, "onnx", "int8")
    return folder


def test_an_export_in_int8(exported, tmp_path):
    encoder = Encoder.from_pretrained(exported)
    assert encoder.runtime.name == "onnxruntime-int8"
    assert encoder.fingerprint not in {TORCH.fingerprint, ""}
    assert len(encoder.fingerprint) == 32
    cosines = (encoder.encode_text(TEXTS) * TORCH.encode_text(TEXTS)).sum(1)
    assert 0.99 < cosines.min() < 0.999999
    pictures = [drawn(seed) for seed in range(3)]
    cosines = (encoder.encode_image(pictures) * TORCH.encode_image(pictures)).sum(1)
    assert 0.99 < cosines.min() < 0.999999
    manifest = verify(exported)
    assert (manifest.precision, manifest.opset) == ("int8", 17)
    assert {"onnx", "onnxruntime"} <= set(manifest.made_from)
    report = json.loads((exported / "report.json").read_text(encoding="utf-8"))
    assert report["calibration"] is None
    assert report["bound"] == {"max_difference": None, "lowest_cosine": parity.COSINES["int8"]}
    copied = Path(shutil.copytree(exported, tmp_path / "copied"))
    whole = (copied / "text.onnx").read_bytes()
    graph = onnx.load(copied / "text.onnx").graph
    products = [node.op_type for node in graph.node].count("MatMulInteger")
    assert products == 2 * 6 + 1  # of both layers, and the projection
    (copied / "text.onnx").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=rf"expected {len(whole):,} bytes in .*text\.onnx"):
        Encoder.from_pretrained(copied)


def test_an_export_beyond_the_bound_is_not_kept(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(onnx_quantization, "quantize", lambda graph: graph)
    monkeypatch.setitem(parity.COSINES, "int8", 1.01)
    with pytest.raises(CheckpointError, match="expected rows of onnx int8 within the bound above"):
        export(tiny_folder, tmp_path / "out", "onnx", "int8")
    assert list(tmp_path.iterdir()) == []


def test_immich_in_int8_by_the_command(run, tmp_path, tiny_folder):
    out = tmp_path / "out"
    named = ("export", tiny_folder, out, "--to", "immich", "--precision", "int8")
    code, _, err = run(*named, "--calibrate", tmp_path)
    assert code == 2
    assert "expected --to openvino --precision int8 with --calibrate, got immich int8" in err
    code, said, _ = run(*named, "--json")
    assert code == 0
    report = json.loads(said)
    assert (report["precision"], report["calibration"]) == ("int8", None)
    stand_in = immich.ImmichModel(out)
    rows = stand_in.encode_text(TEXTS)[:, : TORCH.embed_dim]
    assert 0.99 < (rows * TORCH.encode_text(TEXTS)).sum(1).min() < 0.999999


@pytest.mark.slow
def test_an_export_to_openvino_in_int8_runs_without_what_made_it(
    run, tmp_path, tiny_folder, small, monkeypatch
):
    folder, lines = tmp_path / "openvino", []
    for seed in range(4):
        save_picture(tmp_path / f"{seed}.png", seed)
        lines.append(json.dumps({"file_name": f"{seed}.png", "text": TEXTS[seed % 3]}))
    data = tmp_path / "captions.jsonl"
    data.write_text("\n".join(lines), encoding="utf-8")
    eight = ("--to", "openvino", "--precision", "int8", "--calibrate", data)
    assert run("export", tiny_folder, folder, *eight)[0] == 0
    assert verify(folder).made_from["nncf"] == version("nncf")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| calibrated with | 4 texts and 4 pictures of " in card
    for module in ("nncf", "onnx"):
        monkeypatch.setitem(sys.modules, module, None)
    encoder = Encoder.from_pretrained(folder)
    assert encoder.runtime.name == "openvino-int8"
    assert encoder.fingerprint != TORCH.fingerprint
    cosines = (encoder.encode_text(TEXTS) * TORCH.encode_text(TEXTS)).sum(1)
    assert 0.9 < cosines.min() < 0.999999
    again = tmp_path / "again"
    with pytest.raises(MissingPackageError, match=r"package nncf .* 'clip-text\[quantize\]'"):
        export(tiny_folder, again, "openvino", "int8", calibration=small)
    assert not again.exists()
    whole = (folder / "text.bin").read_bytes()
    (folder / "text.bin").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=rf"expected {len(whole):,} bytes in .*text\.bin"):
        Encoder.from_pretrained(folder)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not FLICKR.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("runtime", ["openvino-int8", "onnxruntime-int8"])
def test_the_starter_finds_as_much_in_int8(runtime, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(os.cpu_count()))
    val = read_retrieval_set(FLICKR / "val.jsonl")
    recall = {
        name: recall_at_10(Encoder.from_pretrained("starter", "cpu", runtime=name), val)
        for name in ("openvino", runtime)
    }
    assert recall[runtime] > recall["openvino"] - 0.005
