"""A saved Encoder in the real sentence-transformers library: the same rows."""

import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import WIDTH, tiny_checkpoint
from test_tokenizer_parity import HARD, mixture
from transformers import AutoTokenizer, T5Config

from clip_text import Encoder
from clip_text.checkpoints import Checkpoint, resolve
from clip_text.checkpoints import sentence_transformers as module
from clip_text.errors import CheckpointError, DimensionsError
from clip_text.tokenizer import Tokenizer
from clip_text.tokenizer.portable import portable
from clip_text.towers import build_model

SOURCE = random.Random(6)
ODD = [*HARD, *(mixture(SOURCE) for _ in range(200 - len(HARD)))]


def under(checkpoint: Checkpoint, compat: str) -> Checkpoint:
    """The same checkpoint with its texts tokenised under another contract."""
    tokenizer = checkpoint.tokenizer
    tokenizer = Tokenizer(tokenizer.backend, tokenizer.context_length, compat)
    return Checkpoint(checkpoint.model, checkpoint.config, tokenizer, checkpoint.preprocessing)


def their_rows(folder, texts):
    """What a user of sentence-transformers gets."""
    model = pytest.importorskip("sentence_transformers").SentenceTransformer(
        str(folder), device="cpu", local_files_only=True
    )
    return model.encode(texts, batch_size=64, show_progress_bar=False), model


@pytest.mark.parametrize("projection", ["linear", "mlp", "tanh", "none"])
@pytest.mark.parametrize("pooler", ["cls", "mean", "max"])
def test_same_rows(pooler, projection, tmp_path):
    width = WIDTH if projection == "none" else 24
    checkpoint = tiny_checkpoint(pooler=pooler, projection=projection, embed_dim=width)
    encoder = Encoder(checkpoint, "cpu")
    encoder.save_sentence_transformers(tmp_path / "st")
    rows, model = their_rows(tmp_path / "st", ODD)
    expected = encoder.encode_text(ODD)
    assert rows.shape == expected.shape == (200, width)
    assert np.abs(rows - expected).max() < 1e-5
    assert np.std(expected, axis=0).max() > 0.05  # the texts do differ
    assert model.max_seq_length == encoder.context_length
    assert model.get_embedding_dimension() == width
    assert model.similarity_fn_name == "cosine"


@pytest.mark.parametrize("projection", ["linear", "mlp", "tanh", "none"])
def test_an_encoder_that_keeps_some_dimensions_writes_those(projection, tmp_path):
    width = WIDTH if projection == "none" else 24
    checkpoint = tiny_checkpoint(projection=projection, embed_dim=width)
    encoder = Encoder(checkpoint, "cpu", dimensions=8)
    before = torch.random.get_rng_state()
    encoder.save_sentence_transformers(tmp_path / "st")
    assert torch.equal(torch.random.get_rng_state(), before)
    rows, model = their_rows(tmp_path / "st", ODD)
    assert rows.shape == (200, 8)
    assert np.abs(rows - encoder.encode_text(ODD)).max() < 1e-5
    assert model.get_embedding_dimension() == 8
    assert checkpoint.model.text.output_dim == width  # what was written is a copy


def test_dimensions_that_rows_have_not_leave_nothing(tmp_path):
    with pytest.raises(DimensionsError, match=r"from 1 to 24 .*, got 25\."):
        module.save_sentence_transformers(tiny_checkpoint(), tmp_path / "st", 25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compat", ["cn_clip", "hf"])
def test_same_rows_under_another_contract(compat, tmp_path):
    """A literal [PAD] apart, as docs/tokenizer.md says."""
    encoder = Encoder(under(tiny_checkpoint(pooler="mean"), compat), "cpu")
    default = Encoder(tiny_checkpoint(pooler="mean"), "cpu")
    encoder.save_sentence_transformers(tmp_path / "st")
    texts = [text for text in ODD if "[PAD]" not in text]
    rows, _ = their_rows(tmp_path / "st", texts)
    expected = encoder.encode_text(texts)
    assert np.abs(rows - expected).max() < 1e-5
    assert np.abs(default.encode_text(texts) - expected).max() > 0.1  # the contract matters


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "distilbert", "albert"])
def test_same_rows_from_another_backbone(kind, tmp_path):
    encoder = Encoder(tiny_checkpoint(kind=kind, pooler="cls"), "cpu")
    encoder.save_sentence_transformers(tmp_path / "st")
    rows, _ = their_rows(tmp_path / "st", ODD)
    assert np.abs(rows - encoder.encode_text(ODD)).max() < 1e-5


@pytest.mark.parametrize("compat", ["clip_text", "cn_clip", "hf"])
def test_the_saved_tokenizer_carries_the_contract(compat, tmp_path):
    """With the real vocabulary, as transformers loads the folder."""
    tokenizer = Tokenizer.from_folder(resolve("starter"), compat=compat)
    portable(tokenizer).save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    source = random.Random(7)
    texts = [*HARD, *(mixture(source) for _ in range(2_000))]
    expected = tokenizer.token_ids(texts)
    got = theirs(texts, truncation=True)["input_ids"]
    assert [text for text, a, b in zip(texts, got, expected, strict=True) if a != b] == []


def test_the_folder_names_nothing_of_this_package(tmp_path):
    Encoder(tiny_checkpoint(), "cpu").save_sentence_transformers(tmp_path / "a" / "st")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["st"]
    files = list((tmp_path / "a" / "st").rglob("*.json"))
    assert len(files) == 9
    for file in files:
        assert "clip_text" not in file.read_text(encoding="utf-8"), file
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file


def test_half_an_emoji_is_the_documented_exception(tmp_path):
    Encoder(tiny_checkpoint(), "cpu").save_sentence_transformers(tmp_path / "st")
    with pytest.raises(TypeError):
        their_rows(tmp_path / "st", ["狗\ud83d"])


def test_open_clip_cleaning_cannot_be_carried(tmp_path):
    encoder = Encoder(under(tiny_checkpoint(), "open_clip"), "cpu")
    with pytest.raises(CheckpointError, match=r"expected compat .*, got 'open_clip'.* compat='hf'"):
        encoder.save_sentence_transformers(tmp_path / "st")
    assert list(tmp_path.iterdir()) == []


def test_half_of_a_model_cannot_be_carried(tmp_path):
    """T5's encoder is ours, and AutoModel would load the decoder, too."""
    small = {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 1}
    tiny = tiny_checkpoint()
    config = replace(tiny.config, backbone=T5Config(vocab_size=200, **small))
    parts = replace(tiny, model=build_model(config), config=config)
    with pytest.raises(CheckpointError, match=r"got T5Stack, a part of T5Model\."):
        Encoder(parts, "cpu").save_sentence_transformers(tmp_path / "st")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_overwritten(tmp_path):
    with pytest.raises(FileExistsError, match="expected a new folder"):
        Encoder(tiny_checkpoint(), "cpu").save_sentence_transformers(tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        Encoder(tiny_checkpoint(), "cpu").save_sentence_transformers(tmp_path / "st")
    assert list(tmp_path.iterdir()) == []


def test_saving_draws_no_random_number(tmp_path):
    encoder = Encoder(tiny_checkpoint(), "cpu")
    before = torch.random.get_rng_state()
    encoder.save_sentence_transformers(tmp_path / "st")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_the_starter_loads_where_this_package_is_not(tmp_path):
    pytest.importorskip("sentence_transformers")
    encoder = Encoder.from_pretrained("starter", "cpu")
    encoder.save_sentence_transformers(tmp_path / "st")
    program = f"""
import sys, json
sys.modules["clip_text"] = None
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({str(tmp_path / "st")!r}, device="cpu", local_files_only=True)
import numpy as np
np.save({str(tmp_path / "rows.npy")!r}, model.encode(json.load(open(sys.argv[1]))))
"""
    (tmp_path / "texts.json").write_text(json.dumps(ODD), encoding="utf-8")
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "texts.json")], check=True)
    rows = np.load(tmp_path / "rows.npy")
    assert np.abs(rows - encoder.encode_text(ODD)).max() < 1e-5
