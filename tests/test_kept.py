"""The starter's exported form in the user's cache: made once, the same rows, never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from clip_text import CheckpointError, Encoder
from clip_text.exporting.kept import keep_starter
from clip_text.exporting.run import export
from clip_text.runtimes import kept, processor
from clip_text.runtimes.cache import Stamp
from clip_text.runtimes.kept import kept_family, kept_starter
from clip_text_cli import wiring


@pytest.fixture(scope="module")
def starter():
    return Encoder.from_pretrained("starter")


def load(model, runtime):
    return wiring.load_encoder(model, runtime=runtime, queries_only=True)


def is_exported(encoder):
    try:
        encoder.require_weights()
    except CheckpointError:
        return True
    return False


def test_the_starter_is_exported_once_and_then_found(starter, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path))
    folder = kept_starter(kept_family())
    assert folder.parent == tmp_path / "exported"
    older = folder.parent / f"starter-{kept_family()}-0123"
    older.mkdir(parents=True)
    first = load("starter", "auto")
    assert is_exported(first)
    assert first.fingerprint == starter.fingerprint
    texts = ["红色的心", "a dog", ""]
    cosines = (first.encode_text(texts) * starter.encode_text(texts)).sum(axis=1)
    assert cosines.min() >= 0.999  # in bfloat16, where the processor has it
    assert folder.is_dir()
    assert not older.exists()
    manifest = folder / "clip_text_model.json"
    written = manifest.stat().st_mtime_ns
    assert is_exported(load("starter", "auto"))
    assert keep_starter(folder, kept_family())  # by another process that saw none, and waited
    assert manifest.stat().st_mtime_ns == written
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "auto")
    own = wiring.load_own("starter", tokens_only=True)
    assert is_exported(own)
    said = [*texts, "一只“狗”，𪚥", "很长" * 40]
    assert own.text_report(said) == starter.text_report(said)
    assert own.tokenizer.token_ids(said) == starter.tokenizer.token_ids(said)
    # one that is truncated while another process makes it anew is not used
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1])
    with FileLock(folder.parent / "lock"):
        assert not is_exported(load("starter", "auto"))


def test_it_runs_in_bfloat16_where_the_processor_has_that(starter, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "has_bf16", lambda: True)
    assert (kept.run_by("openvino"), kept.run_by("onnx")) == ("openvino-bf16", "onnxruntime")
    monkeypatch.setattr(kept, "has_bf16", lambda: False)
    assert kept.run_by("openvino") == "openvino"
    folder = tmp_path / "exported"
    export("starter", folder, "openvino")
    texts = ["红色的心", "a dog", ""]
    exact = Encoder.from_pretrained(folder).encode_text(texts)
    np.testing.assert_allclose(exact, starter.encode_text(texts), rtol=0, atol=1e-5)
    if not processor.has_bf16():
        with pytest.raises(CheckpointError, match=r"all that .* was exported with"):
            Encoder.from_pretrained(folder, runtime="openvino-bf16")
        return
    encoder = Encoder.from_pretrained(folder, runtime="openvino-bf16")
    assert encoder.runtime.name == "openvino-bf16"
    assert encoder.fingerprint == starter.fingerprint
    rows = encoder.encode_text(texts)
    assert 1e-5 < np.abs(rows - exact).max() < 0.01


def test_other_models_and_runtimes_are_loaded_as_they_are(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path))
    assert not is_exported(load("starter", "torch"))
    assert not is_exported(load(str(tiny_folder), "auto"))
    assert not is_exported(wiring.load_encoder("starter", runtime="auto"))
    assert not is_exported(wiring.load_encoder("starter", "hf", "auto", queries_only=True))
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "auto")
    assert not is_exported(wiring.load_own("starter", "hf", tokens_only=True))
    assert not is_exported(wiring.load_own(str(tiny_folder), tokens_only=True))
    assert not (tmp_path / "exported").exists()


def test_pictures_in_number_are_encoded_by_it_but_where_a_gpu_may_be(monkeypatch):
    form = object()
    monkeypatch.setattr(wiring, "_kept_starter", lambda family: form)
    for devices, found in (((), True), ((Path(__file__),), False)):
        monkeypatch.setattr(processor, "_GPU_DEVICES", devices)
        monkeypatch.setattr(processor, "find_library", lambda name: None)
        encoder = wiring.load_encoder("starter", runtime="auto", rows_only=True)
        assert (encoder is form) is found
    assert load("starter", "auto") is form  # a text now and then needs no GPU


INDEX = """
import sys
from memory import peak_kilobytes
from clip_text_cli.main import main
sys.argv[1:] = ["index", *sys.argv[1:]]
try:
    main()
finally:
    print(peak_kilobytes(), "torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.slow
def test_indexing_by_the_starter_takes_a_third_of_the_memory_that_torch_would(tmp_path):
    """The bound is 1.2 GB; it was 1.6 GB."""
    gallery = Path(wiring.__file__).parents[1] / "retrieval" / "gallery" / "photos"
    here = str(Path(__file__).parent)
    environment = os.environ | {
        "CLIP_TEXT_CACHE": str(tmp_path / "cache"),
        "CLIP_TEXT_RUNTIME": "auto",
        "PYTHONPATH": os.pathsep.join([here, str(Path(here).parent)]),
    }
    for turn in range(2):  # its exported form is made by the first, in a process of its own
        command = [sys.executable, "-c", INDEX, gallery, "--index", tmp_path / f"{turn}.index"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peak, has_torch = ran.stderr.split()[-2:]
        assert has_torch == "False"
        assert float(peak) < 600_000


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path / "file"))
    assert not is_exported(load("starter", "auto"))


def test_a_cache_that_others_filled_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path))
    stamp = Stamp.here("0" * 32)
    stamp.keep("graph.blob", b"compiled")

    def refused(*_):
        raise PermissionError(1, "not ours")

    monkeypatch.setattr(os, "utime", refused)
    assert stamp.fetch("graph.blob") == b"compiled"
