"""What features are computed in: an index remembers it, and tells where it differs."""

import json

import pytest
from fakes import FakeEncoder, save_picture
from models import shared_checkpoint

from clip_text import Encoder
from clip_text.checkpoints import save_checkpoint
from clip_text.names import RUNTIMES
from clip_text.runtimes.auto import AutoRuntime
from clip_text.runtimes.names import precision_of
from retrieval.catalogue import Catalogue
from retrieval.ingest import IndexWriter, index_folder
from retrieval.search import Searcher


class Precise(FakeEncoder):
    """An encoder that says what it computes in."""

    def __init__(self, image, text):
        super().__init__()
        self.image_precision, self.text_precision = image, text


@pytest.fixture
def folder(tmp_path):
    for seed in range(3):
        save_picture(tmp_path / "p" / f"{seed}.png", seed)
    return tmp_path / "p"


def precisions(index_dir):
    with Catalogue.open(index_dir) as catalogue:
        return catalogue.precisions


def notes(index_dir, encoder):
    with Searcher.open(index_dir, encoder) as searcher:
        assert searcher.search("狗")
        return searcher.notes()


def test_an_index_remembers_it_and_a_search_in_another_says_so(folder, tmp_path):
    index = tmp_path / "index"
    report = index_folder(folder, index, Precise("fp32", "bf16"))
    assert (precisions(index), report.notes) == (("fp32",), [])
    assert notes(index, Precise("fp32", "fp32")) == []
    (note,) = notes(index, Precise("fp32", "bf16"))
    assert note.startswith("queries are computed in bf16, the pictures of this index in fp32: ")
    assert notes(index, FakeEncoder()) == []


def test_pictures_of_another_precision_are_told_once_and_remembered(folder, tmp_path):
    index = tmp_path / "index"
    index_folder(folder, index, Precise("fp32", "fp32"))
    again = index_folder(folder, index, Precise("bf16", "fp32"))
    assert (precisions(index), again.notes) == (("fp32",), [])  # nothing was computed
    for seed in range(3, 6):
        save_picture(folder / f"{seed}.png", seed)
    (note,) = index_folder(folder, index, Precise("bf16", "bf16"), batch_size=1).notes
    assert note.startswith("new pictures are computed in bf16, the pictures of this index in fp32:")
    assert precisions(index) == ("bf16", "fp32")
    (note,) = notes(index, Precise("bf16", "bf16"))
    assert "the pictures of this index in bf16 and fp32:" in note
    # an index that lost all of them begins anew
    for path in folder.iterdir():
        path.unlink()
    index_folder(folder, index, Precise("bf16", "bf16"), allow_empty=True)
    save_picture(folder / "7.png", 7)
    index_folder(folder, index, Precise("bf16", "bf16"))
    assert precisions(index) == ("bf16",)


def test_where_nobody_said_it_of_some_pictures_it_stays_unknown(folder, tmp_path):
    index = tmp_path / "index"
    index_folder(folder, index, FakeEncoder())
    assert precisions(index) == ()
    save_picture(folder / "3.png", 3)
    report = index_folder(folder, index, Precise("bf16", "bf16"))
    assert (precisions(index), report.notes) == ((), [])
    assert notes(index, Precise("fp32", "bf16")) == []
    # and it is forgotten when an encoder that says nothing adds some
    other = tmp_path / "other"
    index_folder(folder, other, Precise("fp32", "fp32"))
    save_picture(folder / "4.png", 4)
    index_folder(folder, other, FakeEncoder())
    assert precisions(other) == ()


def test_items_from_elsewhere_count_too(folder, tmp_path):
    index, picture = tmp_path / "index", folder / "0.png"
    with IndexWriter.open(index, Precise("bf16", "bf16")) as writer:
        writer.add("a", data=picture.read_bytes())
    assert precisions(index) == ("bf16",)
    with IndexWriter.open(index, Precise("fp32", "fp32")) as writer:
        writer.add("b", data=picture.read_bytes())  # known: nothing is computed
        assert precisions(index) == ("bf16",)
        writer.add("c", data=(folder / "1.png").read_bytes())
        assert precisions(index) == ("bf16", "fp32")
        row = FakeEncoder().encode_file(folder / "2.png")
        writer.add("d", feature=row)  # nobody says what that was computed in
    assert precisions(index) == ()


def test_an_encoder_says_what_its_runtime_computes_in():
    assert [precision_of(name) for name in RUNTIMES if name.startswith(("torch", "openvino"))][
        :4
    ] == ["fp32", "bf16", "fp32", "bf16"]
    assert precision_of("onnxruntime-int8") == "int8"
    encoder = Encoder(shared_checkpoint(), "cpu", "torch-bf16")
    assert (encoder.text_precision, encoder.image_precision) == ("bf16", "bf16")

    class Named:
        def __init__(self, name):
            self.name = name

    auto = AutoRuntime({}, None, None)
    auto._chosen = {"text": Named("openvino-bf16"), "image": Named("openvino")}
    encoder.runtime = auto
    assert (encoder.text_precision, encoder.image_precision) == ("bf16", "fp32")


def test_the_commands_say_so(run, folder, tmp_path):
    save_checkpoint(shared_checkpoint(), tmp_path / "model")
    named = ("--model", tmp_path / "model", "--index", tmp_path / "index")
    code, _, err = run("index", folder, *named, "--runtime", "torch")
    assert (code, err) == (0, "Pictures are computed by torch.\n")
    code, out, err = run("index", folder, *named, "--runtime", "torch", "--json")
    assert (code, err, json.loads(out)["notes"]) == (0, "", [])
    code, out, err = run("search", "狗", *named, "--runtime", "torch-bf16")
    assert code == 0
    assert err.startswith("note: queries are computed in bf16, the pictures of this index in fp32:")
    code, out, err = run("search", "狗", *named, "--runtime", "torch-bf16", "--json")
    assert (code, err, len(json.loads(out)["notes"])) == (0, "", 1)
    assert run("search", "狗", *named, "--runtime", "torch")[2] == ""
