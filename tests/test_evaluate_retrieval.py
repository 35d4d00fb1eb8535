"""``clip-text evaluate retrieval`` and the leaderboard: the starter on a few pictures."""

import json

import pytest
from PIL import Image
from test_cli import GALLERY

from clip_text import Encoder
from clip_text.data.readers import read_retrieval_set
from clip_text_cli.evaluate import retrieval as module
from clip_text_cli.evaluate.retrieval import evaluate
from scripts import leaderboard

WANTED = {
    "1F436": "狗脸",
    "2614": "雨伞",
    "2764": "红心",
    "1F431": "猫脸",
    "1F34E": "红苹果",
    "1F332": "一棵树",
    "1F697": "一辆红色的车",
    "1F422": "乌龟",
}


@pytest.fixture
def data(tmp_path):
    """Eight emoji, one picture three times, one caption for three pictures."""
    records = [{"image": f"{code}.webp", "zh": [text]} for code, text in WANTED.items()]
    (tmp_path / "images").mkdir()
    for code in WANTED:
        (tmp_path / "images" / f"{code}.webp").symlink_to(GALLERY / "emoji" / f"{code}.webp")
    for twin in ("twin.png", "triplet.png"):  # other files, the same pixels
        Image.open(GALLERY / "emoji" / "1F436.webp").save(tmp_path / "images" / twin)
        records.append({"image": twin, "zh": ["狗脸"]})
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (tmp_path / "val.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "val.jsonl"


def test_json_has_figures_with_intervals(run, data):
    code, out, _ = run("evaluate", "retrieval", data, "--json", "--resamples", 200, "-k", "1,3")
    figures = json.loads(out)
    assert code == 0
    assert (figures["t2i_queries"], figures["t2i_candidates"]) == (10, 10)
    assert figures["t2i_recall@3"] >= 8 / 10
    assert figures["t2i_recall@3_low"] <= figures["t2i_recall@3"] <= figures["t2i_recall@3_high"]
    assert figures["t2i_recall@1_ties_lost"] <= figures["t2i_recall@1"]
    assert "t2i_recall@10" not in figures
    assert (figures["duplicate_images"], figures["ambiguous_texts"]) == (2, 3)


def test_the_short_form_means_retrieval(run, data):
    long, short = (
        run("evaluate", *form, data, "--json", "--resamples", 100) for form in (["retrieval"], [])
    )
    assert short[0] == 0
    assert json.loads(short[1]) == json.loads(long[1])


def test_the_table_names_twins_and_lost_ties(run, data):
    code, out, err = run("evaluate", data, "--resamples", 100, "-k", "1,2")
    assert code == 0
    assert "1F436.webp = twin.png = triplet.png" in err
    assert "狗脸 (3 pictures)" in err
    # each of the equal dogs is second in expectation, and third when ties are lost
    assert "recall@2, ties lost" in out
    assert "recall@1, ties lost" not in out
    assert "nan" not in out


def test_merged_twins_count_as_right(run, data):
    figures = [
        json.loads(run("evaluate", data, *more, "--json", "--resamples", 100)[1])
        for more in ([], ["--merge-duplicates"])
    ]
    assert figures[1]["t2i_recall@1"] > figures[0]["t2i_recall@1"]
    assert figures[1]["t2i_recall@1"] == figures[1]["t2i_recall@1_ties_lost"]


def test_a_model_does_not_differ_from_itself(run, data):
    code, out, _ = run("evaluate", data, "--against", "starter", "--json", "--resamples", 100)
    figures = json.loads(out)
    assert code == 0
    assert figures["t2i_recall@1_difference"] == 0
    assert figures["t2i_recall@1_p"] == 1
    _, table, _ = run("evaluate", data, "--against", "starter", "--resamples", 100)
    assert "starter minus starter" in table


def test_pictures_are_drawn(run, data, tmp_path):
    curves, worst = tmp_path / "out" / "curves.png", tmp_path / "out" / "worst.png"
    code, _, _ = run("evaluate", data, "--plot", curves, "--worst", worst, "--resamples", 100)
    assert code == 0
    for file in (curves, worst):
        with Image.open(file) as picture:
            colours = picture.convert("RGB").getcolors(1 << 24)
        assert len(colours) > 100, "more than paper"


def test_a_picture_of_no_known_ending_is_refused(run, data):
    code, _, err = run("evaluate", data, "--plot", "curves.xyz", "--resamples", 100)
    assert code == 1
    assert "curves.xyz" in err


def test_errors_are_one_line(run, data):
    data.write_text('{"image": "gone.jpg", "zh": ["没有"]}', encoding="utf-8")
    code, _, err = run("evaluate", data)
    assert code == 1
    assert "gone.jpg" in err
    assert "Traceback" not in err


def test_a_page_is_made_of_rows(data, tmp_path, monkeypatch, capsys):
    collection = read_retrieval_set(data)
    monkeypatch.setattr(leaderboard, "emoji_set", lambda *_: collection)
    page = tmp_path / "page" / "leaderboard.md"
    leaderboard.command(
        [data], kind="zh", style="twitter", to=page, as_json_=True, resamples=100, model=None
    )
    figures = json.loads(capsys.readouterr().out)
    report = evaluate(collection, Encoder.from_pretrained("starter"), "starter")
    expected = report.measured.by_direction["t2i"].recall[5]
    assert figures[f"starter/{collection.name}/zh recall@5"] == expected
    text = page.read_text(encoding="utf-8")
    assert f"## {collection.name}" in text
    assert "python scripts/leaderboard.py" in text
    assert f"{100 * expected:.1f} [" in text


def test_pictures_without_a_file_are_drawn_too(data, tmp_path):
    from dataclasses import replace

    collection = read_retrieval_set(data)
    contents = [path.read_bytes() for path in collection.images]
    collection = replace(collection, images=contents)
    report = evaluate(collection, Encoder.from_pretrained("starter"), "starter")
    module.draw_worst(report, tmp_path / "worst.png", count=2, shown=3)
    with Image.open(tmp_path / "worst.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
