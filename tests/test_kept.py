"""The starter's exported form in the user's cache: made once, the same rows, never in the way."""

import numpy as np
import pytest
from filelock import FileLock

from clip_text import CheckpointError, Encoder
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


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path / "file"))
    assert not is_exported(load("starter", "auto"))
