"""``clip-text train contrastive``, end to end on a tiny model."""

import json
import re
from dataclasses import replace

import pytest
from models import tiny_checkpoint
from pictures_data import coloured
from test_classification import CONFIG
from typer.testing import CliRunner

from clip_text import Encoder
from clip_text.checkpoints import save_checkpoint
from clip_text.heads import ClassificationHead
from clip_text.heads.standalone import bare_tower
from clip_text.training.recipe import RecipeError
from clip_text_cli.main import app
from clip_text_cli.train.contrastive import read_changes

QUICK = ["--set", "warmup_steps=2", "--set", "bf16=false", "--lr", "3e-3", "--batch-size", "6"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    save_checkpoint(tiny_checkpoint(), folder / "model")
    coloured(folder, "train", 3, 0)
    coloured(folder, "val", 2, 1)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["train", "contrastive", *map(str, arguments)])


def test_widths_reach_the_recipe(files, tmp_path):
    data = [files / "train.jsonl", "--val", files / "val.jsonl", "-m", files / "model"]
    done = run(*data, "--out", tmp_path / "out", "--matryoshka", "8,25")
    assert isinstance(done.exception, RecipeError)
    assert "widths up to 24 (the model's embed_dim), got [8, 25]" in str(done.exception)
    assert run(*data, "--out", tmp_path / "out", "--matryoshka", "8,x").exit_code == 2


def test_from_a_file_of_captions_to_a_better_model(files, tmp_path):
    out = tmp_path / "better"
    done = run(
        files / "train.jsonl", "--val", files / "val.jsonl", "--keep", files / "val.jsonl",
        "-m", files / "model", "--out", out, "--epochs", 6, *QUICK, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["rose"]
    assert figures["kept_mean_recall"] > figures["start_mean_recall"]
    assert figures["mixture_0_mean_recall"] == pytest.approx(figures["start_mean_recall"])
    assert "learning from 18 pictures with 36 captions, measured on 12 others" in done.stderr
    assert Encoder.from_pretrained(out).encode_text(["红色的心"]).shape == (1, 24)
    folder = tmp_path / "better.run"
    assert json.loads((folder / "report.json").read_text()) == figures
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    again = run(
        files / "train.jsonl", "--val", files / "val.jsonl", "--keep", files / "val.jsonl",
        "-m", files / "model", "--out", out, "--epochs", 6, *QUICK,
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert "text: finished before" in again.stderr
    assert "start" in again.stdout
    assert "written" in again.stdout


def test_heads_that_read_the_old_tower_are_left_out(files, tmp_path):
    pair = tiny_checkpoint()
    shared = ClassificationHead(CONFIG, pair.model.text.width)
    tower = bare_tower(pair.config.backbone, 16, CONFIG.pooler)
    own = ClassificationHead(CONFIG, pair.model.text.width, tower)
    save_checkpoint(replace(pair, heads={"shared": shared, "own": own}), tmp_path / "model")
    # where nothing better is found the old tower is written, and its heads fit
    for name, rate, kept in (("still", 1e-12, ["own", "shared"]), ("moved", 3e-3, ["own"])):
        done = run(
            files / "train.jsonl", "--val", files / "val.jsonl", "-m", tmp_path / "model",
            "--out", tmp_path / name, "--epochs", 6, *QUICK, "--lr", rate,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert sorted(Encoder.from_pretrained(tmp_path / name).heads) == kept
        assert ("head shared is left out" in done.stderr) == (name == "moved")


def test_without_validation_a_tenth_is_held_out(files, tmp_path):
    done = run(
        files / "train.jsonl", "-m", files / "model", "--out", tmp_path / "m",
        "--epochs", 1, *QUICK[:-2], "--pictures", 10, "--preset", "projections",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "learning from 10 pictures with 20 captions, measured on 2 others" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "expected a data set at nowhere.jsonl, got nothing there"),
        (["{}/train.jsonl", "--preset", "nope"], "expected a preset"),
        (["{}/train.jsonl", "--batch-size", "99"], "got 99. Lower it"),
        (["{}/train.jsonl", "--set", "lr=3"], "got lr"),
        (["{}/train.jsonl", "--set", "text=9"], "at most 2 last layers of the text tower"),
        (["{}/empty.jsonl"], "expected captions in"),
        (["{}/missing.jsonl"], "expected picture files below"),
        (["{}/train.jsonl", "-m", "{}/train.jsonl"], "expected"),
        (["{}/train.jsonl", "--set", "bf16=False"], "bf16 to be true or false, got 'False'"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(arguments, message, files, tmp_path):
    (files / "empty.jsonl").write_text("")
    (files / "missing.jsonl").write_text('{"image": "none.png", "zh": ["狗"]}\n')
    given = [argument.format(files) for argument in arguments]
    if "-m" not in given:
        given += ["-m", str(files / "model")]
    done = run(*given, "--out", tmp_path / "m", "--val", files / "val.jsonl")
    assert done.exit_code == 1
    assert message in str(done.exception)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{}/train.jsonl"], "expected a folder at --out, got the file"),
        (["--out", "{}/model"], "expected another folder at --out than the model's own"),
        (["--out", "{}/m", "--report-to", "nowhere"], "loggers that are installed .*, got nowhere"),
    ],
)
def test_what_would_fail_after_the_run_fails_before(arguments, message, files):
    given = [argument.format(files) for argument in arguments]
    done = run(files / "train.jsonl", "-m", files / "model", *given)
    assert done.exit_code == 2
    assert re.search(message, " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stderr).split()))
    assert not list(files.glob("*.run"))


def test_changes_are_numbers_truths_or_words():
    assert read_changes(["ema=0.99", "text=lora", "keep_apart=true", "image=2"]) == {
        "ema": 0.99,
        "text": "lora",
        "keep_apart": True,
        "image": 2,
    }
    done = run("x.jsonl", "--out", "m", "--set", "ema")
    assert done.exit_code == 2
    assert "expected name=value, got 'ema'" in done.stderr
