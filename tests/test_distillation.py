"""Teaching tiny text towers by tiny teachers, for real."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import VOCABULARY, bert_tokenizer, tiny_checkpoint, tiny_tokenizer
from torch.nn.functional import normalize
from transformers import AutoTokenizer, BertConfig, BertModel, TrainerCallback

from clip_text import Encoder
from clip_text.checkpoints import load_text_tower, save_checkpoint
from clip_text.data.parallel import read_parallel
from clip_text.errors import CheckpointError, DataError
from clip_text.losses import cosine_distillation, multi_positive_contrastive
from clip_text.training.distillation import (
    DistillationModel,
    DistillationRecipe,
    DistillationTrainer,
    Examination,
    choose_pooler,
)
from clip_text.training.lessons import LengthGroupedBatches, Lessons
from clip_text.training.students import make_student, new_student, save_student
from clip_text.training.teachers import (
    MeanTeacher,
    PairTeacher,
    SentenceTransformersTeacher,
    load_teacher,
    teacher_rows,
)
from clip_text.training.trainer import NonFiniteLossError

ZH = [
    *("红色的心", "一只狗", "三只猫在跑", "大树", "黄花", "鸟在天上飞", "水", "白马坐在草地上"),
    *("小鱼", "人跑", "蓝圆", "绿方", "黑星", "心和花", "地上的狗看人", "飞"),
]
EN = [f"red dog {'cat ' * (at % 3)}{at}" for at in range(len(ZH))]
WIDTH = 12


NUMBER = len(ZH)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Towers as small as these are slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unit_rows(number=NUMBER, width=WIDTH, seed=0):
    rows = np.random.default_rng(seed).standard_normal((number, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def a_recipe(**changes):
    numbers = {"epochs": 1, "batch_size": 4, "learning_rate": 3e-3, "warmup_steps": 0}
    numbers |= {"bf16": False, "evaluations": 1, "token_dropout": 0.0}
    return DistillationRecipe(**numbers | changes)


class Run:
    """Sixteen sentences with the rows of a made-up teacher, and a Trainer over both."""

    def __init__(self, folder, recipe=None, *, pooler="mean", rows=None, embed_dim=WIDTH):
        self.recipe = recipe or a_recipe()
        tokenizer = tiny_tokenizer()
        rows = unit_rows() if rows is None else rows
        self.lessons = Lessons(tokenizer, {"zh": ZH}, rows)
        self.student = new_student((2, 32), tokenizer, embed_dim, pooler=pooler)
        torch.manual_seed(0)
        self.model = DistillationModel(self.student.tower, WIDTH, self.recipe)
        self.examination = Examination(self.lessons, EN)
        self.trainer = DistillationTrainer(
            self.model, self.lessons, self.examination, self.recipe, folder
        )

    def state(self):
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


def equal(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])] == []


class Probe(TrainerCallback):
    def __init__(self, look):
        self.look = look

    def on_step_end(self, args, state, control, **kwargs):
        self.look(state)


@pytest.mark.parametrize("embed_dim", [WIDTH, 10])
def test_overfits_sixteen_pairs(embed_dim, tmp_path):
    """With its own projection, or through ``to_teacher``, folded into it at the end."""
    run = Run(tmp_path, a_recipe(epochs=40, batch_size=16), embed_dim=embed_dim)
    before = run.examination.measure(run.model.eval())
    run.trainer.fit()
    after = run.examination.measure(run.model.eval())
    assert before["recall@1"] < 0.5
    assert after == {"recall@1": 1.0, "recall@5": 1.0, "recall@10": 1.0}
    tokens = run.lessons.tokenizer(ZH)
    with torch.no_grad():
        expected = run.model.encode(tokens)
        tower = run.model.fold()
        assert tower.output_dim == WIDTH
        assert run.model.to_teacher is None
        torch.testing.assert_close(tower(tokens), expected, atol=1e-5, rtol=1e-5)
    if embed_dim == WIDTH:
        cosines = (normalize(expected, dim=-1) * torch.from_numpy(unit_rows())).sum(1)
        assert cosines.mean() > 0.9


def test_the_loss_is_the_one_said():
    run = Run("unused", a_recipe(contrastive=0.3, logit_scale=7.0))
    batch = run.lessons.collate([run.lessons[at] for at in range(4)])
    batch["teacher"][1] = batch["teacher"][3]  # the same sentence, translated twice
    model = run.model.eval()
    out = model(**batch)
    features, teacher = model.encode(batch["tokens"]), batch["teacher"]
    same = torch.eye(4).bool()
    same[1, 3] = same[3, 1] = True
    near = cosine_distillation(features, teacher)
    told = multi_positive_contrastive(features, teacher, same, torch.tensor(7.0))
    torch.testing.assert_close(out["loss"], near + 0.3 * told)
    torch.testing.assert_close(out["distillation"], near.detach())
    # by hand, for the first half
    cosines = torch.cosine_similarity(features, teacher)
    torch.testing.assert_close(near, 1 - cosines.mean())
    alone = DistillationModel(run.student.tower, WIDTH, a_recipe(contrastive=0)).eval()(**batch)
    assert alone.keys() == {"loss", "distillation"}
    torch.testing.assert_close(alone["loss"], near)


def test_silent_rows_teach_nothing(tmp_path):
    rows = unit_rows()
    rows[::2] = 0
    run = Run(tmp_path, rows=rows)
    whole = run.lessons.collate([run.lessons[at] for at in range(8)])
    known = run.lessons.collate([run.lessons[at] for at in (1, 3, 5, 7)])
    model = run.model.eval()
    torch.testing.assert_close(model(**whole)["loss"], model(**known)["loss"])
    silent = run.lessons.collate([run.lessons[at] for at in (0, 2)])
    loss = model(**silent)["loss"]
    loss.backward()
    assert float(loss.detach()) == 0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert not [each for each in gradients if each.abs().sum() > 0]
    run.trainer.fit()  # and it does not break the run
    assert run.trainer.state.global_step == 4


def test_padding_changes_neither_loss_nor_recall():
    run = Run("unused")
    model = run.model.eval()
    batch = run.lessons.collate([run.lessons[at] for at in range(6)])
    wider = dict(batch, tokens=torch.nn.functional.pad(batch["tokens"], (0, 5)))
    torch.testing.assert_close(model(**wider)["loss"], model(**batch)["loss"])
    assert run.examination.measure(model, 1) == run.examination.measure(model, 16)


def test_dropped_tokens_are_hidden_in_training_only():
    model = Run("unused", a_recipe(token_dropout=0.999999)).model
    seen = []
    model.tower.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens, teacher = tiny_tokenizer()(ZH[:2]), torch.from_numpy(unit_rows(2))
    for training in (True, False):
        model.train(training)(tokens, teacher)
    assert torch.equal(seen[0][:, 0], tokens[:, 0]), "[CLS] stays"
    assert (seen[0][:, 1:] == 0).all()
    assert torch.equal(seen[1], tokens)


class PowerCut(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize(("stop", "resumed_from"), [(3, 2), (7, 6), (1, 0)])
def test_a_resumed_run_equals_an_uninterrupted_one(stop, resumed_from, tmp_path):
    """Four steps an epoch, three epochs, dropout on; equal bit for bit."""
    recipe = a_recipe(epochs=3, evaluations=6, token_dropout=0.2, warmup_steps=2, seed=5)
    whole = Run(tmp_path / "whole", recipe)
    whole.trainer.fit()

    def cut(state):
        if state.global_step == stop:
            raise PowerCut

    broken = Run(tmp_path / "broken", recipe)
    broken.trainer.add_callback(Probe(cut))
    with pytest.raises(PowerCut):
        broken.trainer.fit()
    steps = []
    again = Run(tmp_path / "broken", recipe)
    again.trainer.add_callback(Probe(lambda state: steps.append(state.global_step)))
    again.trainer.fit()
    assert steps == list(range(resumed_from + 1, 13))
    assert equal(again.state(), whole.state())
    logged = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "broken")
    ]
    steps = [[(line["step"], "eval_recall@1" in line) for line in lines] for lines in logged]
    assert steps[0] == steps[1]


def test_a_trial_is_the_beginning_of_the_run(tmp_path):
    """So the chosen pooler loses nothing: equal bit for bit to a run with that pooler."""
    recipe = a_recipe(epochs=3, evaluations=2, trial_steps=5)
    whole = Run(tmp_path / "whole", recipe, pooler="max")
    whole.trainer.fit()
    made = []

    def make(pooler):
        run = Run(tmp_path / pooler, recipe, pooler=pooler)
        made.append((pooler, run.state()))
        return run.trainer

    best, found = choose_pooler(make)
    assert [pooler for pooler, _ in made] == ["cls", "mean", "max"]
    assert equal(made[0][1], made[1][1])
    assert equal(made[0][1], made[2][1])
    assert found[best]["recall@1"] == max(each["recall@1"] for each in found.values())
    assert found == choose_pooler(make)[1]  # kept, not run again
    state = json.loads((tmp_path / "max/checkpoint-5/trainer_state.json").read_text())
    assert state["global_step"] == 5
    on = Run(tmp_path / "max", recipe, pooler="max")
    steps = []
    on.trainer.add_callback(Probe(lambda state: steps.append(state.global_step)))
    on.trainer.fit()
    assert steps == list(range(6, 13))
    weights = {
        step: tmp_path / f"{name}/checkpoint-12" for step, name in enumerate(("whole", "max"))
    }
    both = [(folder / "model.safetensors").read_bytes() for folder in weights.values()]
    assert both[0] == both[1]


def test_norms_and_biases_do_not_decay(tmp_path):
    run = Run(tmp_path)
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    groups = run.trainer.create_optimizer().param_groups
    decay = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay.keys() == set(names.values())
    for name, value in decay.items():
        vector = name.endswith("bias") or "LayerNorm" in name
        assert value == (0.0 if vector else 0.05), name


def test_a_broken_weight_stops_the_run_and_names_the_step(tmp_path):
    run = Run(tmp_path)
    with torch.no_grad():
        run.model.tower.proj.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteLossError, match="got nan at step 1"):
        run.trainer.fit()


def test_batches_are_of_like_length_and_the_epoch_s_own():
    tokenizer = tiny_tokenizer()
    source = random.Random(0)
    texts = ["红" * source.randint(1, 12) for _ in range(64)]
    lessons = Lessons(tokenizer, {"zh": texts, "ja": texts}, unit_rows(64))
    sampler = LengthGroupedBatches(lessons, 8, seed=3)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert len(first) == len(sampler) == 16
    assert sorted(at for batch in first for at in batch) == list(range(128))
    spread = [len({len(lessons.token_ids[at]) for at in batch}) for batch in first]
    assert np.mean(spread) < 3  # of twelve lengths
    assert {len(lessons.token_ids[batch[0]]) for batch in first[:4]} != {3}
    sampler.set_epoch(1)
    assert list(sampler) != first
    # the row is that of the sentence, in both languages
    for at in (0, 5, 63):
        assert np.array_equal(lessons[at][1], lessons[64 + at][1])
    uneven = LengthGroupedBatches(lessons, 8, {"zh": 3, "ja": 1})
    drawn = [at for batch in uneven for at in batch]
    assert sum(at < 64 for at in drawn) == 96
    assert len(set(drawn)) == 64 + 32
    with pytest.raises(ValueError, match=r"expected a weight above 0 for each of zh, ja, got"):
        LengthGroupedBatches(lessons, 8, {"zh": 1})


def test_recall_by_hand():
    """Three sentences at known places; equal originals answer each other."""
    run = Run("unused")
    rows = np.eye(3, WIDTH, dtype=np.float32)
    lessons = Lessons(run.lessons.tokenizer, {"a": ZH[:3], "b": ZH[3:6]}, rows)
    found = {"a": [1, 0, 2], "b": [0, 1, 2]}  # where each language's sentences point

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def encode(self, tokens):
            where = [lessons.token_ids.index([int(i) for i in row if i]) for row in tokens]
            points = [*found["a"], *found["b"]]
            return torch.from_numpy(rows[[points[at] for at in where]]) * 3

    different = Examination(lessons, ["x", "y", "z"], (1, 3)).measure(Fixed())
    assert different["a_recall@1"] == pytest.approx(1 / 3)
    assert different["b_recall@1"] == 1.0
    assert different["recall@1"] == pytest.approx(2 / 3)
    assert different["recall@3"] == 1.0
    same = Examination(lessons, ["x", "x", "z"], (1,)).measure(Fixed())
    assert same["a_recall@1"] == 1.0


# ---- teachers


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A plain Hugging Face encoder with random weights."""
    folder = tmp_path_factory.mktemp("plain")
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(VOCABULARY), intermediate_size=24, initializer_range=0.3, **shape
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


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
    rows = teacher_rows(teacher, texts, tmp_path, on_progress=done.append)
    assert sorted(teacher.calls) == ["", "a cat", "dog"]
    assert sum(done) == 3
    expected = [[3 / 10**0.5, 1 / 10**0.5, 0], [0, 0, 0]]
    np.testing.assert_allclose(rows[:2], expected, rtol=1e-6)
    assert np.array_equal(rows[0], rows[2])
    again = teacher_rows(teacher, texts[::-1], tmp_path)
    assert len(teacher.calls) == 3
    assert np.array_equal(again, rows[::-1])
    assert len(list(tmp_path.iterdir())) == 1  # and nothing half-written
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


def test_broken_lessons_are_refused():
    rows = unit_rows()
    rows[3, 0] = np.nan
    for broken, message in [
        (rows, r"expected finite rows .*, got NaN or infinity in 1 of 16, the first at 3\. Set"),
        (unit_rows(width=0), r"expected the teacher's rows as \[n, width\], got \[16, 0\]\. Use"),
        (unit_rows(15), r"expected a sentence in zh for each of 15 rows .*, got 16\. Pair"),
    ]:
        with pytest.raises(DataError, match=message):
            Lessons(tiny_tokenizer(), {"zh": ZH}, broken)
    with pytest.raises(DataError, match=r"expected sentences to learn from, got none\. Check"):
        Lessons(tiny_tokenizer(), {}, unit_rows())


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


def test_students():
    tokenizer = tiny_tokenizer()
    one = make_student("tiny", tokenizer, 6, pooler="max", seed=1)
    assert one.tower.width == 128
    assert one.tower.pooler == "max"
    assert one.tower.context_length == tokenizer.context_length
    assert one.tower(tokenizer(["狗"])).shape == (1, 6)
    other = make_student("tiny", tokenizer, 6, pooler="cls", seed=1)
    assert equal(one.tower.state_dict(), other.tower.state_dict())
    with pytest.raises(CheckpointError, match=r"expected a size \(tiny, mini, .*got 'huge'\. Ch"):
        make_student("huge", tokenizer, 6)
    with pytest.raises(ValueError, match=r"expected size tiny, .*, got 'huge'\. Choose"):
        new_student("huge", tokenizer, 6)


# ---- what comes out


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


# ---- sentences


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_parallel_sentences_of_every_form(tmp_path):
    lists = write(
        tmp_path / "a.jsonl",
        '{"en": ["a dog", "dogs"], "zh": ["狗", "群狗"], "id": 3}\n\n{"en": "cat", "zh": "猫"}\n',
    )
    found = read_parallel(lists, ["en", "zh"])
    assert found.by_language == {"en": ["a dog", "dogs", "cat"], "zh": ["狗", "群狗", "猫"]}
    assert found.groups == [0, 0, 1]
    assert found.first_of_each().by_language == {"en": ["a dog", "cat"], "zh": ["狗", "猫"]}
    for name, mark in (("b.csv", ","), ("b.TSV", "\t")):
        table = f'zh{mark}x{mark}en\n狗{mark}{mark}"a{mark} dog"\n猫{mark}1{mark}cat\n'
        found = read_parallel(write(tmp_path / name, "\ufeff" + table), ["en", "zh"])
        assert found.by_language == {"en": [f"a{mark} dog", "cat"], "zh": ["狗", "猫"]}
        assert found.groups == [0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", r"expected parallel sentences in .*a\.jsonl, got none\. Check"),
        ("a.csv", "en,zh\n", r"expected parallel sentences in .*a\.csv, got none\. Check"),
        (
            "a.jsonl",
            '{"en": ["a"], "zh": ["b"]}\n{"en": ["a", "b"], "zh": ["c"]}',
            r"expected equally many .*, line 2, got 2 in en, 1 in zh\. Pair",
        ),
        ("a.jsonl", '{"en": "a"}', r"expected a field 'zh' in .*, line 1, got none\. .*: en\."),
        ("a.tsv", "en\tde\na\tb", r"expected a field 'zh' in .*, line 2, got none\. .*: en, de\."),
        ("a.jsonl", '{"en": "a", "zh": 3}', r"expected a sentence or a list .*, got int\. Mend"),
        ("a.jsonl", '{"en": "a", "zh": " "}', r"expected words in 'zh' of .*, line 1, got an em"),
        ("a.jsonl", '{"en": [], "zh": []}', r"expected words in 'en' of .*, got an empty list"),
        ("a.jsonl", "[1]", r"expected a JSON object in .*, line 1, got list\. Mend"),
        ("a.csv", "en,zh\na,b,c", r"expected 2 fields in .*, line 2, .*, got 3\. Quote"),
        ("a.csv", "en,en,zh\na,b,c", r"expected one column 'en' in the header .*, got 2\. Ren"),
        ("a.csv", 'en,zh\n"a,b', r"expected a table in .*, got a broken line 2"),
        ("a.txt", "a b", r"expected a \.jsonl, \.csv or \.tsv file .*, got .*a\.txt\. Write"),
    ],
)
def test_broken_sentences_are_refused(name, text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_parallel(write(tmp_path / name, text), ["en", "zh"])


# ---- the command


@pytest.fixture
def arguments(tmp_path, encoder_folder):
    tiny_tokenizer().save(tmp_path / "tokenizer")
    pairs = zip(EN, ZH, ZH[::-1], strict=True)
    lines = [json.dumps({"en": [a, a], "zh": [b, b], "ja": [c, c]}) for a, b, c in pairs]
    data = write(tmp_path / "pairs.jsonl", "\n".join(lines))
    return [
        *("train", "distill", data, "--from", "en", "--to", "zh", "--out", tmp_path / "out"),
        *("--teacher", encoder_folder, "--student", "tiny", "--cache", tmp_path / "cache"),
        *("--tokenizer", tmp_path / "tokenizer", "--batch-size", 8, "--epochs", 2),
        *("--trial-steps", 2, "--evaluations", 2),
    ]


def test_the_command(arguments, run, tmp_path):
    code, stdout, stderr = run(*arguments, "--json")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert report["candidates"] == report["queries"] == 1  # a tenth of sixteen lines
    assert report["pairs"] == 30
    assert report["known_originals"] == 0
    assert report["recall@1"] == 1.0  # among one
    assert {f"trial_{name}_recall@1" for name in ("cls", "mean", "max")} <= report.keys()
    assert "2 steps each, 4 of them for the two not chosen" in stderr
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(report["model"], device="cpu", local_files_only=True)
    assert model.encode(ZH).shape == (16, 16)
    chosen = tmp_path / "out" / report["pooler"]
    logged = [json.loads(line) for line in (chosen / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "eval_recall@1" in line][-1] == report["steps"] == 6
    # once more: nothing is trained, the same is said
    code, stdout, _ = run(*arguments)
    assert code == 0
    assert "recall@1 100.0%" in stdout
    assert str(tmp_path / "out" / "model") in stdout
    # another run does not fit into the folder
    code, _, stderr = run(*arguments, "--seed", 3)
    assert code == 1
    assert "got another seed, sentences. Name another folder" in stderr


def test_the_command_with_a_pair_and_two_languages(arguments, run, tmp_path, tiny_folder):
    arguments += ["--val", arguments[2], "--pooler", "cls", "--to", "zh=2,ja=1"]
    code, stdout, stderr = run(*arguments, "--teacher", tiny_folder)
    assert code == 0, stderr
    assert "(16 candidates, 32 queries)" in stdout
    assert "zh       recall@1" in stdout
    assert "16 of the candidates were learnt from, too" in stdout
    encoder = Encoder.from_pretrained(tmp_path / "out" / "model", device="cpu")
    image = encoder.encode_image(pictures())
    assert encoder.encode_text(["狗"]).shape == (1, image.shape[1])
    assert encoder.checkpoint.config.pooler == "cls"


def test_the_command_says_what_is_wrong(arguments, run, tmp_path):
    for more, wrong in [
        (("--to", "fr"), "expected a field 'fr'"),
        (("--teacher", "nowhere"), "got 'nowhere'"),
        (("--student", "huge"), "expected a size (tiny, mini"),
    ]:
        code, _, stderr = run(*arguments, *more)
        assert code == 1
        assert wrong in stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()
    for wrong in ("zh=x", "", "zh=2,ja"):
        code, _, stderr = run(*arguments, "--to", wrong)
        assert code == 2
        assert "expected languages like" in stderr


def test_help_by_path():
    script = Path(__file__).parents[1] / "scripts" / "distill_text.py"
    command = [sys.executable, script, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "clip-text train distill captions.jsonl" in done.stdout
