"""Encoders whose rows are cut to their first dimensions, and indexes of such rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import save_picture
from models import shared_checkpoint, tiny_checkpoint

from clip_text.encoder import Encoder
from clip_text.errors import DimensionsError
from clip_text.runtimes import ExportedModel
from clip_text.vectors import truncate
from clip_text_cli.wiring import as_indexed
from retrieval.errors import IndexMismatchError
from retrieval.ingest import index_folder
from retrieval.search import Searcher

EMBED_DIM = 24
WHOLE = Encoder(shared_checkpoint(), "cpu")
TEXTS = ["红色的心", "dog", "", "一只狗在草地上跑"]
PICTURES = [np.full((40, 30 + at, 3), 60 * at, np.uint8) for at in range(3)]
SAME = 2e-6


def exported(embed_dim=EMBED_DIM):
    """The whole model as an exported one: its rows are a runtime's, with no weights behind."""
    return ExportedModel(
        Path("exported"),
        WHOLE.tokenizer,
        WHOLE.preprocessing,
        embed_dim,
        WHOLE.fingerprint,
        WHOLE.logit_scale,
        WHOLE.runtime,
    )


@pytest.mark.parametrize("rows", [WHOLE.encode_text(TEXTS), WHOLE.encode_image(PICTURES)])
@pytest.mark.parametrize("dimensions", [1, 8, EMBED_DIM])
def test_the_rows_are_prefixes_made_unit_again(rows, dimensions):
    is_text = len(rows) == len(TEXTS)
    whole, cut = WHOLE, Encoder(shared_checkpoint(), "cpu", dimensions=dimensions)
    expected = rows[:, :dimensions] / np.linalg.norm(rows[:, :dimensions], axis=1, keepdims=True)
    for encoder, options in (
        (whole, {"dimensions": dimensions}),
        (cut, {}),
        (whole.truncated(dimensions), {}),
        (whole.truncated(16) if dimensions < 16 else whole, {"dimensions": dimensions}),
        (Encoder(exported(), dimensions=dimensions), {}),
    ):
        encode, inputs = (
            (encoder.encode_text, TEXTS) if is_text else (encoder.encode_image, PICTURES)
        )
        found = encode(inputs, **options)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=SAME)
    assert cut.embed_dim == dimensions
    assert cut.encode_text([]).shape == cut.encode_image([]).shape == (0, dimensions)
    assert cut.encode_pixels([]).shape == (0, dimensions)


def test_batches_change_nothing():
    cut = WHOLE.truncated(8)
    np.testing.assert_allclose(
        cut.encode_text(TEXTS * 5, batch_size=3),
        WHOLE.encode_text(TEXTS * 5, dimensions=8),
        atol=SAME,
    )
    np.testing.assert_allclose(
        cut.encode_image(PICTURES * 9, batch_size=2),
        WHOLE.encode_image(PICTURES * 9, dimensions=8),
        atol=SAME,
    )


@pytest.mark.parametrize("dimensions", [0, EMBED_DIM + 1, -8, 8.0])
def test_impossible_dimensions_are_refused(dimensions, tiny_folder):
    cut = WHOLE.truncated(EMBED_DIM)
    for use in (
        lambda: Encoder(shared_checkpoint(), "cpu", dimensions=dimensions),
        lambda: Encoder(exported(), dimensions=dimensions),
        lambda: Encoder.from_pretrained(tiny_folder, "cpu", dimensions=dimensions),
        lambda: cut.truncated(dimensions),
        lambda: cut.encode_text(TEXTS, dimensions=dimensions),
        lambda: cut.encode_image(PICTURES, dimensions=dimensions),
    ):
        with pytest.raises(DimensionsError, match=rf"from 1 to {EMBED_DIM} .*, got {dimensions}\."):
            use()
    with pytest.raises(DimensionsError, match=r"from 1 to 8 .*, got 9\."):
        WHOLE.truncated(8).encode_text(TEXTS, dimensions=9)


def test_every_width_is_a_fingerprint_of_its_own(tiny_folder):
    loaded = [Encoder.from_pretrained(tiny_folder, "cpu", dimensions=at) for at in (8, 9, None)]
    prints = [each.fingerprint for each in loaded]
    assert len(set(prints)) == 3
    assert all(len(each) == 32 for each in prints)
    assert prints[2] == WHOLE.fingerprint == WHOLE.truncated(EMBED_DIM).fingerprint
    assert (
        prints[0] == WHOLE.truncated(8).fingerprint == WHOLE.truncated(9).truncated(8).fingerprint
    )
    assert prints[0] == Encoder(exported(), dimensions=8).fingerprint
    # whether it was asked for before or not
    assert WHOLE.fingerprint == prints[2]


def test_what_is_written_is_the_whole_model(tmp_path):
    WHOLE.truncated(8).save_pretrained(tmp_path / "saved")
    again = Encoder.from_pretrained(tmp_path / "saved", "cpu")
    assert (again.embed_dim, again.fingerprint) == (EMBED_DIM, WHOLE.fingerprint)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        save_picture(folder / f"{seed}.png", seed)
    return folder


def test_an_index_of_short_rows_needs_its_own_width(photos, tmp_path):
    cut = WHOLE.truncated(8)
    index_folder(photos, tmp_path / "index", cut)
    with Searcher.open(tmp_path / "index", cut) as searcher:
        hits = searcher.search("红色的心", 4)
    rows = {path.name: WHOLE.encode_image([path])[0] for path in photos.iterdir()}
    query = truncate(WHOLE.encode_text(["红色的心"]), 8)[0]
    scores = {name: float(truncate(row[None], 8)[0] @ query) for name, row in rows.items()}
    assert [hit.image_id for hit in hits] == sorted(scores, key=scores.__getitem__, reverse=True)
    # the catalogue keeps rows in fp16
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores.values())[::-1], abs=5e-4)
    for other in (WHOLE, WHOLE.truncated(9)):
        message = rf"expected a model of width 8 .*, got {other.embed_dim}\."
        with pytest.raises(IndexMismatchError, match=message):
            Searcher.open(tmp_path / "index", other)
        with pytest.raises(IndexMismatchError, match=message):
            index_folder(photos, tmp_path / "index", other)


def test_an_encoder_is_cut_to_the_index_that_it_built_alone(photos, tmp_path):
    assert as_indexed(WHOLE, tmp_path / "none") is WHOLE
    index_folder(photos, tmp_path / "index", WHOLE.truncated(8))
    found = as_indexed(WHOLE, tmp_path / "index")
    assert (found.embed_dim, found.fingerprint) == (8, WHOLE.truncated(8).fingerprint)
    index_folder(photos, tmp_path / "whole", WHOLE)
    assert as_indexed(WHOLE, tmp_path / "whole") is WHOLE
    # narrower than an index of a model as wide, or of another model: that is told elsewhere
    cut = WHOLE.truncated(9)
    assert as_indexed(cut, tmp_path / "whole") is cut
    other = Encoder(tiny_checkpoint(seed=7), "cpu")
    assert other.embed_dim == WHOLE.embed_dim
    assert other.fingerprint != WHOLE.fingerprint
    assert as_indexed(other, tmp_path / "index") is other


def test_commands_are_told_once(photos, tmp_path, tiny_folder, run):
    index = ["--index", tmp_path / "index", "--model", tiny_folder]
    code, out, _ = run("index", photos, *index, "--dimensions", 8, "--json")
    assert (code, json.loads(out)["encoded"]) == (0, 4)
    code, out, _ = run("search", "红色的心", *index, "--json")
    assert code == 0
    assert len(json.loads(out)["hits"]) == 4
    code, out, _ = run("index", photos, *index, "--json")  # as it was built
    assert (code, json.loads(out)["unchanged"]) == (0, 4)
    code, _, err = run("index", photos, *index, "--dimensions", 9)
    assert code == 1
    assert "expected a model of width 8 (the index's embed_dim), got 9." in err
    code, _, err = run("index", photos, *index, "--dimensions", 99)
    assert code == 1
    assert err.startswith("error: expected dimensions from 1 to 24")
    whole = ["--index", tmp_path / "whole", "--model", tiny_folder]
    assert run("index", photos, *whole)[0] == 0
    assert run("search", "红色的心", *whole)[0] == 0


def test_evaluate_measures_rows_that_are_cut(photos, tmp_path, tiny_folder, run):
    lines = [
        json.dumps({"image": path.name, "zh": [text]}, ensure_ascii=False)
        for path, text in zip(sorted(photos.iterdir()), [*TEXTS[:2], "猫", "鸟"], strict=True)
    ]
    (tmp_path / "val.jsonl").write_text("\n".join(lines), encoding="utf-8")
    args = [tmp_path / "val.jsonl", "--images", photos, "--model", tiny_folder]
    figures = {}
    for dimensions in (1, 8):
        options = ["--dimensions", dimensions, "--json", "--resamples", 100]
        code, out, _ = run("evaluate", "retrieval", *args, *options)
        assert code == 0
        figures[dimensions] = json.loads(out)["t2i_mrr"]
    assert figures[1] != figures[8]
    code, out, _ = run("evaluate", "vectors", *args, "--json", "--resamples", 100)
    found = json.loads(out)
    assert code == 0
    assert found["model"] == str(tiny_folder)
    assert [each["dimensions"] for each in found["vectors"][::7]] == [24, 12, 6]
    assert {each["bytes_stored"] for each in found["vectors"][:2]} == {96, 48}
    assert found["vectors"][0]["t2i_recall@10"] == 1
    assert found["vectors"][0]["t2i_recall@1_difference"] == 0
    code, out, _ = run("evaluate", "vectors", *args, "--dimensions", "8,4", "--resamples", 100)
    assert code == 0
    assert [line.strip("│ ").split()[0] for line in out.splitlines() if "fp16" in line] == [
        "8",
        "4",
    ]
    code, _, err = run("evaluate", "vectors", *args, "--dimensions", "25")
    assert (code, "from 1 to 24" in err) == (1, True)
