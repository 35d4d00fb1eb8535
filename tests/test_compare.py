"""``clip-text compare``: figures of several models, and their hits side by side on one page."""

import json
import re
import shutil
from dataclasses import replace

import compare_process
import numpy as np
import pytest
import torch
import typer
from library_models import write_transformers
from models import tiny_checkpoint
from pictures_data import coloured
from PIL import Image
from test_cli import GALLERY, ROOT

from clip_text.checkpoints import load_checkpoint, save_checkpoint
from clip_text.data.identity import collection_digest
from clip_text.evaluation.agreement import nearest, rank_spread, shared_hits
from clip_text.evaluation.statistics import holm
from clip_text.exporting import export
from clip_text.progress import silent
from clip_text.runtimes import auto
from clip_text.towers import build_model
from clip_text_cli import main
from clip_text_cli.compare import measuring, processes
from clip_text_cli.compare.asked import told_names
from clip_text_cli.compare.sources import Captioned


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    """A second tiny model, of other weights."""
    folder = tmp_path_factory.mktemp("models") / "other"
    save_checkpoint(tiny_checkpoint(seed=1), folder)
    return folder


@pytest.fixture
def two_models(tiny_folder, other_folder):
    return tiny_folder, other_folder


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """Eighteen pictures with two captions each, and one of the pictures twice."""
    return coloured(tmp_path_factory.mktemp("data"), "val", 3, 0)


@pytest.fixture
def in_this_process(monkeypatch):
    """Measure here: what a process of its own adds is tested once, and costs seconds."""

    def measure(job, progress):
        try:
            return measuring.measure_model(job, progress, may_choose=True)
        except Exception as error:
            raise processes.ModelError(processes._reason(error)) from error

    monkeypatch.setattr(processes, "measure_apart", measure)


@pytest.fixture
def compare(run, in_this_process):
    """Run ``clip-text compare``; gives what it prints, and checks the exit code."""

    def call(*args, code=0):
        found, out, err = run("compare", *args, "--resamples", 100)
        assert found == code, err
        return (json.loads(out) if "--json" in args else out), " ".join(err.split())

    return call


# the numbers


def test_holm_corrects_by_hand():
    # sorted: .01 x 3, .02 x 2, .04 x 1; never below an earlier one, never above 1
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.03, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_the_nearest_are_those_of_all_scores_sorted():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((45, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries, candidates = rows[:5], rows[5:]
    candidates[7] = candidates[3]  # a tie: the earlier one first
    candidates[0] = np.nan  # one that could not be read
    scores, places = nearest(queries, candidates, 4)
    for query, score, place in zip(queries, scores, places, strict=True):
        exact = [float(query @ row) if np.isfinite(row).all() else -9.0 for row in candidates]
        order = sorted(range(40), key=lambda at: (-round(exact[at], 5), at))[:4]
        assert place.tolist() == order
        assert score == pytest.approx([exact[at] for at in order], abs=1e-6)
    assert nearest(queries, candidates, 99)[1].shape == (5, 39)
    with pytest.raises(ValueError, match="k of at least 1"):
        nearest(queries, candidates, 0)


def test_hits_in_common_are_counted_whatever_their_order():
    first, second = np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([[4, 9, 1, 8], [8, 7, 6, 5]])
    assert shared_hits(first, second).tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="same queries"):
        shared_hits(first, second[:, :2])


def test_ranks_spread_by_their_logarithm():
    ranks = np.array([[1.0, 100.0, 7.0], [10.0, 1000.0, 7.0], [5.0, 200.0, 7.0]])
    assert rank_spread(ranks) == pytest.approx([1.0, 1.0, 0.0])


# what was asked for


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "expected models to compare, got none. Name two or more"),
        (("a", "b"), "got neither --data nor --pictures. Name captioned pictures"),
        (("a", "a", "--data", "x"), "expected models that differ, got a twice. Name it once."),
        (("a", "--data", "x", "--pictures", "y"), "got both. Compare on one at a time."),
        (("a", "--pictures", "y"), "expected --queries FILE beside --pictures, got none."),
        (("a", "--queries", "y"), "expected --pictures FOLDER beside --queries, got none."),
        (
            ("a", "--pictures", "x", "--queries", "y", "--kind", "zh"),
            "expected no --kind without --data, got one. Leave it out.",
        ),
        (
            ("a", "--pictures", "x", "--queries", "y", "--plot", "p.png"),
            "expected no --plot without --data, got one.",
        ),
        (
            ("a", "--pictures", "x", "--queries", "y", "--baseline", "a"),
            "expected no --baseline without --data, got one.",
        ),
        (
            ("a", "--pictures", "x", "--queries", "y", "--top-k", "1,5"),
            "expected one number of hits without --data, got 1,5. Name one: --top-k 5.",
        ),
        (("a", "--data", "x", "--baseline", "b"), "expected a baseline among a, got b."),
        (("a", "--data", "x", "--html", "p.pdf"), "ends in .html or .htm, got 'p.pdf'. Rename it."),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_do(compare, args, said):
    _, err = compare(*args, code=2)
    words = " ".join(err.replace("│", " ").split())
    assert said in words


def test_wrong_data_is_one_line(compare, tmp_path):
    (tmp_path / "file").write_text("")
    _, err = compare("a", "--data", "x", "--keep", tmp_path / "file", code=1)
    assert "error: expected a folder at" in err
    _, err = compare("a", "b", "--data", tmp_path / "nowhere.jsonl", code=1)
    assert err.startswith("error: expected")
    assert "nowhere.jsonl" in err
    (tmp_path / "blank.txt").write_text("\n \n")
    search = ("--pictures", tmp_path, "--queries")
    assert "one a line, got none" in compare("a", *search, tmp_path / "blank.txt", code=1)[1]
    (tmp_path / "some.txt").write_text("狗\n")
    assert "expected pictures in" in compare("a", *search, tmp_path / "some.txt", code=1)[1]
    nowhere = ("--pictures", tmp_path / "no", "--queries", tmp_path / "some.txt")
    assert "expected a folder of pictures at" in compare("a", *nowhere, code=1)[1]


def test_models_are_told_by_as_little_of_their_paths_as_tells_them_apart(tmp_path, monkeypatch):
    for name in ("a/model", "b/model", "c/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "c" / "other")
    monkeypatch.chdir(tmp_path)
    told = told_names(["a/model", "./b/model", "c/other", "starter", "owner/model-name"])
    assert list(told.values()) == ["a/model", "b/model", "other", "starter", "owner/model-name"]
    assert told_names(["link", "a/model"]) == {"link": "link", "a/model": "model"}
    with pytest.raises(typer.BadParameter, match="got link twice"):
        told_names(["c/other", "link"])


# with captions


def test_a_trained_model_is_told_from_a_random_one(compare, tmp_path):
    """The bundled starter against its own shape with random weights, on emoji of the gallery."""
    figures = starter_and_random(compare, tmp_path, emoji(tmp_path, 20))
    starter, random = figures
    assert starter["t2i_recall@5"] > 0.5 > random["t2i_recall@5"]
    for name in ("t2i_recall@5", "i2t_recall@5"):
        assert random[f"{name}_difference"] == pytest.approx(random[name] - starter[name])
        assert random[f"{name}_difference_high"] < 0, "the interval excludes no difference"
        assert random[f"{name}_p"] == random[f"{name}_p_holm"] <= 0.02
    assert "t2i_recall@5_difference" not in starter
    assert starter["parameters"] == random["parameters"] > 1e6
    assert starter["bytes_per_picture"] == 2 * starter["embed_dim"] == 512


@pytest.mark.data
def test_a_trained_model_is_told_from_a_random_one_on_photos(compare, tmp_path, val):
    lines = val.read_text(encoding="utf-8").splitlines()[:16]
    (tmp_path / "some.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ("--images", val.parent / "images", "--kind", "zh")
    starter, random = starter_and_random(compare, tmp_path, tmp_path / "some.jsonl", *options)
    assert starter["t2i_queries"] == 80
    assert random["against"] == "starter"
    assert random["t2i_recall@5_difference_high"] < 0
    assert random["t2i_recall@5_p"] <= 0.02


@pytest.fixture
def val():
    file = ROOT.parent / "shared" / "data" / "flickr8k-cn" / "val.jsonl"
    if not file.is_file():
        pytest.skip("no ../shared/data here")
    return file


def starter_and_random(compare, tmp_path, data, *options):
    checkpoint = load_checkpoint("starter")
    torch.manual_seed(0)
    random = replace(checkpoint, model=build_model(checkpoint.config).eval())
    save_checkpoint(random, tmp_path / "random")
    arguments = ("--data", data, *options, "--json", "-k", "1,5", "--batch-size", 8)
    return compare("starter", tmp_path / "random", *arguments)[0]


def emoji(folder, count):
    """So many pictures of the gallery with their Chinese names."""
    lines = []
    for line in (GALLERY / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["emoji"]:
            lines.append({"image": entry["file_name"], "zh": [entry["names"]["zh"]]})
    some = lines[:: len(lines) // count][:count]
    (folder / "emoji.jsonl").write_text("\n".join(map(json.dumps, some)), encoding="utf-8")
    (folder / "images").symlink_to(GALLERY)
    return folder / "emoji.jsonl"


def test_the_table_has_a_row_a_model_and_differences_below(
    compare, tiny_folder, other_folder, captions, tmp_path
):
    models = (tiny_folder, other_folder)
    plot, page = tmp_path / "out" / "models.png", tmp_path / "out" / "page.html"
    out, err = compare(*models, "--data", captions, "--plot", plot, "--html", page, "-k", "1,3")
    table, below = out.split("minus tiny, in points")
    assert re.findall(r"^(tiny|other) ", table, re.M) == ["tiny", "other"]
    assert {"recall@1", "recall@3", "texts", "pictures", "memory"} <= set(table.split())
    assert table.split().count("24") == 2, "dimensions"
    assert "36 texts and 18 pictures" in out
    assert re.findall(r"(?:t2i|i2t) recall@\d", below) == [
        *("t2i recall@1", "t2i recall@3", "i2t recall@3")
    ]
    assert "p (Holm)" not in out, "of two models nothing is corrected"
    with Image.open(plot) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100, "more than paper"
    text = page.read_text(encoding="utf-8")
    assert "right answer at rank: tiny " in text
    assert ", a right answer" in text
    assert f"written to {page}" in err


def test_several_p_values_are_corrected_and_the_baseline_is_chosen(
    compare, tiny_folder, other_folder, captions, tmp_path
):
    third = tmp_path / "third"
    save_checkpoint(tiny_checkpoint(seed=2), third)
    models = (tiny_folder, other_folder, third)
    data = ("--data", captions, "--baseline", "other")
    told, _ = compare(*models, *data, "--json")
    assert [one["model"] for one in told] == ["tiny", "other", "third"]
    assert "t2i_recall@1_p" not in told[1]
    for name in ("t2i_recall@1", "t2i_recall@10", "i2t_recall@10"):
        p_values = [told[at][f"{name}_p"] for at in (0, 2)]
        assert [told[at][f"{name}_p_holm"] for at in (0, 2)] == holm(p_values)
    for one in told:
        assert not [value for value in one.values() if isinstance(value, dict | list)], "flat"
        assert one["texts_per_second"] > 0
        assert one["peak_bytes"] > 1e7
        assert one["disk_bytes"] > 1e4
    out, _ = compare(*models, *data)
    assert "p (Holm)" in out
    assert "minus other, in points" in out


def test_memory_of_a_gpu_is_told_where_there_is_one(compare, tiny_folder, captions, monkeypatch):
    assert "GPU" not in compare(tiny_folder, "--data", captions)[0]
    monkeypatch.setattr(measuring, "_gpu_bytes", lambda: 123_000_000)
    out, _ = compare(tiny_folder, "--data", captions)
    assert "GPU" in out
    assert " 123 " in out


def test_a_model_of_another_library_is_compared_as_well(compare, tiny_folder, captions, tmp_path):
    folder = write_transformers(tmp_path / "theirs", "clip")
    told, _ = compare(tiny_folder, folder, "--data", captions, "--json")
    assert [one["model"] for one in told] == ["tiny", "theirs"]
    assert told[1]["parameters"] > 1e4
    assert told[1]["disk_bytes"] > 4e4
    assert (told[1]["embed_dim"], told[1]["image_runtime"]) == (24, "torch")


def test_of_one_model_no_comparison_is_made(compare, tiny_folder, captions, tmp_path):
    page = tmp_path / "page.html"
    out, _ = compare(tiny_folder, "--data", captions, "--html", page)
    assert "No comparison is made: of one model alone." in out
    assert "rank lowest" in page.read_text(encoding="utf-8")


@pytest.fixture
def encoded(monkeypatch):
    """Names the models that encode."""
    names, encode = [], measuring._encode
    monkeypatch.setattr(
        measuring, "_encode", lambda *args: (names.append(args[2].model), encode(*args))
    )
    return names


def test_the_same_again_goes_on_from_what_was_kept(compare, two_models, captions, kept, encoded):
    tiny_folder, other_folder = two_models
    arguments = ("--data", captions, "--keep", kept, "--json")
    first, _ = compare(tiny_folder, *arguments)
    assert encoded == [str(tiny_folder)]
    encoded.clear()
    again, err = compare(tiny_folder, other_folder, *arguments)
    assert encoded == [str(other_folder)], "only what is new is encoded"
    assert "tiny: as kept from before" in err
    assert again[0] == first[0] | {"was_kept": True}
    assert again[1]["was_kept"] is False
    for change in (("--dimensions", 8), ("--batch-size", 5)):
        encoded.clear()
        compare(tiny_folder, *arguments, *change)
        assert encoded == [str(tiny_folder)], change
    # another folder has its own size and pace, whatever its rows
    twin = captions.parent / "twin"
    shutil.copytree(tiny_folder, twin)
    encoded.clear()
    compare(twin, *arguments)
    assert encoded == [str(twin)]
    # other data are other rows
    encoded.clear()
    lines = captions.read_text(encoding="utf-8").splitlines()[:-1]
    fewer = captions.parent / "fewer.jsonl"
    fewer.write_text("\n".join(lines), encoding="utf-8")
    compare(tiny_folder, "--data", fewer, *arguments[2:])
    assert encoded == [str(tiny_folder)]


def test_what_is_kept_is_gone_on_from_where_a_person_stops_it():
    assert main._goes_on(["compare", "a", "b", "--keep", "kept"])
    assert main._goes_on(["compare", "a", "--keep=kept"])
    assert not main._goes_on(["compare", "a", "b", "--data", "val.jsonl"])


def test_a_model_that_fails_costs_no_other_its_figures(compare, tiny_folder, captions, tmp_path):
    arguments = ("--data", captions, "--json", "--dimensions", 8)
    (tmp_path / "empty").mkdir()
    told, err = compare(tmp_path / "empty", tiny_folder, *arguments, code=1)
    assert [one["model"] for one in told] == ["tiny", "empty"]
    assert told[0]["embed_dim"] == 8
    assert "expected" in told[1]["error"]
    assert err.count("error: empty: expected") == 1
    told, err = compare(tiny_folder, *arguments[:-1], 4000, code=1)
    assert "dimensions from 1 to 24" in told[0]["error"]
    out, _ = compare(
        *(tmp_path / "empty", tiny_folder, *arguments[:2], "--baseline", "empty"), code=1
    )
    assert "No comparison is made: the baseline empty has no figures." in out


def job_of_other_data(model, captions, keep):
    return measuring.Job(str(model), Captioned(str(captions)), "0" * 32, "torch", None, 8, keep)


def test_auto_chooses_in_another_process_than_is_measured(
    tiny_folder, captions, tmp_path, monkeypatch
):
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "_SECONDS", 0.0)
    monkeypatch.setattr(auto, "_AT_MOST_SECONDS", 0.0)
    source = Captioned(str(captions))
    job = replace(job_of_other_data(tiny_folder, captions, tmp_path), runtime="auto")
    job = replace(job, digest=collection_digest(source.read()))
    assert measuring.measure_model(job, silent) is None
    measured = measuring.measure_model(job, silent)
    assert measured is not None, "the choice is remembered"
    assert set(measured.facts.runtimes) == {"text", "image"}
    assert all(measured.facts.runtimes.values())


# each in a process of its own


def test_each_model_has_a_process_of_its_own(run, tiny_folder, captions, tmp_path):
    exported = tmp_path / "exported"
    export(tiny_folder, exported, "onnx")  # its process need not load torch, which takes seconds
    arguments = ("--data", captions, "--json", "--resamples", 100)
    code, out, err = run("compare", exported, *arguments)
    assert code == 0, err
    (told,) = json.loads(out)
    assert (told["t2i_queries"], told["text_runtime"]) == (36, "onnxruntime")
    assert 5e7 < told["peak_bytes"] < 5e8, "torch alone, which is loaded here, takes as much"
    assert told["pictures_per_second"] > 0


def test_what_a_process_cannot_do_is_told_here(tiny_folder, captions, tmp_path):
    with pytest.raises(processes.ModelError, match=r"as it was when the comparison began"):
        processes.measure_apart(job_of_other_data(tiny_folder, captions, tmp_path), silent)


def test_a_process_that_is_killed_is_told_of(run, tiny_folder, captions, monkeypatch):
    monkeypatch.setattr(processes, "_work", compare_process.die)
    code, out, err = run("compare", tiny_folder, "--data", captions)
    assert (code, out) == (1, "")
    assert "got a process that was killed by SIGKILL: the memory may be too small." in err
