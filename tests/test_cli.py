"""The command line, in process; once as the installed command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clip_text import Encoder
from clip_text_cli import hits, wiring
from clip_text_cli import main as cli
from clip_text_cli.index import making
from retrieval.catalogue import Catalogue, Facet
from retrieval.search.relevance import calibration_of

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "retrieval" / "gallery"
GROUPS = {
    "evaluate": ("retrieval", "zero-shot", "languages", "robustness", "vectors"),
    "train": ("classifier", "contrastive", "distill", "mlm", "ner", "pairs", "qa"),
    "data": ("check",),
    "keys": ("create", "list", "revoke"),
    "index": (
        "folder",
        "info",
        "verify",
        "remove",
        "copy",
        "compact",
        "build",
        "advise",
        "plan",
        "calibrate",
        "text",
        "migrate",
        "stats",
        "duplicates",
        "map",
    ),
}
PAGES = ("compare", "export", "runtimes", "service_safety")
IN_GROUPS = [f"{group} {name}" for group, names in GROUPS.items() for name in names]
COMMANDS = [
    *("search", "serve", "embed", "compare", "convert", "export", "info", "tokens", "demo"),
    *GROUPS,
]


@pytest.fixture(scope="module")
def starter():
    return Encoder.from_pretrained("starter")


@pytest.fixture(autouse=True)
def one_starter(starter, monkeypatch):
    # the commands' own loading is tested below; here it would cost a second each time
    monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: starter)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, colour in enumerate(["red", "green", "blue"]):
        Image.new("RGB", (64, 48), colour).save(folder / f"{number}.png")
    return folder


def test_the_installed_command_lists_every_command_without_loading_torch():
    command = Path(sys.executable).parent / "clip-text"
    run = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert all(name in run.stdout for name in COMMANDS)
    code = "import sys; import clip_text_cli.main; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", [*COMMANDS, *IN_GROUPS], ids=str)
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert "Example" in out
    assert f"clip-text {command}" in out


def test_no_command_is_undocumented():
    documented = {
        command.name or command.callback.__name__ for command in cli.app.registered_commands
    }
    groups = {group.name: group.typer_instance for group in cli.app.registered_groups}
    assert documented | set(groups) == set(COMMANDS)
    for name, group in groups.items():
        assert {command.name for command in group.registered_commands} == set(GROUPS[name])
    pages = [ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in PAGES)]
    readme = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert all(f"clip-text {name}" in readme or f"make {name}" in readme for name in COMMANDS)


def test_index_then_search(run, photos, tmp_path):
    store = tmp_path / "store"
    code, out, _ = run("index", photos, "--index", store)
    assert code == 0
    assert "3" in out
    code, out, _ = run("search", "红色", "--index", store, "-k", "2", "--json")
    assert code == 0
    hits = json.loads(out)["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert hits[0]["score"] >= hits[1]["score"]
    assert Path(hits[0]["path"]).is_file()


def test_a_folder_called_like_a_command_is_named_by_a_path(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").symlink_to(photos)
    code, _, err = run("index", "folder", "--index", "store")
    assert (code, "Missing argument" in err) == (2, True)  # the command, and nothing to index
    for args in (["folder", "folder"], ["./folder"], ["--index", "store", "folder"]):
        code, out, _ = run("index", *args, *([] if "store" in args else ["--index", "store"]))
        assert (code, out.startswith("3 pictures")) == (0, True)


def test_the_shipped_calibration_is_of_the_bundled_starter(starter, tmp_path):
    options = {"fingerprint": starter.fingerprint, "embed_dim": starter.embed_dim}
    with Catalogue.create_or_open(tmp_path / "index", **options) as catalogue:
        shipped = calibration_of(catalogue)
    assert shipped is not None, "the starter has changed: calibrate it again, docs/relevance.md"
    assert shipped.hit.weights["score"] > 0 > shipped.hit.weights["log_size"]
    assert 0.0 < shipped.nothing_below < 0.5


def test_index_as_json_counts_what_it_did(run, photos, tmp_path):
    run("index", photos, "--index", tmp_path / "store")
    code, out, _ = run("index", photos, "--index", tmp_path / "store", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["added"], report["unchanged"], report["failures"]) == (0, 3, [])


def test_a_broken_file_is_told_and_gives_exit_code_3(run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    (folder / "坏的.jpg").write_bytes(b"no picture")
    code, out, _ = run("index", folder, "--index", tmp_path / "store")
    assert code == making.SOME_FILES_SET_ASIDE
    assert "坏的.jpg" in out
    code, out, _ = run("search", "x", "--index", tmp_path / "store", "--json")
    assert [Path(hit["path"]).name for hit in json.loads(out)["hits"]] == ["good.png"]


def test_a_sheet_that_cannot_be_drawn_is_refused_before_the_search(run, tmp_path):
    none_there = tmp_path / "store"
    code, out, err = run("search", "绿色", "--index", none_there, "--sheet", "hits.txt")
    assert (code, out) == (2, "")
    assert "expected a sheet's name" in " ".join(err.replace("│", " ").split())


def test_search_draws_a_sheet_and_prints_a_table(run, photos, tmp_path):
    run("index", photos, "--index", tmp_path / "store")
    sheet = tmp_path / "sheet.png"
    code, out, _ = run("search", "绿色", "--index", tmp_path / "store", "--sheet", sheet)
    assert code == 0
    assert out.split()[:3] == ["rank", "score", "path"]
    with Image.open(sheet) as picture:
        assert picture.width > 300


def test_search_among_what_a_filter_holds_of_and_counts(run, photos, tmp_path):
    names = sorted(path.name for path in photos.iterdir())
    lines = [{"file_name": name, "year": 2020 + i, "tags": ["[b]"]} for i, name in enumerate(names)]
    text = "\n".join(json.dumps(line) for line in lines)
    (photos / "metadata.jsonl").write_text(text, encoding="utf-8")
    store = tmp_path / "store"
    run("index", photos, "--index", store)
    search = ("search", "红色", "--index", store)
    code, out, _ = run(*search, "--where", "year＞2020", "--facets", "year", "--json")
    assert code == 0
    found = json.loads(out)
    assert sorted(hit["image_id"] for hit in found["hits"]) == names[1:]
    assert found["facets"] == {"year": [{"value": 2021, "count": 1}, {"value": 2022, "count": 1}]}
    code, out, err = run(*search, "--where", 'tags = "[b]" and year = 0', "--facets", "year")
    assert (code, out.split()) == (0, ["rank", "score", "path", "pictures", "year"])
    assert 'no picture has tags = "[b]" and year = 0' in err
    _, out, _ = run(*search, "--facets", "tags")
    assert out.split()[-4:] == ["pictures", "tags", "3", "[b]"]
    code, _, err = run(*search, "--where", "yaer = 1")
    assert (code, "Did you mean year?" in err) == (1, True)
    code, _, err = run(*search, "--where", "year = ")
    assert (code, "at column 7" in err) == (1, True)


def test_search_with_pictures_ids_and_words_to_stay_away_from(run, photos, tmp_path):
    store, sheet = tmp_path / "store", tmp_path / "sheet.png"
    run("index", photos, "--index", store)
    search = ("search", "--index", store)
    code, out, _ = run(*search, "--json")
    assert code == 1
    names = sorted(path.name for path in photos.glob("*.png"))
    code, out, _ = run(*search, "--image", photos / names[0], "--json")
    found = json.loads(out)
    assert (code, found["query"], found["hits"][0]["image_id"]) == (0, names[0], names[0])
    assert found["hits"][0]["score"] == pytest.approx(1.0, abs=1e-3)
    options = ("--like", names[0], "--not", "雪", "--diverse", "0.1", "--sheet", sheet)
    code, out, _ = run("search", "红色", *search[1:], *options, "--json")
    found = json.loads(out)
    assert (code, found["query"]) == (0, f"红色 + {names[0]} − 雪")
    assert sorted(hit["image_id"] for hit in found["hits"]) == names[1:]
    assert sheet.exists()
    code, out, _ = run("search", "红色", *search[1:], "--offset", "1", "--json")
    assert [hit["rank"] for hit in json.loads(out)["hits"]] == [2, 3]
    code, out, _ = run("search", "红色", *search[1:], "--fold-at", "0.000001", "--json")
    hits = json.loads(out)["hits"]
    assert sum(1 + len(hit.get("folded", ())) for hit in hits) == 3
    for options, message in [
        (("--like", "gone.png"), 'got "gone.png"'),
        (("--image", tmp_path / "gone.png"), "No such file"),
        (("--not", "雪"), "only what to stay away from"),
        (("红色", "--not", "红色", "--not", " "), "a blank one"),
        (("红色", "--fold-at", "nan"), "expected fold to be"),
        (("红色", "--diverse", "1"), "expected diversity to be"),
        (("红色", "--offset", "-1"), "expected an offset of at least 0"),
    ]:
        code, _, err = run(*search, *options)
        assert (code, message in err) == (1, True), err


def test_the_table_counts_what_a_hit_folds(run, photos, tmp_path):
    folder = tmp_path / "copied"
    folder.mkdir()
    for name in ("one.png", "copy.png"):
        (folder / name).write_bytes((photos / "0.png").read_bytes() + name.encode())
    run("index", folder, "--index", tmp_path / "store")
    code, out, _ = run("search", "红色", "--index", tmp_path / "store", "--fold")
    assert (code, out.count("(+1 like it)")) == (0, 1)


def test_k_over_the_size_gives_all(run, photos, tmp_path):
    run("index", photos, "--index", tmp_path / "store")
    _, out, _ = run("search", "蓝色", "--index", tmp_path / "store", "-k", "99", "--json")
    assert len(json.loads(out)["hits"]) == 3


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["search", "狗", "--index", "nowhere"], "clip-text index"),
        (["index", "nowhere"], "expected a folder"),
        (["evaluate", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(run, args, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*args)
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert "Traceback" not in err


def test_an_empty_query_is_refused(run, photos, tmp_path):
    run("index", photos, "--index", tmp_path / "store")
    code, _, err = run("search", "  ", "--index", tmp_path / "store")
    assert code == 1
    assert "expected" in err


def test_an_index_of_another_model_is_refused(run, photos, tmp_path, starter, monkeypatch):
    run("index", photos, "--index", tmp_path / "store")
    starter.save_pretrained(tmp_path / "other")
    other = Encoder.from_pretrained(tmp_path / "other")
    other.model.logit_scale.data += 1
    monkeypatch.setattr(wiring, "load_encoder", lambda model, **_: other)
    code, _, err = run("search", "狗", "--index", tmp_path / "store")
    assert code == 1
    assert "model" in err


def test_a_model_that_is_not_there(run, photos, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(
        sys, "argv", ["clip-text", "index", str(photos), "--model", str(tmp_path / "none")]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1


def test_evaluate_measures_both_directions(run, tmp_path):
    lines = []
    wanted = {"1F436.webp": "狗脸", "2614.webp": "雨伞", "2764.webp": "红心"}
    for name, caption in wanted.items():
        lines.append(json.dumps({"image": name, "zh": [caption]}, ensure_ascii=False))
    (tmp_path / "val.jsonl").write_text("\n".join(lines), encoding="utf-8")
    args = ["evaluate", tmp_path / "val.jsonl", "--images", GALLERY / "emoji"]
    code, out, _ = run(*args, "--json")
    figures = json.loads(out)
    assert code == 0
    assert figures["t2i_recall@5"] == 1.0
    assert (figures["t2i_queries"], figures["i2t_candidates"]) == (3, 3)
    _, table, _ = run(*args)
    assert "recall@10" in table


def test_evaluate_names_missing_pictures(run, tmp_path):
    (tmp_path / "val.jsonl").write_text('{"image": "gone.jpg", "zh": ["没有"]}', encoding="utf-8")
    code, _, err = run("evaluate", tmp_path / "val.jsonl")
    assert code == 1
    assert "gone.jpg" in err


def test_values_are_shown_as_they_are():
    values = ["", "a//b/", "./c", "https://x/", "行\n二", 5]
    table = hits.facets_table("folder", [Facet(value, 1) for value in values])
    shown = ["", "a//b/", "./c", "https://x/", r"行\n二", "5"]
    assert list(table.columns[1].cells) == shown


def test_paths_are_printable():
    assert hits.printable(Path("a\nb")) == "a\\nb"
    assert hits.printable(Path(os.fsdecode(b"\xff.jpg"))) == "\\xff.jpg"
    assert hits.printable(Path("红心.jpg")) == "红心.jpg"
