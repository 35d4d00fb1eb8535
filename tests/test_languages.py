"""Recall by language: by hand, and with the starter on emoji in several languages."""

import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from clip_text import DataError, Encoder
from clip_text.evaluation import Text, retrieval_set
from clip_text.evaluation.languages import by_language
from clip_text_cli.evaluate import languages as evaluate_languages
from clip_text_cli.evaluate import sets as retrieval_sets

EMOJIBASE = {
    *("bn", "da", "de", "en", "en-gb", "es", "es-mx", "et", "fi", "fr", "hi", "hu", "it", "ja"),
    *("ko", "lt", "ms", "nb", "nl", "pl", "pt", "ru", "sv", "th", "uk", "vi", "zh", "zh-hant"),
}
ROWS = {"红": (1, 0, 0), "绿": (0, 1, 0), "red": (0.6, 0.8, 0), "blue": (0, 0.6, 0.8)}


class Toy:
    """Knows four words; green is unknown in one language."""

    def encode_text(self, texts):
        return np.array([ROWS[text] for text in texts], np.float32)

    def text_report(self, texts):
        return SimpleNamespace(unknown_share=texts.count("red") / len(texts))


def toy_set():
    images = {str(at): np.full((2, 2, 3), at, np.uint8) for at in range(3)}
    texts = [("1", "红", "0", "zh"), ("2", "red", "0", "en"), ("3", "绿", "1", "zh")]
    texts.append(("4", "blue", "2", "en"))
    texts.append(("5", "blue", "1", ""))
    return retrieval_set("toy", images, [Text(i, t, (p,), kind) for i, t, p, kind in texts])


def measured():
    return by_language(Toy(), toy_set(), np.eye(3, dtype=np.float32), (1, 2))


def test_by_hand():
    zh, en, none = measured()
    assert (zh.language, zh.recall, zh.median_rank, zh.unknown) == ("zh", {1: 1, 2: 1}, 1, 0)
    assert (en.language, en.recall, en.median_rank) == ("en", {1: 0.5, 2: 1}, 1.5)
    assert (en.texts, en.pictures, en.unknown) == (2, 3, 0.5)  # asked over all pictures
    assert (none.language, none.recall, none.texts) == ("", {1: 0, 2: 1}, 1)


def test_features_of_other_pictures_are_refused():
    with pytest.raises(ValueError, match=r"each of the 3 pictures of toy, got 4\. Encode"):
        by_language(Toy(), toy_set(), np.eye(4, dtype=np.float32))


def test_table_json_and_picture(tmp_path):
    page = io.StringIO()
    results = measured()[::-1]
    Console(file=page, width=100).print(evaluate_languages.as_table(results))
    header, *lines = [re.split(r"\s{2,}", line.strip()) for line in page.getvalue().splitlines()]
    expected = ["language", "recall@1", "recall@2", "median rank", "texts", "pictures", "[UNK]"]
    assert header == expected
    assert lines == [
        ["zh", "100.0%", "100.0%", "1", "2", "3", "0.0%"],
        ["en", "50.0%", "100.0%", "1.5", "2", "3", "50.0%"],
        ["none", "0.0%", "100.0%", "2", "1", "3", "0.0%"],
    ]
    flat = evaluate_languages.as_json(results)
    assert next(iter(flat)) == "zh_recall@1"
    assert (flat["en_recall@1"], flat["en_unknown"], flat["none_texts"]) == (0.5, 0.5, 1)
    evaluate_languages.draw(results, tmp_path / "bars.svg")
    drawn = (tmp_path / "bars.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    with pytest.raises(DataError, match=r"got 'bars\.txt'"):
        evaluate_languages.draw(results, tmp_path / "bars.txt")


def test_the_gallery_has_all_of_emojibases_languages():
    emoji = retrieval_sets.gallery_emoji()
    assert {text.kind for text in emoji.texts} == EMOJIBASE
    assert len(emoji.image_ids) == 1852
    assert len(emoji.texts) == 28 * 1852
    english = {text.text: text.image_ids for text in emoji.texts if text.kind == "en"}
    assert english["dog face"] == ("1F436",)


def test_languages_that_are_not_there_are_refused():
    with pytest.raises(DataError, match=r"among bn, .*, zh-hant, got 'xx'\. Correct"):
        retrieval_sets.gallery_emoji(["zh", "xx"])


def test_a_sample_is_drawn_by_language_and_keeps_the_pictures():
    emoji = retrieval_sets.gallery_emoji(["zh", "en"], pictures=30)
    part = retrieval_sets.sample_texts(emoji, 5, seed=3)
    assert [text.kind for text in part.texts].count("zh") == 5
    assert [text.kind for text in part.texts].count("en") == 5
    assert (part.image_ids, part.images) == (emoji.image_ids, emoji.images)
    for text, answers in zip(part.texts, part.answers, strict=True):
        assert tuple(part.image_ids[at] for at in answers) == text.image_ids
    assert retrieval_sets.sample_texts(emoji, 5, seed=3) == part
    assert retrieval_sets.sample_texts(emoji, 5, seed=4) != part
    assert retrieval_sets.sample_texts(emoji, 99) == emoji


def test_a_picture_that_is_none_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    broken = retrieval_set("x", {"a": tmp_path / "a.png"}, [Text("1", "红", ("a",))])
    encoder = Encoder.from_pretrained("starter", device="cpu")
    with pytest.raises(DataError, match=r"^a: .*Replace or remove the picture\."):
        retrieval_sets.encode_pictures(encoder, broken)


def test_the_starter_in_several_languages():
    encoder = Encoder.from_pretrained("starter", device="cpu")
    emoji = retrieval_sets.gallery_emoji(["zh", "en", "ja", "bn"], pictures=40)
    pictures = retrieval_sets.encode_pictures(encoder, emoji)
    rows = {one.language: one for one in by_language(encoder, emoji, pictures)}
    assert set(rows) == {"zh", "en", "ja", "bn"}
    assert all(row.pictures == 40 and 30 <= row.texts <= 40 for row in rows.values())
    assert rows["zh"].recall[10] > 0.6
    assert rows["en"].recall[10] > 0.3
    assert rows["zh"].unknown == 0
    assert rows["bn"].unknown > 0.5  # not in a Chinese vocabulary


def test_the_command(monkeypatch, capsys, tmp_path):
    from clip_text_cli import wiring

    monkeypatch.setattr(wiring, "load_encoder", lambda *_, **__: Toy())
    monkeypatch.setattr(retrieval_sets, "read_or_gallery", lambda *_: toy_set())
    rows = np.eye(3, dtype=np.float32)
    monkeypatch.setattr(retrieval_sets, "encode_pictures", lambda *_: rows)
    evaluate_languages.command(plot=tmp_path / "bars.png", as_json_=True)
    assert json.loads(capsys.readouterr().out)["zh_recall@1"] == 1
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.format == "PNG"
