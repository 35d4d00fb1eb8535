"""``pip install clip-text``, without extras: what needs none works, what needs one names it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pictures_data import coloured
from PIL import Image
from test_readers_cn_clip import pairs, write_lmdb
from typer.core import TyperGroup
from typer.main import get_command

from clip_text.errors import ClipTextError, MissingPackageError, needs
from clip_text_cli.main import app
from retrieval.errors import MissingPackageError as MissingForRetrieval
from retrieval.errors import RetrievalError

ROOT = Path(__file__).parents[1]


def leaves(command, path=()):
    """Every command there is, as its words."""
    if not isinstance(command, TyperGroup):
        return [path]
    found = command.commands.items()
    return [leaf for name, each in found for leaf in leaves(each, (*path, name))]


LEAVES = leaves(get_command(app))
GROUPS = sorted({leaf[:length] for leaf in LEAVES for length in range(len(leaf))})


def cases(folder, tiny):
    """What works, as arguments; and what needs an extra, as arguments and the extra."""
    captions, texts, index = folder / "train.jsonl", folder / "texts.txt", folder / "index"
    model, out = ["-m", tiny], ["--out", folder / "out"]
    works = [
        ["index", "folder", folder / "images", "--index", index, *model],
        ["index", "info", "--index", index],
        ["index", "plan", "--pictures", "1M"],
        ["index", "verify", "--index", index],
        ["index", "compact", "--index", index],
        ["index", "build", "--queries", texts, "--index", index, *model],
        ["index", "advise", "--queries", texts, "--index", index, *model],
        ["index", "text", "--index", index],
        ["index", "stats", "--index", index],
        ["index", "copy", index, "--index", folder / "copied"],
        ["index", "migrate", "--to", tiny, "--dimensions", 8, "--index", folder / "copied"],
        ["index", "duplicates", "--index", index, "--sheet", folder / "sheet.png"],
        ["index", "remove", "--root", folder / "images", "--index", index],
        ["index", folder / "images", "--index", index, *model],
        ["search", "红色", "--index", index, *model, "--sheet", folder / "sheet.png"],
        ["demo", *model, "--out", folder / "demo"],
        ["convert", tiny, folder / "converted", "--to", "open_clip"],
        ["tokens", texts, *model],
        ["info", tiny],
        ["data", "check", captions, *model],
        ["evaluate", "retrieval", captions, *model, "--worst", folder / "worst.png"],
        ["evaluate", "languages", captions, *model],
        ["evaluate", "vectors", captions, *model],
        ["evaluate", "zero-shot", folder / "classes", *model, "--cache", folder / "cache"],
    ]
    drawn = folder / "drawn.png"
    zero_shot = ["evaluate", "zero-shot", folder / "classes", *model, "--cache", folder / "cache"]
    missing = [
        ("serve", ["serve", "--index", index, *model]),
        ("serve", ["keys", "create", "page", "--file", folder / "keys.toml"]),
        ("serve", ["keys", "list", "--file", folder / "keys.toml"]),
        ("serve", ["keys", "revoke", "page", "--file", folder / "keys.toml"]),
        ("ocr", ["index", folder / "images", "--index", index, *model, "--ocr"]),
        ("data", ["data", "check", folder / "rows.parquet", *model]),
        ("data", ["data", "check", folder / "saved", *model]),
        ("data", ["embed", folder / "images", folder / "features", *model]),
        ("milvus", ["search", "红色", "--index", "milvus://127.0.0.1:1/x", *model]),
        ("postgresql", ["index", "info", "--index", "postgresql://u@127.0.0.1:1/d/x"]),
        ("lmdb", ["data", "check", folder / "lmdb" / "valid", *model]),
        ("evaluate", ["evaluate", captions, *model, "--plot", drawn]),
        ("evaluate", ["compare", tiny, "--data", captions, "--plot", drawn]),
        ("evaluate", ["evaluate", "languages", captions, *model, "--plot", drawn]),
        ("evaluate", [*zero_shot, "--confusion", drawn]),
        ("evaluate", [*zero_shot, "--probe"]),
        ("evaluate", ["index", "map", drawn, "--index", index]),
        ("evaluate", ["index", "map", "--index", index, "--json"]),
        ("evaluate", ["index", "stats", "--index", index, "--figure", drawn]),
        (
            "evaluate",
            ["index", "calibrate", captions, *("--index", index), *model, "--plot", drawn],
        ),
        ("robustness", ["evaluate", "robustness", captions, *model]),
        ("onnxruntime", ["export", tiny, folder / "exported", "--to", "onnx"]),
        ("quantize", ["export", tiny, folder / "int8", "--to", "openvino", "--precision", "int8"]),
        ("train", ["train", "contrastive", captions, *model, *out]),
        ("train", ["train", "classifier", folder / "labels.tsv", *model, *out]),
        ("train", ["train", "ner", folder / "names.txt", *model, *out]),
        ("train", ["train", "qa", folder / "questions.json", *model, *out]),
        ("train", ["train", "pairs", folder / "pairs.tsv", *model, *out]),
        ("train", ["train", "mlm", texts, *model, *out]),
        ("train", ["train", "distill", texts, "--from", "en", "--to", "zh", *out]),
    ]
    return works, missing


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_folder):
    """All of it, run in one process where no extra can be imported."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("base")
    coloured(folder, "train", 2, 0)
    for name in ("红色", "绿色"):
        (folder / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(folder / "classes" / name / "0.png")
    (folder / "texts.txt").write_text("红色的心\n龘\n", encoding="utf-8")
    rows = datasets.Dataset.from_dict({"text": ["红色的心"], "image": ["0.png"]})
    rows.to_parquet(folder / "rows.parquet")
    rows.save_to_disk(folder / "saved")
    write_lmdb(folder / "lmdb/valid/pairs", pairs((7, 1, "包")))
    write_lmdb(folder / "lmdb/valid/imgs", {"7": b"QUJD", "num_images": b"1"})
    works, missing = cases(folder, tiny_folder)
    helps = [[*path, "--help"] for path in [*GROUPS, *LEAVES]]
    every = [*helps, *works, *(arguments for _, arguments in missing)]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "base_installation.py"],
        input=json.dumps([list(map(str, arguments)) for arguments in every]),
        env=os.environ | {"COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    runs = iter(zip(every, told["runs"], strict=True))
    told["works"] = [next(runs) for _ in [*helps, *works]]
    told["missing"] = [(extra, *next(runs)) for extra, _ in missing]
    return told


def test_every_command_is_tried(tiny_folder, tmp_path):
    works, missing = cases(tmp_path, tiny_folder)
    tried = [list(map(str, each)) for each in [*works, *(arguments for _, arguments in missing)]]
    for leaf in LEAVES:
        assert any(each[: len(leaf)] == list(leaf) for each in tried), leaf


def test_the_extras_are_hidden(made):
    assert {"accelerate", "peft", "matplotlib", "pyarrow", "fastapi", "lmdb"} <= set(made["hidden"])
    assert not {"torch", "transformers", "typer", "faiss", "PIL"} & set(made["hidden"])


def test_what_needs_no_extra_works(made):
    for arguments, (code, _, err) in made["works"]:
        assert code == 0, (arguments, err)


def test_what_needs_an_extra_names_it_in_one_line(made):
    for extra, arguments, (code, out, err) in made["missing"]:
        assert (code, out) == (1, ""), (arguments, out, err)
        assert err.startswith("error: expected the package "), (arguments, err)
        assert err.endswith(f" pip install 'clip-text[{extra}]'.\n"), (arguments, err)
        assert err.count("\n") == 1, (arguments, err)


def test_every_module_can_be_imported_or_names_its_extra(made):
    assert {"clip_text.training.finetune", "retrieval.service.app"} <= made["imports"].keys()
    broken = {name: error for name, error in made["imports"].items() if error}
    for name, (kind, message) in broken.items():
        assert kind == "MissingPackageError", (name, kind, message)
        assert "pip install 'clip-text[" in message, (name, message)
    assert "clip_text.training.finetune" in broken
    assert "clip_text.encoder" not in broken


def test_a_missing_package_is_told_and_others_errors_stay():
    with (
        pytest.raises(
            MissingPackageError,
            match=r"^expected the package no_such for a test, got none\. Run: pip install 'x\[y\]'",
        ) as told,
        needs("x[y]", "a test"),
    ):
        import no_such.part
    assert told.value.name == "no_such"
    assert isinstance(told.value, ClipTextError)
    assert isinstance(told.value, ModuleNotFoundError)
    assert issubclass(MissingForRetrieval, RetrievalError)
    with (
        pytest.raises(MissingPackageError, match=r"got one that does not work: cannot import name"),
        needs("x", "a test"),
    ):
        from json import no_such  # noqa: F401
    with (
        pytest.raises(ModuleNotFoundError, match=r"^No module named 'clip_text\.no_such'"),
        needs("x", "a test"),
    ):
        import clip_text.no_such  # noqa: F401
