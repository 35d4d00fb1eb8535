"""``clip-text evaluate zero-shot``: the starter sorts emoji, and the picture of its errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_text import DataError, Encoder
from clip_text.errors import ClipTextError

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "retrieval" / "gallery"


def one_hot(classes, number):
    return np.eye(number, dtype=bool)[np.asarray(classes)]


def paint(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)


GROUPS = {
    "flags": "旗帜|国旗",
    "food-drink": "食物|饮料",
    "animals-nature": "动物|植物",
    "smileys-emotion": "笑脸|表情",
}
PER_GROUP = 16


@pytest.fixture(scope="module")
def starter():
    return Encoder.from_pretrained("starter")


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """A jsonl file of 64 pictures in four groups, and a file of the groups' Chinese names."""
    folder = tmp_path_factory.mktemp("emoji")
    lines = (GALLERY / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    with (folder / "labels.jsonl").open("w", encoding="utf-8") as file:
        for group in GROUPS:
            of_group = [r["file_name"] for r in records if r["group"] == group and r["emoji"]]
            for name in of_group[:: len(of_group) // PER_GROUP][:PER_GROUP]:
                file.write(json.dumps({"image": name, "group": group}) + "\n")
    names = "".join(f"{label}\t{names}\n" for label, names in GROUPS.items())
    (folder / "classes.tsv").write_text(names, encoding="utf-8")
    return folder


@pytest.fixture
def zero_shot_command(monkeypatch, capsys, starter, tmp_path):
    """Run the command as it will hang below ``clip-text evaluate``; exit code, stdout, stderr."""
    import typer

    from clip_text_cli import wiring
    from clip_text_cli.evaluate.zero_shot import command

    monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: starter)
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("zero-shot")(command)

    def call(*args):
        code = 0
        try:
            app([*map(str, args), "--cache", str(tmp_path / "cache")])
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def emoji_options(emoji):
    where = [emoji / "labels.jsonl", "--images", GALLERY, "--label-field", "group"]
    return [*where, "--classes", emoji / "classes.tsv", "--templates", "emoji"]


def test_the_starter_sorts_emoji(zero_shot_command, emoji, tmp_path):
    out_file = tmp_path / "new" / "confusion.png"
    options = [*emoji_options(emoji), "--confusion", out_file, "--top-k", "1,2,4"]
    code, out, _ = zero_shot_command(
        *options, "--probe", "--shots", "1,2", "--seeds", "2", "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert found["pictures"] == 4 * PER_GROUP
    assert (found["classes"], found["templates"]) == (4, 6)
    assert found["top1"] > 0.5  # chance is a quarter
    assert found["top1"] <= found["top2"] <= found["top4"] == 1
    per_class = [found[f"accuracy/{label}"] for label in GROUPS]
    assert found["mean_per_class"] == pytest.approx(np.mean(per_class))
    assert found["mean_average_precision"] > 0.5
    assert found["probe"] > 0.5
    assert found["probe_tested_on"] == 4 * 3
    assert found["probe_trained_on"] == 4 * 13
    assert 0 < found["1_shot"] <= 1
    assert found["2_shot_draws"] == 2
    with Image.open(out_file) as picture:
        assert picture.width > 300
        assert len(picture.convert("L").getcolors()) > 50
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_the_table_names_the_worst_classes(zero_shot_command, emoji, tmp_path):
    lines = (emoji / "labels.jsonl").read_text(encoding="utf-8").splitlines()[::4]
    (tmp_path / "few.jsonl").write_text("\n".join(lines), encoding="utf-8")
    code, out, _ = zero_shot_command(tmp_path / "few.jsonl", *emoji_options(emoji)[1:])
    assert code == 0
    for words in ("top-1", "top-5", "mean per class", "mAP", "4 of 4 classes", "旗帜", "笑脸"):
        assert words in out


def test_several_labels_for_real(zero_shot_command, emoji, tmp_path):
    lines = (emoji / "labels.jsonl").read_text(encoding="utf-8").splitlines()[::8]
    file = tmp_path / "several.jsonl"
    listed = [json.loads(line) for line in lines]
    text = "".join(json.dumps({**one, "group": [one["group"], "all"]}) + "\n" for one in listed)
    file.write_text(text, encoding="utf-8")
    options = [file, "--images", GALLERY, "--label-field", "group", "--templates", "none"]
    code, out, _ = zero_shot_command(*options, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["average_precision/all"] == pytest.approx(1)
    assert found["mean_per_class"] is None
    assert "accuracy/all" not in found
    assert "mAP" in zero_shot_command(*options)[1]
    with pytest.raises(DataError, match="--confusion"):
        zero_shot_command(*options, "--confusion", tmp_path / "c.png")
    with pytest.raises(DataError, match="--probe and --shots"):
        zero_shot_command(*options, "--probe")


def test_train_pictures_of_their_own_and_folders(zero_shot_command, tmp_path):
    for part, number in (("train", 5), ("test", 2)):
        for colour in ("red", "blue"):
            for at in range(number):
                paint(tmp_path / part / colour / f"{at}.png", colour)
    options = [tmp_path / "test", "--train", tmp_path / "train", "--templates", "none"]
    code, out, _ = zero_shot_command(*options, "--probe", "--shots", "1", "--seeds", "1", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["probe_trained_on"], found["probe_tested_on"]) == (10, 4)
    assert found["probe"] == found["1_shot"] == 1
    assert found["1_shot_std"] is None


def test_what_to_fit_on_needs_something_to_fit(zero_shot_command, tmp_path):
    paint(tmp_path / "data" / "red" / "a.png")
    code, _, err = zero_shot_command(tmp_path / "data", "--train", tmp_path / "data")
    assert code == 2
    assert "Add --probe or --shots" in err


def test_a_missing_package_is_told_before_the_long_part(zero_shot_command, tmp_path, monkeypatch):
    (tmp_path / "data" / "red").mkdir(parents=True)
    (tmp_path / "data" / "red" / "broken.png").write_bytes(b"never read")
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ClipTextError, match=r"pip install 'clip-text\[evaluate\]'"):
        zero_shot_command(tmp_path / "data", "--probe")


def test_a_damaged_picture_is_named(zero_shot_command, tmp_path):
    paint(tmp_path / "data" / "red" / "sound.png")
    (tmp_path / "data" / "red" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png: expected JPEG"):
        zero_shot_command(tmp_path / "data")


@pytest.mark.parametrize("option", [["--top-k", "0"], ["--top-k", "a"], ["--shots", "1,,2"]])
def test_numbers_that_are_none(zero_shot_command, tmp_path, option):
    paint(tmp_path / "red" / "a.png")
    code, _, err = zero_shot_command(tmp_path, *option)
    assert code == 2
    assert "expected numbers like 1,5" in err


def test_importing_the_command_does_not_load_torch_or_scikit_learn():
    code = (
        "import sys; import clip_text_cli.evaluate.zero_shot as _; "
        "sys.exit(bool({'torch', 'sklearn', 'matplotlib'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# the picture of confusions


def draw(number, out):
    from clip_text_cli.drawing.confusion import draw_confusion

    labels = [f"类别{at}🐶很长的名字一个字也放不下" for at in range(number)]
    astray = np.roll(np.eye(number), 1, axis=1)
    draw_confusion(astray, labels, out, title="top-1 0.0%", of="pictures")


def test_a_picture_of_many_classes_shows_the_worst(tmp_path):
    from clip_text_cli.drawing.confusion import MOST_CLASSES, worst_classes

    matrix = np.diag(np.full(50, 10.0))
    matrix[45, 3] = 5
    shown, part = worst_classes(matrix)
    assert len(shown) == MOST_CLASSES
    assert {3, 45} <= set(shown.tolist())
    assert part[shown.tolist().index(45), shown.tolist().index(3)] == 5
    draw(50, tmp_path / "many.png")  # warnings are errors: no glyph is missing
    assert (tmp_path / "many.png").stat().st_size > 10_000


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".jpg"])
def test_pictures_of_other_formats(tmp_path, suffix):
    draw(3, tmp_path / f"c{suffix}")
    assert (tmp_path / f"c{suffix}").stat().st_size > 1000


def test_a_picture_that_cannot_be_drawn_is_refused_early(tmp_path, monkeypatch):
    from clip_text_cli.drawing.figure import check_drawable

    with pytest.raises(DataError, match=r"ends in \.png"):
        check_drawable(tmp_path / "c.txt")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ClipTextError, match=r"pip install 'clip-text\[evaluate\]'"):
        check_drawable(tmp_path / "c.png")


def test_a_dollar_in_a_name_is_one(tmp_path):
    from clip_text_cli.drawing.bars import draw_bars
    from clip_text_cli.drawing.confusion import draw_confusion

    names = [r"$\frac$", "$", "$x$"]
    draw_confusion(np.ones((3, 3)), names, tmp_path / "a.png", title=r"$\frac$", of="pictures")
    draw_bars(tmp_path / "b.png", names, [0.1, 0.2, 0.3], title=r"$\frac$", label="points")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("a.png", "b.png"))
