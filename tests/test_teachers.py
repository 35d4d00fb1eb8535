"""Teachers against the libraries they come from, and what their students are good for."""

import json
import random

import numpy as np
import pytest
import torch
from models import VOCABULARY, bert_tokenizer, tiny_checkpoint, tiny_tokenizer
from test_distillation import EN, ZH, a_recipe, equal
from torch.nn.functional import normalize
from transformers import AutoTokenizer, BertConfig, BertModel

from clip_text import Encoder
from clip_text.checkpoints import load_text_tower, save_checkpoint
from clip_text.errors import CheckpointError, DataError
from clip_text.training.distillation import (
    DistillationModel,
    DistillationTrainer,
    Examination,
)
from clip_text.training.lessons import Lessons
from clip_text.training.students import new_student, save_student
from clip_text.training.teacher_rows import teacher_rows
from clip_text.training.teachers import (
    MeanTeacher,
    PairTeacher,
    SentenceTransformersTeacher,
    load_teacher,
)


def plain_encoder(folder):
    """Save a plain Hugging Face encoder with random weights; returns its folder."""
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(VOCABULARY), intermediate_size=24, initializer_range=0.3, **shape
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return plain_encoder(tmp_path_factory.mktemp("plain"))


def st_folder(encoder_folder, out, pooling):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    backbone = modules.Transformer(str(encoder_folder), max_seq_length=9)
    parts = [backbone, modules.Pooling(16, pooling), modules.Normalize()]
    library.SentenceTransformer(modules=parts, device="cpu").save(str(out))
    return library.SentenceTransformer(str(out), device="cpu", local_files_only=True)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_rows_are_those_of_sentence_transformers(pooling, encoder_folder, tmp_path):
    theirs = st_folder(encoder_folder, tmp_path / "st", pooling)
    teacher = load_teacher(str(tmp_path / "st"))
    kind = MeanTeacher if pooling == "mean" else SentenceTransformersTeacher
    assert type(teacher) is kind
    assert not isinstance(teacher, PairTeacher)
    texts = [*ZH, *EN, "a very long sentence of many words 1 2 3 4 5 6 7 8 9 0 a b c d"]
    rows = teacher_rows(teacher, texts, tmp_path / "cache", batch_size=5)
    expected = theirs.encode(texts, normalize_embeddings=True)
    assert np.abs(rows - expected).max() < 1e-5
    assert teacher.width == 16
    assert np.std(expected, axis=0).max() > 0.05


def test_a_plain_encoder_is_pooled_by_its_mean(encoder_folder):
    teacher = load_teacher(str(encoder_folder))
    model, tokenizer = (
        BertModel.from_pretrained(encoder_folder),
        AutoTokenizer.from_pretrained(encoder_folder),
    )
    with torch.inference_mode():
        states = model(**tokenizer(["红色的心"], return_tensors="pt")).last_hidden_state
    expected = normalize(states[0].mean(0), dim=0).numpy()
    rows = teacher.encode(["红色的心", "一只很长的狗在地上跑"])
    assert np.abs(rows[0] - expected).max() < 1e-5


class Fake:
    """A teacher that counts."""

    name, digest, width = "fake", "1", 3

    def __init__(self, **changes):
        self.calls = []
        vars(self).update(changes)

    def encode(self, texts):
        self.calls += texts
        return np.array([[len(text), 1, 0] if text else [0, 0, 0] for text in texts], np.float32)


def test_rows_are_computed_once_and_are_unit_rows(tmp_path):
    teacher, done = Fake(), []
    texts = ["dog", "", "dog", "a cat"]
    rows = teacher_rows(teacher, texts, tmp_path, progress=lambda *told: done.append(told))
    assert sorted(teacher.calls) == ["", "a cat", "dog"]
    assert done[-1] == ("teacher", 3, 3)
    expected = [[3 / 10**0.5, 1 / 10**0.5, 0], [0, 0, 0]]
    np.testing.assert_allclose(rows[:2], expected, rtol=1e-6)
    assert np.array_equal(rows[0], rows[2])
    again = teacher_rows(teacher, texts[::-1], tmp_path)
    assert len(teacher.calls) == 3
    assert np.array_equal(again, rows[::-1])
    # and nothing half-written
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npy"]
    teacher_rows(teacher, ["dog"], tmp_path)
    teacher_rows(Fake(digest="2", calls=teacher.calls), texts, tmp_path)
    assert len(teacher.calls) == 3 + 1 + 3


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (Fake(width=0), r"expected a teacher with rows of width 1 or more, got 0 from fake\. Use"),
        (Fake(width=4), r"expected rows of shape \[1, 4\] from fake, got \[1, 3\]\. One row"),
        (
            Fake(encode=lambda texts: np.full((len(texts), 3), np.nan)),
            r"expected finite rows from fake, got NaN or infinity for 'dog' .*\. Leave",
        ),
    ],
)
def test_a_broken_teacher_is_refused(teacher, message, tmp_path):
    with pytest.raises(DataError, match=message):
        teacher_rows(teacher, ["dog"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"expected a checkpoint folder .*, got 'nowhere'"),
        ("open_clip:ViT-B-32", r"expected a model and its weights, like .*, got 'open_clip:ViT-B"),
        ("open_clip:No-Such/openai", r"expected a model of open_clip, got 'open_clip:No-Such"),
        ("EMPTY", r"expected a text encoder with its tokenizer in .*\. Name a whole folder"),
        ("EMPTY/x.zip", r"expected a zip of a sentence encoder at .*\. Download it again"),
    ],
)
def test_no_teacher_is_an_error_of_ours(name, message, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match=message):
        load_teacher(name.replace("EMPTY", str(tmp_path)))


def overfitted(folder, rows, tokenizer=None):
    """A tower that gives some rows for ``ZH``."""
    tokenizer = tokenizer or tiny_tokenizer()
    lessons = Lessons(tokenizer, {"zh": ZH}, rows)
    student = new_student((2, 48), tokenizer, rows.shape[1])
    recipe = a_recipe(epochs=60, batch_size=16, contrastive=0.0)
    model = DistillationModel(student.tower, rows.shape[1], recipe)
    exam = Examination(lessons, EN)
    DistillationTrainer(model, lessons, exam, recipe, folder).fit()
    assert exam.measure(model.eval())["recall@1"] == 1.0
    model.fold()
    return student


def pictures():
    colours = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)]
    return [np.full((32, 32, 3), colour, np.uint8) for colour in colours]


def test_a_pair_teaches_a_tower_for_its_own_pictures(tmp_path):
    """The new language's text finds the picture that the old one's does."""
    source = random.Random(0)
    words = [*"abcdefgh1234", "dog", "cat", "red", "run", "mask"]
    english = [" ".join(source.sample(words, source.randint(2, 5))) for _ in ZH]
    save_checkpoint(tiny_checkpoint(), tmp_path / "clip")
    before = Encoder.from_pretrained(tmp_path / "clip", device="cpu")
    teacher = load_teacher(str(tmp_path / "clip"))
    assert isinstance(teacher, PairTeacher)
    rows = teacher_rows(teacher, english, tmp_path / "cache")
    assert np.abs(rows - before.encode_text(english)).max() < 1e-6
    student = overfitted(tmp_path / "run", rows)
    assert save_student(student, teacher, tmp_path / "out") == "pair"
    after = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    assert np.array_equal(after.encode_image(pictures()), before.encode_image(pictures()))
    cosines = (after.encode_text(ZH) * before.encode_text(english)).sum(1)
    assert cosines.min() > 0.97
    found = after.encode_text(ZH) @ after.encode_image(pictures()).T
    expected = before.encode_text(english) @ before.encode_image(pictures()).T
    assert np.abs(found - expected).max() < 0.1
    second, first = np.sort(expected, axis=1)[:, -2:].T
    clear = first - second > 0.02
    assert len(set(expected[clear].argmax(1))) == 2  # not one picture for every text
    assert (found.argmax(1) == expected.argmax(1))[clear].all()
    assert after.logit_scale == before.logit_scale


def test_a_clip_of_open_clip_teaches(tmp_path, monkeypatch):
    """Built from its own config, with random weights in a file."""
    import open_clip

    config = {
        "embed_dim": 20,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16}
        | {"patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2}
        | {"layers": 1},
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "test-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "configs")
    torch.manual_seed(0)
    theirs = open_clip.create_model("test-clip").eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    teacher = load_teacher(f"open_clip:test-clip/{tmp_path / 'weights.pt'}")
    assert isinstance(teacher, PairTeacher)
    assert teacher.width == 20
    rows = teacher_rows(teacher, EN, tmp_path / "cache")
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("test-clip")(EN)
        expected = normalize(theirs.encode_text(tokens), dim=-1).numpy()
    assert np.abs(rows - expected).max() < 1e-5
    student = new_student((2, 32), tiny_tokenizer(), 20)
    assert save_student(student, teacher, tmp_path / "out") == "pair"
    pair = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    inputs = pair.to_input(np.stack([pair.load_pixels(each) for each in pictures()]))
    with torch.inference_mode():
        expected = normalize(theirs.encode_image(inputs), dim=-1).numpy()
    assert np.abs(pair.encode_image(pictures()) - expected).max() < 1e-5
    mean = torch.tensor(theirs.visual.preprocess_cfg["mean"])
    torch.testing.assert_close(torch.tensor(pair.checkpoint.preprocessing.mean), mean)


def test_without_pictures_it_is_a_folder_for_sentence_transformers(encoder_folder, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    student = new_student((2, 32), tiny_tokenizer(), 16, pooler="max")
    teacher = load_teacher(str(encoder_folder))
    assert save_student(student, teacher, tmp_path / "out") == "sentence-transformers"
    model = library.SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    with torch.inference_mode():
        expected = normalize(student.tower.eval()(student.tokenizer(ZH)), dim=-1).numpy()
    assert np.abs(model.encode(ZH) - expected).max() < 1e-5
    # the backbone is where contrastive training, or more distillation, can start from
    again = load_text_tower(tmp_path / "out", 16, pooler="max")
    mine = student.tower.transformer.state_dict()
    assert equal(again.tower.transformer.state_dict(), mine)
    # and it can teach itself
    rows = load_teacher(str(tmp_path / "out")).encode(ZH)
    assert np.abs(rows - expected).max() < 1e-5
