"""Teaching tiny text towers by tiny teachers, for real."""

import json
import random

import numpy as np
import pytest
import torch
from models import tiny_tokenizer
from torch.nn.functional import normalize
from transformers import TrainerCallback

from clip_text.errors import CheckpointError, DataError
from clip_text.losses import cosine_distillation, multi_positive_contrastive
from clip_text.training.distillation import (
    DistillationModel,
    DistillationRecipe,
    DistillationTrainer,
    Examination,
    choose_pooler,
)
from clip_text.training.lessons import Lessons, draw_languages
from clip_text.training.students import make_student, new_student
from clip_text.training.trainer import NonFiniteLossError

ZH = [
    *("红色的心", "一只狗", "三只猫在跑", "大树", "黄花", "鸟在天上飞", "水", "白马坐在草地上"),
    *("小鱼", "人跑", "蓝圆", "绿方", "黑星", "心和花", "地上的狗看人", "飞"),
]
EN = [f"red dog {'cat ' * (at % 3)}{at}" for at in range(len(ZH))]
WIDTH = 12


NUMBER = len(ZH)


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


def test_the_loss_is_the_one_said(tmp_path):
    run = Run(tmp_path, a_recipe(contrastive=0.3, logit_scale=7.0))
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


def test_padding_changes_neither_loss_nor_recall(tmp_path):
    run = Run(tmp_path)
    model = run.model.eval()
    batch = run.lessons.collate([run.lessons[at] for at in range(6)])
    wider = dict(batch, tokens=torch.nn.functional.pad(batch["tokens"], (0, 5)))
    torch.testing.assert_close(model(**wider)["loss"], model(**batch)["loss"])
    assert run.examination.measure(model, 1) == run.examination.measure(model, 16)


def test_dropped_tokens_are_hidden_in_training_only(tmp_path):
    model = Run(tmp_path, a_recipe(token_dropout=0.999999)).model
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
    sampler = draw_languages(lessons, 8, seed=3)
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
    uneven = draw_languages(lessons, 8, {"zh": 3, "ja": 1})
    drawn = [at for batch in uneven for at in batch]
    assert sum(at < 64 for at in drawn) == 96
    assert len(set(drawn)) == 64 + 32
    with pytest.raises(ValueError, match=r"expected a weight above 0 for each of zh, ja, got"):
        draw_languages(lessons, 8, {"zh": 1})


def test_recall_by_hand(tmp_path):
    """Three sentences at known places; equal originals answer each other."""
    run = Run(tmp_path)
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
    # a sentence that translates two originals points at one of them, and both are right
    lessons = Lessons(run.lessons.tokenizer, {"a": [ZH[0], ZH[0], ZH[1]]}, rows)
    found["a"] = [1, 1, 2]
    assert Examination(lessons, ["x", "y", "z"], (1,)).measure(Fixed())["recall@1"] == 1.0


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
