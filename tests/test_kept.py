"""The starter's exported form in the user's cache: made once, the same rows, never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from clip_text import CheckpointError, Encoder
from clip_text.runtimes import processor
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
    np.testing.assert_allclose(
        first.encode_text(texts), starter.encode_text(texts), rtol=0, atol=1e-5
    )
    assert folder.is_dir()
    assert not older.exists()
    manifest = folder / "clip_text_model.json"
    written = manifest.stat().st_mtime_ns
    assert is_exported(load("starter", "auto"))
    assert manifest.stat().st_mtime_ns == written
    # one that is truncated while another process makes it anew is not used
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1])
    with FileLock(folder.parent / "lock"):
        assert not is_exported(load("starter", "auto"))


def test_other_models_and_runtimes_are_loaded_as_they_are(tmp_path, monkeypatch, tiny_folder):
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path))
    assert not is_exported(load("starter", "torch"))
    assert not is_exported(load(str(tiny_folder), "auto"))
    assert not is_exported(wiring.load_encoder("starter", runtime="auto"))
    assert not is_exported(wiring.load_encoder("starter", "hf", "auto", queries_only=True))
    assert not (tmp_path / "exported").exists()


def test_pictures_in_number_are_encoded_by_it_but_where_a_gpu_may_be(monkeypatch):
    kept = object()
    monkeypatch.setattr(wiring, "_kept_starter", lambda family: kept)
    for devices, found in (((), True), ((Path(__file__),), False)):
        monkeypatch.setattr(processor, "_GPU_DEVICES", devices)
        monkeypatch.setattr(processor, "find_library", lambda name: None)
        encoder = wiring.load_encoder("starter", runtime="auto", rows_only=True)
        assert (encoder is kept) is found
    assert load("starter", "auto") is kept  # a text now and then needs no GPU


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
