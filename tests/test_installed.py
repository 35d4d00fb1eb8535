"""The wheel, installed outside the checkout: whole, and every command starts and works there."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest
import typer
from models import tiny_checkpoint, tiny_tokenizer
from pictures_data import coloured
from PIL import Image
from test_answers import LESSONS as QUESTIONS
from test_answers import squad
from test_classification import TEXTS
from test_distillation import EN, ZH
from test_entities import TEXTS as SENTENCES
from test_entities import lesson
from test_teachers import plain_encoder

from clip_text.checkpoints import save_checkpoint
from clip_text.data.tags import spell
from clip_text_cli.main import app

ROOT = Path(__file__).parents[1]
PACKAGES = ("clip_text", "clip_text_cli", "clip_text_pictures", "retrieval")
DRIVER = Path(__file__).parent / "installed_commands.py"


def files_of_the_packages():
    """What lies in the packages' folders, but for what Python and editors leave there."""
    return {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
    }


def environment(*without):
    """Give our variables, without what leads back to the checkout, or is for tests alone."""
    left_out = {"PYTHONPATH", "OMP_NUM_THREADS", "CLIP_TEXT_RUNTIME", *without}
    return {name: value for name, value in os.environ.items() if name not in left_out}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An sdist of the tree, and the wheel built from that sdist; the build's output beside them."""
    tree, out = tmp_path_factory.mktemp("tree") / "clip-text", tmp_path_factory.mktemp("dist")
    unused = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "runs")
    shutil.copytree(ROOT, tree, ignore=unused)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree],
        env=environment("PYTHONDONTWRITEBYTECODE"),  # setuptools warns of it
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Folder of commands of a new environment that holds the wheel and sees our dependencies."""
    place = tmp_path_factory.mktemp("environment") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    names = {"base": str(place), "platbase": str(place)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=names))
    # a .pth within a folder named by a .pth is not read: the checkout, installed here as
    # editable, is not seen there
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    commands = Path(sysconfig.get_path("scripts", "venv", vars=names))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python"]
    given = ["--quiet", "--no-deps", "--force-reinstall", built[1]]
    subprocess.run([*pip, commands / "python", "install", *given], check=True)
    return commands


def run_all(installed, folder, commands):
    """Run command lines one after the other in one process of the installation."""
    done = subprocess.run(
        [installed / "python", DRIVER, folder],
        input=json.dumps([list(map(str, words)) for words in commands]),
        capture_output=True,
        text=True,
        env=environment() | {"COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    for place in answer["places"]:
        assert Path(place).is_relative_to(installed.parent), f"imported from {place}"
    return answer["done"], done.stderr


def every_command(group=None, words=()):
    """Walk the tree of commands."""
    group = group or typer.main.get_command(app)
    yield words
    for name, command in getattr(group, "commands", {}).items():
        yield from every_command(command, (*words, name))


def test_wheel_and_sdist_hold_every_file_of_the_packages(built):
    sdist, wheel, _ = built
    expected = files_of_the_packages()
    assert {"clip_text/training/presets/both.toml", "retrieval/gallery/NOTICE"} <= expected
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert expected <= inside
    assert {"pyproject.toml", "README.md", "LICENSE"} <= inside


def test_building_warns_of_nothing(built):
    assert "warning" not in built[2].lower(), built[2][-3000:]
    assert "deprecat" not in built[2].lower()


def test_every_command_has_help(installed, tmp_path):
    commands = [words for words in every_command() if words]
    assert ("train", "contrastive") in commands
    done, _ = run_all(installed, tmp_path, [[*words, "--help"] for words in commands])
    for words, each in zip(commands, done, strict=True):
        assert each["code"] == 0, each
        assert f"clip-text {' '.join(words)}" in each["out"]
        assert each["err"] == ""


def test_the_command_tells_its_version_and_completes(installed, tmp_path):
    def said(*words):
        return subprocess.run(
            words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
        ).stdout

    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert said(installed / "clip-text", "--version") == f"clip-text {version}\n"
    assert said(installed / "python", "-m", "clip_text_cli", "--version").endswith(version + "\n")
    for shell in ("bash", "zsh", "fish"):
        assert "clip-text" in said(installed / "clip-text", "--show-completion", shell)
    assert "clip-text --help" in said(installed / "python", "-m", "clip_text")


@pytest.fixture(scope="module")
def demo(installed, tmp_path_factory):
    """What ``clip-text demo`` leaves and says, in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [installed / "clip-text", "demo", "--out", "demo"],
        cwd=folder,
        env=environment() | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "demo", done.stdout, done.stderr


def test_demo_finds_what_it_should(demo):
    """The README's promise: a dog for 狗, a cake for 草莓蛋糕, an umbrella or rain for 下雨."""
    folder, out, err = demo
    assert err == ""  # stray lines of other libraries do not belong there either
    answers = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert any(word in answers["狗"] for word in ("狗", "犬"))
    assert any(word in answers["草莓蛋糕"] for word in ("蛋糕", "🍰", "🎂"))
    assert any(word in answers["下雨"] for word in ("雨", "☔", "🌧"))
    with Image.open(folder / "sheet.png") as sheet:
        assert min(sheet.size) > 500


def test_demo_again_and_searches(demo, installed, tmp_path):
    folder, _, _ = demo
    coloured(tmp_path, "photos", 2, 0)
    commands = [
        ["demo", "--out", folder],
        ["search", "红色的心", "--index", folder / "index", "-k", 3, "--json"],
        ["search", "狗", "--index", folder / "index", "--sheet", "dogs.png"],
        ["index", tmp_path, "--index", "own"],
        ["search", "red", "--index", "own", "--json"],
    ]
    done, err = run_all(installed, tmp_path, commands)
    assert [each["code"] for each in done] == [0] * len(commands), done
    assert "make serve" in done[0]["out"]
    assert len(json.loads(done[1]["out"])["hits"]) == 3
    assert json.loads(done[4]["out"])["hits"]
    *others, indexed, last = [each["err"] for each in done]
    assert [*others, last] == ["", "", "drawn in dogs.png\n", ""]
    assert re.fullmatch(r"Pictures are computed by [a-z0-9-]+\.\n", indexed)
    assert err == ""


def test_serve_answers(demo, installed):
    folder, _, _ = demo
    server = subprocess.Popen(
        [installed / "clip-text", "serve", "--index", folder / "index", "--port", "0"],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        address = next(
            found[0]
            for line in server.stderr
            if (found := re.findall(r"http://\S+:[1-9]\d*", line))
        )
        request = urllib.request.Request(
            f"{address}/v1/search",
            json.dumps({"query": "猫", "top_k": 3}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            hits = json.load(answer)["hits"]
        assert [hit["rank"] for hit in hits] == [1, 2, 3]
        with urllib.request.urlopen(f"{address}/page/search.js", timeout=60) as answer:
            assert answer.read() == (ROOT / "retrieval/service/page/search.js").read_bytes()
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture
def lessons(tmp_path):
    """For each command that trains: data and options of a run of a step or a few."""
    save_checkpoint(tiny_checkpoint(), tmp_path / "model")
    coloured(tmp_path, "captions", 2, 0)
    pairs = zip(TEXTS.texts, TEXTS.labels, strict=True)
    (tmp_path / "kinds.tsv").write_text(
        "".join(f"{text}\t{label}\n" for text, (label,) in pairs), encoding="utf-8"
    )
    tagged = [
        {"text": list(text), "label": spell(len(text), lesson(text).entities)} for text in SENTENCES
    ]
    (tmp_path / "same.tsv").write_text("狗\t猫\t1\n狗\t花\t0\n" * 8, encoding="utf-8")
    (tmp_path / "names.jsonl").write_text("\n".join(map(json.dumps, tagged)), encoding="utf-8")
    questions = squad(
        tmp_path / "questions.json",
        *[(one.question, one.passage, (one.answers[0], 1)) for one in QUESTIONS],
    )
    plain_encoder(tmp_path / "teacher")
    tiny_tokenizer().save(tmp_path / "tokenizer")
    (tmp_path / "pairs.jsonl").write_text(
        "\n".join(json.dumps({"en": a, "zh": b}) for a, b in zip(EN, ZH, strict=True)),
        encoding="utf-8",
    )
    (tmp_path / "text.txt").write_text("\n\n".join(SENTENCES * 4) + "\n", encoding="utf-8")
    model = ["-m", tmp_path / "model"]
    return {
        "contrastive": ["captions.jsonl", *model, "--batch-size", 6, "--set", "bf16=false"],
        "classifier": ["kinds.tsv", *model, "--evaluations", 1],
        "ner": ["names.jsonl", *model, "--val", "names.jsonl"],
        "qa": [questions, *model, "--val", questions],
        "pairs": ["same.tsv", *model, "--val", "same.tsv"],
        "distill": [
            *("pairs.jsonl", "--from", "en", "--to", "zh", "--teacher", "teacher"),
            *("--student", "tiny", "--cache", "cache", "--tokenizer", "tokenizer"),
            *("--batch-size", 8, "--trial-steps", 1, "--evaluations", 1, "--held-out", 2),
        ],
        "mlm": [
            *("text.txt", *model, "--batch-size", 16, "--val", "text.txt", "--cache", "tokens"),
            *("--context-length", 16, "--evaluations", 1),
        ],
    }


def test_every_training_command_trains(lessons, installed, tmp_path):
    assert {words[1] for words in every_command() if words[:1] == ("train",) and words[1:]} == set(
        lessons
    )
    commands = [
        ["train", name, *words, "--epochs", 1, "--out", f"out-{name}"]
        for name, words in lessons.items()
    ]
    done, err = run_all(installed, tmp_path, commands)
    for name, each in zip(lessons, done, strict=True):
        assert each["code"] == 0, f"{name}: {each['err'][-2000:]}"
        assert (tmp_path / f"out-{name}").exists()
    assert err == ""
