"""Every runtime gives torch's rows, within its bound; ``auto`` takes none that does not."""

import json
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from models import IMAGE_SIZE, shared_checkpoint, tiny_checkpoint
from PIL import Image

import clip_text
from clip_text import encoder as encoders
from clip_text.checkpoints import save_checkpoint
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError, MissingPackageError, StorageError
from clip_text.evaluation.measure import encode_images
from clip_text.names import RUNTIMES
from clip_text.runtimes import auto, cache, choice, processor
from clip_text.runtimes.auto import AutoRuntime, Samples
from clip_text.runtimes.cache import Stamp
from clip_text.runtimes.graph import ImageGraph
from clip_text.runtimes.names import asked_for
from clip_text.runtimes.openvino import _with_exact_stem, convert
from clip_text.runtimes.packing import Packing, Padding
from retrieval.ingest import index_folder

TORCH = Encoder(shared_checkpoint(), "cpu")
# the largest distance of a row: a cosine of 1 - d²/2; these weights are ten times the usual
BOUNDS = {
    "torch-bf16": 0.2,
    "openvino": 1e-5,
    "openvino-bf16": 0.2,
    # of a model so small, of random weights, this says no more than that it is the same model;
    # tests/test_int8.py has the starter's recall
    "openvino-int8": 0.4,
    "onnxruntime": 1e-5,
    "onnxruntime-int8": 0.2,
}
MARKS = {"openvino-int8": pytest.mark.slow}  # NNCF takes seconds to import, and to quantise
WORDS = ["dog", "cat", "红", "大小", "一只狗在草地上跑", "白色的鸟", "a", "red dog", "马"]
TEXTS = {
    "none": [],
    "one": ["一只狗在草地上跑"],
    "the empty text": [""],
    "10,000 characters": ["大" * 10_000],
    "mixed lengths": ["大" * 40, "", "dog", "一只狗在草地上跑", "a", "红"],
    "1,000 short texts": [WORDS[at % 9] + WORDS[at % 7] for at in range(1000)],
}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=MARKS.get(name, ())) for name in BOUNDS]
)
def encoder(request):
    return Encoder(shared_checkpoint(), "cpu", request.param)


def assert_near(encoder, rows, expected):
    assert rows.dtype == np.float32
    assert rows.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    distances = np.linalg.norm(rows - expected, axis=1)
    assert distances.max(initial=0) <= BOUNDS[encoder.runtime.name]


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_texts(encoder, texts):
    assert_near(encoder, encoder.encode_text(texts), TORCH.encode_text(texts))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches(encoder, batch_size):
    texts = TEXTS["mixed lengths"] * 4
    assert_near(encoder, encoder.encode_text(texts, batch_size), TORCH.encode_text(texts))


def pictures():
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (7, 90), (32, 32), (300, 31), *[(40, 40)] * 30]
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.mark.parametrize("number", [0, 1, 34])
def test_pictures(encoder, number):
    images = pictures()[:number]
    assert_near(encoder, encoder.encode_image(images), TORCH.encode_image(images))


@pytest.mark.skipif(not processor.has_bf16(), reason="the processor has no bfloat16")
def test_photographs_in_bfloat16_stay_within_the_bound_of_auto():
    """The first convolutions in bfloat16, too, would make it 0.9965 of the worst photo."""
    photos = sorted((Path(clip_text.__file__).parents[1] / "retrieval/gallery/photos").iterdir())[
        ::5
    ]
    rows = [
        Encoder.from_pretrained("starter", runtime=name).encode_image(photos)
        for name in ("openvino", "openvino-bf16")
    ]
    assert auto.LOWEST_COSINE < (rows[0] * rows[1]).sum(1).min() < 0.99999


@contextmanager
def no_room():
    """A disk on which no file grows above a hundred bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def image_graph(vision):
    """The image tower as OpenVINO's graph."""
    made = tiny_checkpoint(vision=vision)
    pixels = torch.zeros((2, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)
    graph = ImageGraph(made.model, made.preprocessing)
    return convert(graph, {"pixels": pixels}, [(-1, *pixels.shape[1:])])


def test_a_graph_with_hardly_a_convolution_is_not_written_to_disk():
    graph = image_graph("vit")
    with no_room():
        assert _with_exact_stem(graph) is graph


def test_a_graph_that_finds_no_room_for_temporary_files_says_where():
    graph = image_graph("resnet")
    with pytest.raises(StorageError, match=r"^expected room .* set TMPDIR\.$"), no_room():
        _with_exact_stem(graph)


def test_threads_calling_at_once(encoder):
    texts = TEXTS["1,000 short texts"][:63]
    expected = TORCH.encode_text(texts)
    images = pictures()[:2]
    seen = TORCH.encode_image(images)

    def call(at):
        mine = slice(at % 7, None, 1 + at % 5)
        assert_near(encoder, encoder.encode_text(texts[mine]), expected[mine])
        assert_near(encoder, encoder.encode_image(images), seen)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(24)))


def test_a_row_stays_what_it_was_after_the_next_call(encoder):
    first = encoder.encode_text(["dog"])
    copy = first.copy()
    encoder.encode_text(["一只猫"])
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_other_architectures(runtime, kind):
    vision = "resnet" if kind == "roberta" else "timm"
    checkpoint = tiny_checkpoint(kind=kind, vision=vision, pooler="cls")
    encoder, plain = Encoder(checkpoint, "cpu", runtime), Encoder(checkpoint, "cpu")
    texts, images = TEXTS["mixed lengths"], pictures()[:3]
    assert_near(encoder, encoder.encode_text(texts), plain.encode_text(texts))
    assert_near(encoder, encoder.encode_image(images), plain.encode_image(images))


def test_compiled_graphs_keep_the_weights_they_were_made_of():
    checkpoint = tiny_checkpoint()
    encoder = Encoder(checkpoint, "cpu", "openvino")
    before = encoder.encode_text(WORDS)
    with torch.no_grad():
        for weight in checkpoint.model.parameters():
            weight.mul_(1.5)
    np.testing.assert_array_equal(encoder.encode_text(WORDS), before)
    assert abs(Encoder(checkpoint, "cpu").encode_text(WORDS) - before).max() > 1e-2


@pytest.mark.parametrize(
    ("runtime", "package"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime")]
)
def test_a_runtime_that_is_not_installed_names_its_pip_install(monkeypatch, runtime, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=f"Run: pip install .*{package}"):
        Encoder(shared_checkpoint(), "cpu", runtime)


def test_the_runtime_is_named_by_argument_or_environment(tiny_folder, monkeypatch):
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "torch-bf16")
    assert Encoder.from_pretrained(tiny_folder, "cpu").runtime.name == "torch-bf16"
    named = Encoder.from_pretrained(tiny_folder, "cpu", runtime="openvino")
    assert named.runtime.name == "openvino"
    monkeypatch.delenv("CLIP_TEXT_RUNTIME")
    assert isinstance(Encoder.from_pretrained(tiny_folder, "cpu").runtime, AutoRuntime)
    assert Encoder(shared_checkpoint(), "cpu").runtime.name == "torch"
    with pytest.raises(ValueError, match=r"expected a runtime among auto, .*, got 'fast'\. "):
        Encoder.from_pretrained(tiny_folder, "cpu", runtime="fast")


def test_the_variable_gives_way_where_an_argument_does_not(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "clip_text")
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "openvino")
    asked = {
        (None, None): "openvino",
        (None, "cpu"): "openvino",
        (None, torch.device("cuda:1")): "auto",
        ("onnxruntime", "cuda"): "onnxruntime",  # refused where it is made
    }
    assert {case: asked_for(*case) for case in asked} == asked
    assert "CLIP_TEXT_RUNTIME=openvino does not compute on cuda:1: auto does" in caplog.text
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "torch-bf16")
    assert asked_for(None, "cuda") == "torch-bf16"


def test_a_runtime_of_the_cpu_computes_there_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    encoder = Encoder(shared_checkpoint(), runtime="openvino")
    assert encoder.device == torch.device("cpu")
    assert_near(encoder, encoder.encode_text(WORDS), TORCH.encode_text(WORDS))


def test_an_error_over_what_the_variable_names_says_so(tiny_folder, monkeypatch, run):
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"Run: pip install .*openvino") as told:
        Encoder.from_pretrained(tiny_folder)
    assert "CLIP_TEXT_RUNTIME=openvino asks for it" in str(told.value)
    with pytest.raises(MissingPackageError) as told:
        Encoder.from_pretrained(tiny_folder, runtime="openvino")
    assert "CLIP_TEXT_RUNTIME" not in str(told.value)
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "fast")
    said = r"got 'fast' in CLIP_TEXT_RUNTIME\. Choose one of them, or unset it\."
    with pytest.raises(ValueError, match=said):
        Encoder.from_pretrained(tiny_folder)
    code, _, err = run("search", "狗", "--model", tiny_folder)
    assert code == 2
    assert "got 'fast' in CLIP_TEXT_RUNTIME" in " ".join(err.replace("│", " ").split())
    assert Encoder.from_pretrained(tiny_folder, "cpu", runtime="torch").runtime.name == "torch"


def test_a_runtime_of_the_cpu_refuses_another_device():
    parts = choice.Parts(
        TORCH.model, TORCH.preprocessing, TORCH.tokenizer, torch.device("meta"), lambda: ""
    )
    with pytest.raises(ValueError, match=r"expected device cpu for the runtime openvino, got meta"):
        choice.make_runtime("openvino", parts)
    assert choice.make_runtime("auto", parts).name == "torch"


def test_a_model_that_cannot_be_converted_is_told_in_a_sentence(new_cache, monkeypatch):
    encoder = Encoder(shared_checkpoint(), "cpu", "openvino")
    monkeypatch.setattr(choice, "_tokens", lambda pad_id: torch.zeros(0))
    with pytest.raises(CheckpointError, match=r"that OpenVINO can run, got: .*\. Use the runtime"):
        encoder.encode_text(["dog"])


class Clock:
    """The processor's time, which passes where a runtime says so, and the wall's, by chance."""

    now = 0.0

    def process_time(self):
        return self.now

    def perf_counter(self):
        return float(np.random.default_rng().uniform(0, 100))


CLOCK = Clock()


class Slowed:
    """A runtime that takes its time over torch's rows, and turns them by an angle."""

    def __init__(self, name, seconds, turned=0.0):
        self.name, self.seconds, self.turned, self.calls = name, seconds, turned, 0

    def _rows(self, rows):
        self.calls += 1
        CLOCK.now += self.seconds
        turned = np.roll(rows, 1, axis=1) - rows * (np.roll(rows, 1, axis=1) * rows).sum(
            1, keepdims=True
        )
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        return rows * np.cos(self.turned) + turned * np.sin(self.turned)

    def text(self, tokens):
        return self._rows(TORCH.runtime.text(tokens))

    def image(self, pixels):
        return self._rows(TORCH.runtime.image(pixels))


def make_auto(*runtimes, fingerprint="f" * 32):
    made = []

    def maker(runtime):
        return lambda: made.append(runtime.name) or runtime

    makers = {each.name: maker(each) for each in runtimes}
    samples = Samples(TORCH.tokenizer, TORCH.preprocessing.size)
    return AutoRuntime(makers, samples, lambda: Stamp.here(fingerprint)), made


@pytest.fixture
def new_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "_SECONDS", 0.0)
    monkeypatch.setattr(auto, "_AT_MOST_SECONDS", 0.0)
    return tmp_path / "cache" / "runtimes"


PLAIN = Slowed("torch", 0.05)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(auto, "time", CLOCK)


def test_auto_takes_the_quickest_within_the_bound(new_cache, clock, caplog):
    caplog.set_level(logging.INFO, "clip_text")
    slower, quick = Slowed("slower", 0.1), Slowed("quick", 0.02)
    # a cosine of 0.9989 is beyond the bound, 0.9992 within
    wrong, near = Slowed("wrong", 0.001, np.arccos(0.9989)), Slowed("near", 0.001, 0.04)
    runtime, _ = make_auto(PLAIN, slower, quick, wrong)
    assert runtime.name == "quick"
    assert "wrong was left out: a cosine of 0.99890" in caplog.text
    assert "the text tower runs by quick" in caplog.text
    told = runtime.recall("text")
    assert (told.chosen, told.among) == ("quick", ["quick", "slower", "torch", "wrong"])
    assert told.rows == [1, 16]
    assert told.milliseconds == {
        "torch": pytest.approx([50, 50]),
        "slower": pytest.approx([100, 100]),
        "quick": pytest.approx([20, 20]),
    }
    assert told.refused == {
        "slower": "it takes 2.00 times as long as torch",
        "wrong": "a cosine of 0.99890 to float32",
    }
    runtime, _ = make_auto(PLAIN, slower, quick, near, fingerprint="e" * 32)
    assert runtime.name == "near"
    runtime, _ = make_auto(PLAIN, slower, wrong, fingerprint="d" * 32)
    assert runtime.name == "torch"


def test_auto_measures_no_longer_than_it_takes_to_know(new_cache, clock, monkeypatch):
    monkeypatch.setattr(auto, "_SECONDS", 0.15)
    monkeypatch.setattr(auto, "_AT_MOST_SECONDS", 1.0)
    calls = {}
    for seconds in (0.01, 0.03, 0.045, 2.0):  # far quicker, clearly, hardly, far slower
        plain, other = Slowed("torch", 0.05), Slowed("other", seconds)
        runtime, _ = make_auto(plain, other, fingerprint=f"{seconds}".ljust(32, "0"))
        runtime.image(pictures()[2][None])
        calls[seconds] = other.calls
        assert runtime.of("image").name == ("torch" if seconds == 2.0 else "other")
    # one for the rows, one of the picture that was asked for, the rest turns
    assert calls == {0.01: 1 + 1 + 1, 0.03: 1 + 1 + 2, 0.045: 1 + 1 + 3, 2.0: 1 + 1}


def test_who_is_clearly_slower_takes_no_more_turns(new_cache, clock, monkeypatch):
    monkeypatch.setattr(auto, "_AT_MOST_SECONDS", 1.0)
    seconds = {"torch": 0.1, "close": 0.012, "quick": 0.01, "middling": 0.02}
    runtimes = {name: Slowed(name, each) for name, each in seconds.items()}
    found = auto.best_seconds(runtimes, "image", pictures()[2][None])
    assert found == pytest.approx(seconds)
    # 3 times as slow after one turn, 1.5 times after two
    turns = {name: each.calls for name, each in runtimes.items()}
    assert turns == {"torch": 1, "close": 3, "quick": 3, "middling": 2}


def test_one_runtime_alone_is_timed_for_all_turns(new_cache, clock, monkeypatch):
    monkeypatch.setattr(auto, "_AT_MOST_SECONDS", 1.0)
    alone = Slowed("torch", 0.05)
    found = auto.best_seconds({"": alone}, "image", pictures()[2][None])
    assert found[""] == pytest.approx(0.05)
    assert alone.calls == 3


def test_auto_measures_a_tower_when_it_is_first_used_and_once(new_cache, clock):
    quick = Slowed("quick", 0.001)
    runtime, made = make_auto(PLAIN, quick)
    tokens = TORCH.tokenizer(["dog"]).numpy()
    assert made == []
    np.testing.assert_allclose(runtime.text(tokens), TORCH.runtime.text(tokens), atol=1e-6)
    assert made == ["torch", "quick"]
    assert [file.name[-9:] for file in new_cache.iterdir()] == ["text.json"]
    again, made = make_auto(PLAIN, quick)
    assert (again.recall("text").chosen, again.recall("image"), made) == ("quick", None, [])
    again.text(tokens)
    assert made == ["quick"]


class Watched(Slowed):
    """A runtime that notes which other threads there are while it is timed."""

    def __init__(self, name, seconds):
        super().__init__(name, seconds)
        self.beside = set()

    def _rows(self, rows):
        self.beside |= set(threading.enumerate())
        return super()._rows(rows)


def index(encoder, folder):
    index_folder(folder / "photos", folder / "index", encoder, batch_size=2)


USES = {
    "texts": lambda encoder, _: encoder.encode_text(["dog"] * 20, batch_size=4),
    "pictures": lambda encoder, _: encoder.encode_image(pictures()[:8], batch_size=2),
    "an index": index,
    "a data set": lambda encoder, _: encode_images(encoder, pictures()[:8], range(8), batch_size=2),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_the_choice_is_made_before_threads_work_beside_it(
    new_cache, clock, use, tmp_path, monkeypatch
):
    monkeypatch.setattr(encoders, "_TOKENISED_AT_ONCE", 4)
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(pictures()[3:8]):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{number}.png")
    before = set(threading.enumerate())
    plain, quick = Watched("torch", 0.05), Watched("quick", 0.001)
    encoder = Encoder(shared_checkpoint(), "cpu")
    encoder.runtime, _ = make_auto(plain, quick)
    use(encoder, tmp_path)
    assert plain.calls >= 2  # for the expected rows, and to be timed
    assert plain.beside <= before
    assert quick.beside - before  # which went on beside them when it was chosen


@pytest.mark.parametrize(
    "trouble",
    ["broken", "another processor", "another list", "unknown name", "older form", "no figures"],
)
def test_a_choice_that_is_not_ours_is_made_again(new_cache, clock, trouble, monkeypatch):
    quick, tokens = Slowed("quick", 0.001), TORCH.tokenizer(["dog"]).numpy()
    make_auto(PLAIN, quick)[0].text(tokens)
    (file,) = new_cache.iterdir()
    told = json.loads(file.read_text())
    if trouble == "broken":
        file.write_text(file.read_text()[:-20])
    elif trouble == "another processor":  # a cache that was copied here under our name
        told["stamp"]["processor"] = "another"
        told["value"]["chosen"] = "torch"
        file.write_text(json.dumps(told))
    elif trouble == "unknown name":
        told["value"]["chosen"] = "gone"
        file.write_text(json.dumps(told))
    elif trouble == "older form":
        told["value"] = {"chosen": "quick", "among": ["quick", "torch"], "shares": {"quick": 0.1}}
        file.write_text(json.dumps(told))
    elif trouble == "no figures":
        told["value"]["milliseconds"]["quick"] = []
        file.write_text(json.dumps(told))
    else:
        make_auto(PLAIN, Slowed("more", 0.1), quick)[0].text(tokens)
    runtime, made = make_auto(PLAIN, quick)
    runtime.text(tokens)
    assert made == ["torch", "quick"]


def test_a_cache_that_cannot_be_written_is_no_error(clock, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path / "file"))
    encoder = Encoder(shared_checkpoint(), "cpu", "openvino")
    assert_near(encoder, encoder.encode_text(WORDS), TORCH.encode_text(WORDS))
    runtime, _ = make_auto(PLAIN, Slowed("quick", 0.001))
    assert runtime.name == "quick"


def test_a_compiled_graph_is_read_by_the_next_process_and_by_no_other_processor(
    new_cache, monkeypatch
):
    def converted(*_):
        raise AssertionError("converted again")

    expected = TORCH.encode_text(WORDS)
    first = Encoder(shared_checkpoint(), "cpu", "openvino")
    assert_near(first, first.encode_text(WORDS), expected)
    (file,) = new_cache.iterdir()
    second = Encoder(shared_checkpoint(), "cpu", "openvino")
    with monkeypatch.context() as patch:
        patch.setattr(choice, "_tokens", converted)
        assert_near(second, second.encode_text(WORDS), expected)
        third = Encoder(shared_checkpoint(), "cpu", "openvino")
        patch.setattr(cache, "describe_processor", lambda: "another")
        with pytest.raises(CheckpointError, match="converted again"):
            third.encode_text(WORDS)
    whole = file.read_bytes()
    for broken in (whole[:1000], whole[:-50] + bytes(50)):
        file.write_bytes(broken)
        fourth = Encoder(shared_checkpoint(), "cpu", "openvino")
        assert_near(fourth, fourth.encode_text(WORDS), expected)


def test_graphs_that_nobody_used_for_long_go(new_cache):
    old, recent, new = (Stamp.here(letter * 32) for letter in "abc")
    for stamp, days in ((old, 61), (recent, 59)):
        stamp.keep("text.blob", b"graph")
        then = time.time() - days * 24 * 3600
        os.utime(stamp.file("text.blob"), (then, then))
    new.keep("text.blob", b"graph")
    assert [stamp.fetch("text.blob") for stamp in (old, recent, new)] == [None, b"graph", b"graph"]


def test_auto_on_a_real_model(new_cache):
    encoder = Encoder(shared_checkpoint(), "cpu", "auto")
    texts, images = TEXTS["mixed lengths"], pictures()[:3]
    cosines = (encoder.encode_text(texts) * TORCH.encode_text(texts)).sum(1)
    assert cosines.min() >= 0.99
    assert (encoder.encode_image(images) * TORCH.encode_image(images)).sum(1).min() >= 0.99
    assert {part.removesuffix(",") for part in encoder.runtime.name.split()} & set(RUNTIMES)


def test_packing_by_hand():
    tokens = np.array([[2, 9, 3, 0, 0], [2, 5, 0, 7, 3], [2, 3, 0, 0, 0]])
    packed, row_of, place_of = Packing(pad_id=0).pack(tokens)
    # the longest first, one row: 5 + 3 + 2 columns, rounded up to 16
    assert packed.ids.tolist() == [[2, 5, 0, 7, 3, 2, 9, 3, 2, 3, 0, 0, 0, 0, 0, 0]]
    assert packed.owners.tolist() == [[0, 0, -1, 0, 0, 1, 1, 1, 2, 2, *[-1] * 6]]
    assert packed.positions.tolist() == [[0, 1, 0, 3, 4, 0, 1, 2, 0, 1, *[0] * 6]]
    assert packed.firsts.tolist() == [[0, 5, 8, 0]]
    assert (row_of.tolist(), place_of.tolist()) == ([0, 0, 0], [1, 0, 2])
    counted, _, _ = Packing(pad_id=1, first_position=2).pack(np.array([[0, 5, 1, 7, 2, 1]]))
    assert counted.positions.tolist() == [[2, 3, 1, 4, 5, 1, 0, 0]]


def test_one_text_is_rounded_up_to_few_lengths():
    packed, row_of, place_of = Packing(pad_id=1, first_position=2).pack(np.array([[0, 5, 1, 7, 2]]))
    assert packed.ids.tolist() == [[0, 5, 1, 7, 2, 1, 1, 1]]
    assert packed.owners.tolist() == [[0, 0, -1, 0, 0, -1, -1, -1]]
    # a table of positions may end with the longest text
    assert packed.positions.tolist() == [[2, 3, 1, 4, 5, 0, 0, 0]]
    assert packed.firsts.tolist() == [[0]]
    assert (row_of.tolist(), place_of.tolist()) == ([0], [0])
    shapes = {Packing(0).pack(np.full((1, n), 7))[0].ids.shape for n in range(3, 17)}
    assert shapes == {(1, 4), (1, 8), (1, 12), (1, 16)}


def test_few_texts_over_token_ids_come_in_few_shapes_within_the_context():
    padding = Padding(pad_id=1, context_length=10)
    assert padding.pad(np.array([[0, 5, 2]])).tolist() == [[0, 5, 2, 1]]
    shapes = {padding.pad(np.full((1, n), 7)).shape for n in range(2, 11)}
    assert shapes == {(1, 4), (1, 8), (1, 10)}
    several = np.array([[0, 5, 2], [0, 6, 2], [0, 7, 2], [0, 8, 2], [0, 2, 1]])
    assert padding.pad(several).tolist() == [
        *([0, 5, 2, 1], [0, 6, 2, 1], [0, 7, 2, 1], [0, 8, 2, 1], [0, 2, 1, 1]),
        [0, 2, 1, 1],
    ]
    shapes = {padding.pad(np.full((n, 5), 7)).shape for n in range(1, 65)}
    assert shapes == {(n, 8) for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)}
    many = np.full((65, 3), 7)
    assert padding.pad(many) is many


def test_texts_of_unlike_lengths_come_in_parts_each_padded_to_its_own():
    padding = Padding(pad_id=0, context_length=52)
    lengths = [3, 50, 9, 3, 11, 52] + [4] * 30
    tokens = np.zeros((len(lengths), 52), np.int64)
    for place, length in enumerate(lengths):
        tokens[place, :length] = 100 + place
    tokens[4, 5] = 0  # a hole is no end
    parts = padding.parts(tokens)
    seen = np.concatenate([places for places, _ in parts])
    assert sorted(seen.tolist()) == list(range(len(lengths)))
    for places, padded in parts:
        assert padded.size <= 256
        assert padded.shape[1] % 4 == 0
        for place, row in zip(places, padded, strict=False):
            assert row[: lengths[place]].tolist() == tokens[place, : lengths[place]].tolist()
            assert not row[lengths[place] :].any()
    assert [padded.shape for _, padded in parts] == [(4, 52), (32, 4)]
    assert sum(padded.size for _, padded in parts) < 64 * 52 / 5
    (alone,) = padding.parts(tokens[:1])
    assert (alone[0].tolist(), alone[1].shape) == ([0], (1, 52))


# "max" is not written out over packed rows: the graph is one over token ids
@pytest.mark.parametrize(
    ("kind", "pooler"), [("bert", "mean"), ("xlm-roberta", "mean"), ("bert", "max")]
)
def test_single_queries_of_every_length_give_torchs_rows(kind, pooler):
    checkpoint = tiny_checkpoint(kind=kind, pooler=pooler)
    encoder, plain = Encoder(checkpoint, "cpu", "openvino"), Encoder(checkpoint, "cpu")
    for length in (0, 1, 2, 3, 13, 14, 15, 2, 0):  # with [CLS] and [SEP] up to the context's 16
        texts = ["大小一只狗红白马花树草水天人跑"[:length]]
        assert_near(encoder, encoder.encode_text(texts), plain.encode_text(texts))


def test_long_texts_fill_rows_of_their_own():
    tokens = np.ones((5, 100), np.int64)
    tokens[3, 20:] = 0
    packed, row_of, _ = Packing(pad_id=0).pack(tokens)
    assert packed.ids.shape == (4, 120)
    assert sorted(np.bincount(row_of).tolist()) == [1, 1, 1, 2]


def test_cores_are_those_the_process_may_use(monkeypatch, tmp_path):
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(processor, "_QUOTA", limit)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for text, threads, cores in (
        ("max 100000", None, 8),
        ("150000 100000", None, 2),
        ("50000 100000", None, 1),
        ("max 100000", "3", 3),
        ("1600000 100000", "64", 8),
        ("", None, 8),
    ):
        limit.write_text(text)
        if threads:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
        else:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert processor.available_cores.__wrapped__() == cores


def test_the_command_offers_the_runtimes_there_are(run):
    for command in ("index folder", "search", "serve", "demo"):
        code, told, _ = run(*command.split(), "--help")
        assert (code, "--runtime" in told, "CLIP_TEXT_RUNTIME" in told) == (0, True, True)


def test_an_index_of_one_runtime_is_searched_by_another(run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(pictures()[3:8]):
        Image.fromarray(picture).save(folder / f"{number}.png")
    save_checkpoint(shared_checkpoint(), tmp_path / "model")
    named = ("--model", tmp_path / "model", "--index", tmp_path / "index")
    assert run("index", folder, *named, "--runtime", "torch")[0] == 0
    found = []
    for runtime in ("torch", "openvino"):
        code, told, _ = run("search", "红色的狗", *named, "--json", "--runtime", runtime)
        assert code == 0
        found.append(json.loads(told)["hits"])
    first, second = ([hit["path"] for hit in hits] for hits in found)
    assert first == second
    scores = np.array([[hit["score"] for hit in hits] for hits in found])
    np.testing.assert_allclose(*scores, atol=1e-4)
    assert run("search", "狗", *named, "--runtime", "fast")[0] == 2
