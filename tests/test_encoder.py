"""Encoder: texts and pictures in, unit rows out."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import IMAGE_SIZE, VOCABULARY, bert_tokenizer, shared_checkpoint, tiny_checkpoint
from PIL import Image

import clip_text
from clip_text.checkpoints import Checkpoint
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError
from clip_text.images import ImageError
from clip_text.runtimes import ExportedModel
from clip_text.tokenizer import Tokenizer

ROOT = Path(clip_text.__file__).parents[1]
ENCODER = Encoder(shared_checkpoint(), device="cpu")
EMBED_DIM = 24
TEXTS = ["红色的心", "dog", "", "一只狗在草地上跑", "cat", "a", "大" * 40, "红"]
# fp32 sums in another order: a few units of the last place of numbers below 1
SAME = 2e-6


def unit(features):
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    return features


def pictures(number=5):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 30 + at, 3), np.uint8) for at in range(number)]


def test_text_rows():
    features = unit(ENCODER.encode_text(TEXTS))
    assert features.shape == (len(TEXTS), EMBED_DIM)
    assert (ENCODER.embed_dim, ENCODER.context_length) == (EMBED_DIM, 16)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    assert (distances + np.eye(len(TEXTS)) > 1e-2).all()  # other texts, other rows


def test_text_row_is_the_towers_vector_made_unit():
    (row,) = ENCODER.encode_text(["dog"])
    tokens = torch.tensor([[2, VOCABULARY.index("dog"), 3]])
    with torch.inference_mode():
        vector = ENCODER.model.text(tokens)[0].numpy()
    np.testing.assert_allclose(row, vector / np.linalg.norm(vector), atol=SAME)


def test_nothing_gives_no_rows():
    assert ENCODER.encode_text([]).shape == (0, EMBED_DIM)
    assert ENCODER.encode_image([]).shape == (0, EMBED_DIM)
    assert ENCODER.encode_pixels([]).shape == (0, EMBED_DIM)
    for nothing in (ENCODER.encode_text([]), ENCODER.encode_image([])):
        assert nothing.dtype == np.float32


def test_the_empty_text_is_a_text_of_no_words():
    empty, spaces = unit(ENCODER.encode_text(["", " \u3000\n"]))
    np.testing.assert_allclose(empty, spaces, atol=SAME)


def test_a_text_is_cut_at_context_length():
    long, cut, shorter = ENCODER.encode_text(["大" * 10_000, "大" * 14, "大" * 13])
    np.testing.assert_allclose(long, cut, atol=SAME)
    assert abs(long - shorter).max() > 1e-4


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 1000])
def test_batches_change_nothing(batch_size):
    texts = ENCODER.encode_text(TEXTS)
    np.testing.assert_allclose(ENCODER.encode_text(TEXTS, batch_size), texts, atol=SAME)
    images = ENCODER.encode_image(pictures())
    np.testing.assert_allclose(ENCODER.encode_image(pictures(), batch_size), images, atol=SAME)


def test_many_texts_are_tokenised_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr(clip_text.encoder, "_TOKENISED_AT_ONCE", 6)
    texts = TEXTS * 3
    expected = np.tile(ENCODER.encode_text(TEXTS), (3, 1))
    for batch_size in (1, 3, 4, 100):
        np.testing.assert_allclose(ENCODER.encode_text(texts, batch_size), expected, atol=SAME)
    with pytest.raises(TypeError, match="at position 20"):
        ENCODER.encode_text([*texts[:20], None])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_impossible_batch_size_is_refused(batch_size):
    for encode in (ENCODER.encode_text, ENCODER.encode_image):
        with pytest.raises(ValueError, match=r"expected a batch_size of at least 1, got .*\. "):
            encode([], batch_size=batch_size)


def test_a_generator_of_texts_will_do():
    features = ENCODER.encode_text(text for text in TEXTS)
    np.testing.assert_array_equal(features, ENCODER.encode_text(TEXTS))


@settings(max_examples=25)
@given(
    st.lists(st.text(st.sampled_from("红狗dog “Ａ\u3000\ud83d🐶"), max_size=20), max_size=6),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
)
def test_any_texts_in_any_order(texts, random, batch_size):
    features = unit(ENCODER.encode_text(texts))
    assert features.shape == (len(texts), EMBED_DIM)
    order = random.sample(range(len(texts)), len(texts))
    shuffled = ENCODER.encode_text([texts[at] for at in order], batch_size)
    np.testing.assert_allclose(shuffled, features[order], atol=SAME)


@pytest.mark.parametrize("one", ["dog", b"dog"])
def test_one_text_is_refused(one):
    with pytest.raises(TypeError, match=r"expected a list of str, got one .*\. Wrap it"):
        ENCODER.encode_text(one)


@pytest.mark.parametrize("wrong", [None, 1, b"dog", ["dog"]])
def test_something_else_than_texts_is_refused(wrong):
    with pytest.raises(TypeError, match=r"got (NoneType|int|bytes|list) at position 1"):
        ENCODER.encode_text(["dog", wrong])


def test_none_is_refused():
    with pytest.raises(TypeError):
        ENCODER.encode_text(None)


def test_pictures_of_any_origin_mixed(tmp_path):
    array = pictures(1)[0]
    image = Image.fromarray(array)
    image.save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    sources = [path, str(path), image, array, path.read_bytes(), array / np.float32(255)]
    features = unit(ENCODER.encode_image(sources))
    for row in features:
        np.testing.assert_allclose(row, features[0], atol=SAME)


def test_any_iterable_of_pictures_will_do(tmp_path):
    images = pictures()
    expected = ENCODER.encode_image(images)

    def draw():
        yield from images

    np.testing.assert_array_equal(ENCODER.encode_image(draw()), expected)
    for several in (tuple(images), iter(images), dict(enumerate(images)).values()):
        np.testing.assert_array_equal(ENCODER.encode_image(several, batch_size=64), expected)
    np.testing.assert_allclose(ENCODER.encode_image(draw(), batch_size=1), expected, atol=SAME)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    assert ENCODER.encode_image(tmp_path.glob("*.png")).shape == (1, EMBED_DIM)
    assert ENCODER.encode_image(iter(())).shape == (0, EMBED_DIM)


def test_image_row_by_hand():
    """A picture of the tower's own size is only normalised; channels first, rows before columns."""
    picture = np.random.default_rng(1).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    preprocessing = ENCODER.checkpoint.preprocessing
    pixels = np.empty((1, 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for channel in range(3):
        values = picture[:, :, channel] / 255 - preprocessing.mean[channel]
        pixels[0, channel] = values / preprocessing.std[channel]
    with torch.inference_mode():
        vector = ENCODER.model.visual(torch.from_numpy(pixels))[0].numpy()
    (row,) = ENCODER.encode_image([picture])
    np.testing.assert_allclose(row, vector / np.linalg.norm(vector), atol=1e-5)


def test_a_picture_is_squashed_whatever_its_shape():
    """One colour stays one colour; what is wide becomes narrow, nothing is cropped."""
    colour = np.array([255, 128, 0], np.uint8)
    rows = ENCODER.encode_image([np.full((h, w, 3), colour) for h, w in ((50, 20), (32, 32))])
    np.testing.assert_allclose(rows[0], rows[1], atol=SAME)
    white_ends = np.zeros((20, 200, 3), np.uint8)
    white_ends[:, :25] = white_ends[:, 175:] = 255
    pixels = ENCODER.load_pixels(white_ends)
    assert pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert (pixels[:, [0, 1, -2, -1]] > 239).all()
    assert (pixels[:, 6:-6] < 16).all()


def test_a_cpu_takes_a_few_pictures_at_a_time_and_says_the_same(monkeypatch):
    encoder = Encoder(tiny_checkpoint(), "cpu")
    noise = np.random.default_rng(0)
    pixels = list(noise.integers(0, 256, (40, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
    whole = encoder.model.encode_image
    with torch.inference_mode():
        expected = whole(encoder.to_input(np.stack(pixels)), normalize=True).numpy()
    seen = []
    monkeypatch.setattr(
        encoder.model, "encode_image", lambda batch: seen.append(len(batch)) or whole(batch)
    )
    np.testing.assert_allclose(encoder.encode_pixels(pixels), expected, atol=1e-6)
    assert seen == [16, 16, 8]


def test_pictures_keep_their_order():
    images = pictures()
    together = ENCODER.encode_image(images)
    for at, image in enumerate(images):
        np.testing.assert_allclose(ENCODER.encode_image([image])[0], together[at], atol=SAME)
    assert ENCODER.load_pixels(images[0]).shape == (IMAGE_SIZE, IMAGE_SIZE, 3)


@pytest.mark.parametrize(
    "one", ["a.jpg", Path("a.jpg"), b"GIF89a", Image.new("RGB", (4, 4)), np.zeros((4, 4, 3))]
)
def test_one_picture_is_refused(one):
    with pytest.raises(TypeError, match=r"expected a list of images, got one .*\. Wrap it"):
        ENCODER.encode_image(one)


def test_a_stack_of_pictures_is_several():
    stack = np.stack([ENCODER.load_pixels(picture) for picture in pictures()])
    np.testing.assert_allclose(
        ENCODER.encode_image(stack), ENCODER.encode_image(pictures()), atol=SAME
    )


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="no-such"):
        ENCODER.encode_image([tmp_path / "no-such.jpg"])


def test_no_picture_is_an_image_error(tmp_path):
    (tmp_path / "a.jpg").write_text("hello", encoding="utf-8")
    with pytest.raises(ImageError):
        ENCODER.encode_image([tmp_path / "a.jpg"])


def test_logit_scale_is_the_factor():
    assert ENCODER.logit_scale == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("compat", ["clip_text", "cn_clip", "hf", "open_clip"])
def test_the_contract_can_be_chosen_and_is_part_of_the_fingerprint(compat, tiny_folder, tmp_path):
    texts = ["“红”", "Ｄｏｇ", "[MASK]", "红，绿"]
    encoder = Encoder.from_pretrained(tiny_folder, "cpu", compat=compat)
    expected = Tokenizer(bert_tokenizer(), 16, compat)
    assert encoder.tokenizer.token_ids(texts) == expected.token_ids(texts)
    changed = compat != "clip_text"
    assert (encoder.fingerprint != ENCODER.fingerprint) == changed
    difference = abs(encoder.encode_text(texts) - ENCODER.encode_text(texts)).max()
    assert (difference > 1e-2) == changed
    # and it is kept where the model is saved
    encoder.save_pretrained(tmp_path / "saved")
    again = Encoder.from_pretrained(tmp_path / "saved", "cpu")
    assert again.tokenizer.compat == compat
    assert again.fingerprint == encoder.fingerprint
    own = Encoder.from_pretrained(tmp_path / "saved", "cpu", compat="clip_text")
    assert own.fingerprint == ENCODER.fingerprint


def test_the_context_length_can_be_chosen_and_is_part_of_the_fingerprint(tiny_folder):
    encoder = Encoder.from_pretrained(tiny_folder, "cpu", context_length=5)
    assert encoder.context_length == encoder.checkpoint.config.context_length == 5
    assert encoder.fingerprint != ENCODER.fingerprint
    cut, whole = encoder.encode_text(["大小红绿蓝", "大小红"])
    np.testing.assert_allclose(cut, whole, atol=SAME)
    assert Encoder.from_pretrained(tiny_folder, "cpu", context_length=16).fingerprint == (
        ENCODER.fingerprint
    )


def test_an_exported_model_encodes_and_says_that_it_does_no_more():
    exported = ExportedModel(
        Path("exported"),
        ENCODER.tokenizer,
        ENCODER.preprocessing,
        EMBED_DIM,
        ENCODER.fingerprint,
        ENCODER.logit_scale,
        ENCODER.runtime,
    )
    encoder = Encoder(exported)
    np.testing.assert_array_equal(encoder.encode_text(TEXTS), ENCODER.encode_text(TEXTS))
    images = encoder.encode_image(pictures())
    np.testing.assert_allclose(images, ENCODER.encode_image(pictures()), atol=SAME)
    for name in ("fingerprint", "logit_scale", "embed_dim", "context_length"):
        assert getattr(encoder, name) == getattr(ENCODER, name)
    assert encoder.heads == {}
    for use in (
        lambda: encoder.model,
        lambda: encoder.checkpoint,
        lambda: encoder.device,
        lambda: encoder.save_pretrained("elsewhere"),
        lambda: encoder.classify(TEXTS),
        lambda: encoder.entities(TEXTS),
        lambda: encoder.answer("谁？", "狗"),
        lambda: list(encoder.token_batches(TEXTS)),
        lambda: encoder.to_input(np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)),
    ):
        with pytest.raises(CheckpointError, match=r"got exported, which was .* Load the model"):
            use()


def test_the_encoder_leaves_training_mode():
    checkpoint = tiny_checkpoint()
    checkpoint.model.train()
    encoder = Encoder(checkpoint, device="cpu")
    assert (encoder.encode_text(TEXTS) == encoder.encode_text(TEXTS)).all()


def changed(**parts) -> str:
    """Fingerprint of the tiny checkpoint with one part replaced."""
    return Encoder(dataclasses.replace(tiny_checkpoint(), **parts), device="cpu").fingerprint


def test_fingerprint_is_stable():
    assert changed() == ENCODER.fingerprint
    assert len(ENCODER.fingerprint) == 32
    assert int(ENCODER.fingerprint, 16)


def test_fingerprint_survives_saving(tmp_path):
    ENCODER.save_pretrained(tmp_path / "saved")
    assert Encoder.from_pretrained(tmp_path / "saved", "cpu").fingerprint == ENCODER.fingerprint


def nudged(name):
    def change(checkpoint: Checkpoint):
        with torch.no_grad():
            tensor = checkpoint.model.state_dict()[name].view(-1)
            tensor[-1:] = torch.nextafter(tensor[-1:], torch.tensor([9.0]))
        return checkpoint

    return change


def replaced(part, **fields):
    def change(checkpoint):
        value = dataclasses.replace(getattr(checkpoint, part), **fields)
        return dataclasses.replace(checkpoint, **{part: value})

    return change


def with_vocabulary(vocabulary):
    return lambda c: dataclasses.replace(c, tokenizer=Tokenizer(bert_tokenizer(vocabulary), 16))


SWAPPED = [*VOCABULARY[:5], VOCABULARY[6], VOCABULARY[5], *VOCABULARY[7:]]


@pytest.mark.parametrize(
    "change",
    [
        nudged("text.proj.weight"),
        nudged("text.transformer.embeddings.word_embeddings.weight"),
        nudged("visual.conv1.weight"),
        nudged("logit_scale"),
        replaced("preprocessing", size=33),
        replaced("preprocessing", mean=(0.5, 0.4, 0.31)),
        replaced("preprocessing", std=(0.25, 0.3, 0.36)),
        replaced("config", pooler="cls"),
        replaced("config", context_length=15),
        replaced("config", quick_gelu=True),
        with_vocabulary(SWAPPED),
        with_vocabulary([*VOCABULARY, "新"]),
    ],
    ids=[
        *("projection", "embedding", "vision", "logit_scale", "size", "mean", "std"),
        *("pooler", "context_length", "quick_gelu", "two tokens swapped", "a token more"),
    ],
)
def test_fingerprint_changes_with_everything_that_counts(change):
    assert Encoder(change(tiny_checkpoint()), device="cpu").fingerprint != ENCODER.fingerprint


PROGRAM = """
import sys

attempts = []

def refuse(event, args):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"}:
        attempts.append(event)
        raise OSError("no network here")

sys.addaudithook(refuse)
import clip_text
assert clip_text.Encoder is not None
loaded = [name for name in sys.modules if name.split(".")[0] in {"retrieval", "scripts"}]
assert not loaded, loaded
encoder = clip_text.Encoder.from_pretrained(sys.argv[1], device="cpu")
assert encoder.encode_text(["dog"]).shape == (1, 24)
assert not attempts, attempts
try:
    clip_text.Encoder.from_pretrained("owner/model")
except clip_text.CheckpointError as error:
    print(error)
assert attempts
"""


def test_a_fresh_process_needs_no_network_and_no_retrieval(tiny_folder):
    environment = {name: v for name, v in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("expected a local folder or a model on the hub, got 'owner/")


def test_public_names():
    errors = {"CheckpointError", "ClipTextError", "DataError"}
    assert set(clip_text.__all__) == {
        *errors,
        "Encoder",
        "load_encoder",
        "register_with_open_clip",
    }
    for name in clip_text.__all__:
        assert getattr(clip_text, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such"):
        clip_text.no_such  # noqa: B018


def test_what_has_learnt_has_another_fingerprint_and_poisons_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_TEXT_CACHE", str(tmp_path))
    encoder = Encoder(tiny_checkpoint(), device="cpu", runtime="openvino")
    before = encoder.fingerprint
    encoder.encode_text(["狗"])
    with torch.no_grad():
        for weight in encoder.model.visual.parameters():
            weight.add_(torch.randn_like(weight))
    picture = Image.new("RGB", (40, 40), "red")
    learnt = encoder.encode_image([picture])  # its graph is made now, and kept
    assert encoder.fingerprint != before
    untouched = Encoder(tiny_checkpoint(), device="cpu", runtime="openvino")
    assert untouched.fingerprint == before
    exact = Encoder(tiny_checkpoint(), device="cpu", runtime="torch").encode_image([picture])
    np.testing.assert_allclose(untouched.encode_image([picture]), exact, rtol=0, atol=1e-5)
    assert np.abs(learnt - exact).max() > 0.01
