"""Training tiny towers on cached image inputs, for real."""

import json
import math
from dataclasses import replace
from pathlib import Path
from threading import current_thread

import numpy as np
import pytest
import torch
from models import IMAGE_SIZE, VISION, tiny_checkpoint, tower_config
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from clip_text.data.batches import MixtureBatchSampler, Source
from clip_text.evaluation import retrieval
from clip_text.features import ahead, cached_features, module_digest
from clip_text.losses import (
    cosine_distillation,
    multi_positive_contrastive,
    sigmoid_contrastive,
)
from clip_text.storage import STAMP
from clip_text.towers import MAX_LOGIT_SCALE, build_model
from clip_text.training import trainer
from clip_text.training.contrastive import (
    ContrastiveLoss,
    ContrastiveModel,
    ContrastiveTrainer,
    fit_logit_bias,
)
from clip_text.training.image_tower import SplitImageTower, cropped_and_mirrored
from clip_text.training.recipe import Recipe
from clip_text.training.trainer import (
    NonFiniteLossError,
    Plumbing,
    join_processes,
    training_arguments,
)

CAPTIONS = ["红色的心", "一只狗", "two cats", "大树", "黄 花", "鸟在天上飞", "a red dog", "水"]
BLOCKS = 5  # of timm's test_efficientnet


def images(number=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


class Run:
    """Eight pictures with a caption each, a fresh tiny model, and a Trainer over both."""

    def __init__(
        self, folder, tail_blocks=0, recipe=None, *, per_batch=8, teacher=None, poison=None
    ):
        recipe = replace(recipe or self.recipe(), image=tail_blocks)
        self.checkpoint = tiny_checkpoint(vision="timm")
        self.pair = self.checkpoint.model
        split = SplitImageTower(self.pair.visual, tail_blocks)
        with torch.no_grad():
            stems = split.stem(images())
        # random weights make near-equal features of any picture; spread them
        self.stems = ((stems - stems.mean(0)) / stems.std(0).clamp(min=1e-3)).numpy()
        if poison is not None:
            self.stems[poison].flat[-1] = np.nan  # the first number alone marks a missing view
        captions = [{"zh": [text]} for text in CAPTIONS]
        self.sources = [Source(captions, [self.stems], {"zh": 1}, per_batch, 1)]
        dim = len(next(iter(teacher.values()))) if teacher else 0
        self.model = ContrastiveModel(
            self.pair, SplitImageTower(self.pair.visual, tail_blocks), recipe, dim
        )
        self.measured = []
        self.trainer = ContrastiveTrainer(
            self.model,
            self.sources,
            self.checkpoint.tokenizer,
            folder,
            self.validate,
            teacher=teacher,
        )

    @staticmethod
    def recipe(**changes):
        numbers = {"epochs": 1, "warmup_steps": 0, "bf16": False, "evaluations": 1}
        return Recipe(**numbers | {"learning_rate": 3e-3, "image_learning_rate": 1e-3} | changes)

    def validate(self):
        """Later is better, so that the last state is the one kept."""
        assert not self.model.training
        self.measured.append(self.trainer.state.global_step)
        return {"recall@10": float(self.trainer.state.global_step)}

    def state(self):
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def loss_and_recall(self, width=None):
        self.model.eval()
        texts = self.pair.text(self.checkpoint.tokenizer(CAPTIONS))[:, :width]
        pictures = self.model.images(torch.from_numpy(self.stems))[:, :width]
        scale = self.pair.logit_scale.exp()
        loss = multi_positive_contrastive(texts, pictures, torch.eye(8).bool(), scale)
        answers = [[at] for at in range(8)]
        unit = [nn.functional.normalize(rows, dim=-1).numpy() for rows in (texts, pictures)]
        both = (retrieval(*unit, answers), retrieval(*unit[::-1], answers))
        return float(loss), [measured.recall[1] for measured in both]


def equal(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])] == []


class Probe(TrainerCallback):
    """Looks at the model after every step."""

    def __init__(self, look):
        self.look = look

    def on_step_end(self, args, state, control, **kwargs):
        self.look(state)


@pytest.mark.parametrize("tail_blocks", [0, 2])
def test_overfits_eight_pairs(tail_blocks, tmp_path):
    run = Run(tmp_path, tail_blocks, Run.recipe(epochs=40))
    before, _ = run.loss_and_recall()
    frozen = run.state()
    run.trainer.fit()
    after, recall = run.loss_and_recall()
    assert before > 1.5  # ln 8 = 2.08 for a model that knows nothing
    assert after < 0.05
    assert recall == [1.0, 1.0]
    # what learned, and what did not, bit for bit; batch-norm statistics learn nowhere
    tail = tuple(
        f"pair.visual.trunk.{part}."
        for part in (*(f"blocks.{BLOCKS - 1 - at}" for at in range(2)), "conv_head", "bn2")
    )
    for name, tensor in run.model.state_dict().items():
        statistics = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        in_tail = tail_blocks and name.startswith(tail)
        learns = not statistics and (in_tail or not name.startswith("pair.visual.trunk."))
        if name.endswith("key.bias"):  # softmax does not see it: its gradient is rounding noise
            continue
        if "position" in name or "token_type" in name or "word_embeddings" in name:
            assert not torch.equal(tensor, frozen[name])
            continue
        assert torch.equal(tensor, frozen[name]) != learns, name


def test_what_is_trained_for_it_does_by_its_first_dimensions(tmp_path):
    alone, both = (
        Run(tmp_path / name, recipe=Run.recipe(epochs=40, matryoshka=widths))
        for name, widths in (("alone", ()), ("both", (5,)))
    )
    for run in (alone, both):
        run.trainer.fit()
        _, recall = run.loss_and_recall()
        assert recall == [1.0, 1.0]
    cut, recall = both.loss_and_recall(5)
    untrained, _ = alone.loss_and_recall(5)
    assert recall == [1.0, 1.0]
    assert cut < untrained / 3


@pytest.mark.parametrize("start", [MAX_LOGIT_SCALE - 1e-4, 7.0, -3.0])
def test_logit_scale_stays_within_clips_bounds(start, tmp_path):
    run = Run(tmp_path, recipe=Run.recipe(epochs=4, learning_rate=0.5))
    run.pair.logit_scale.data.fill_(start)
    seen = []
    run.trainer.add_callback(Probe(lambda state: seen.append(float(run.pair.logit_scale.detach()))))
    run.trainer.fit()
    assert len(seen) == 4
    assert all(0 <= value <= math.log(100) + 1e-6 for value in seen), seen


def test_parameter_groups(tmp_path):
    run = Run(
        tmp_path,
        2,
        Run.recipe(learning_rate=1e-3, image_learning_rate=2e-4, image_weight_decay=0.01),
    )
    optimizer = run.trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = (group["lr"], group["weight_decay"])
    groups = {names[key]: numbers for key, numbers in found.items()}
    assert set(groups) == {n for n, p in run.model.named_parameters() if p.requires_grad}
    decayed = {name for name, (_, decay) in groups.items() if decay}
    assert decayed
    assert not [n for n in decayed if n.endswith(".bias") or "LayerNorm" in n or "logit" in n]
    for name, (rate, decay) in groups.items():
        assert rate == (2e-4 if "trunk" in name else 1e-3), name
        matrix = dict(run.model.named_parameters())[name].ndim > 1
        assert decay == ((0.01 if "trunk" in name else 0.05) if matrix else 0.0), name
    assert groups["pair.logit_scale"] == (1e-3, 0.0)
    assert run.trainer.create_optimizer() is optimizer


def test_trunk_stays_in_evaluation_mode(tmp_path):
    run = Run(tmp_path, 2)
    run.model.train()
    assert run.model.training
    assert run.pair.text.training
    assert not any(module.training for module in run.pair.visual.trunk.modules())
    run.model.eval()
    assert not run.pair.text.training


@pytest.mark.parametrize("tail_blocks", [0, 2])
def test_a_nan_feature_stops_the_run_and_names_the_step(tail_blocks, tmp_path):
    sampler = MixtureBatchSampler(Run(tmp_path / "a", per_batch=2).sources)
    drawn = [draw.picture for batch in sampler for draw in batch]
    for step in (1, 3):
        run = Run(tmp_path / f"{step}", tail_blocks, per_batch=2, poison=drawn[2 * step - 1])
        with pytest.raises(NonFiniteLossError, match=rf"got nan at step {step}\. Lower"):
            run.trainer.fit()
        assert run.trainer.state.global_step == step - 1
        assert all(parameter.isfinite().all() for parameter in run.model.parameters())


class InterruptedError(Exception):  # noqa: A001
    """Stands for a power cut."""


@pytest.fixture(scope="module")
def uninterrupted():
    """What whole runs measured, and their last state, by number of evaluations."""
    return {}


@pytest.mark.parametrize(
    ("evaluations", "stop", "resumed_from"),
    [
        pytest.param(4, 5, 3, id="within the first epoch"),
        pytest.param(4, 11, 9, id="within a later epoch"),
        pytest.param(3, 5, 4, id="at the end of an epoch"),
        pytest.param(4, 2, 0, id="before the first checkpoint"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    evaluations, stop, resumed_from, tmp_path, uninterrupted
):
    """Four steps an epoch, three epochs, dropout on; equal bit for bit."""
    recipe = Run.recipe(epochs=3, evaluations=evaluations, seed=5, warmup_steps=2)
    generator = np.random.default_rng(0)
    teacher = {text: generator.standard_normal(6).astype(np.float32) for text in CAPTIONS[:6]}

    def make(folder):
        torch.manual_seed(5)
        return Run(tmp_path / folder, 1, recipe, per_batch=2, teacher=teacher)

    if evaluations not in uninterrupted:
        whole = make("whole")
        whole.trainer.fit()
        assert whole.measured[-1] == whole.trainer.state.global_step == 12
        uninterrupted[evaluations] = whole.measured, whole.state()
    measured, expected = uninterrupted[evaluations]

    def cut(state):
        if state.global_step == stop:
            raise InterruptedError

    broken = make("broken")
    broken.trainer.add_callback(Probe(cut))
    with pytest.raises(InterruptedError):
        broken.trainer.fit()

    # a checkpoint that was being written when the power went
    half = tmp_path / "broken" / f"checkpoint-{stop + 1}"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"")

    steps = []
    again = make("broken")
    again.trainer.add_callback(Probe(lambda state: steps.append(state.global_step)))
    again.trainer.fit()
    assert steps == list(range(resumed_from + 1, 13))
    assert equal(again.state(), expected)
    assert again.measured == [step for step in measured if step > resumed_from]
    if stop == 11:  # the same command once more trains nothing and ends up the same
        finished = make("broken")
        finished.trainer.fit()
        assert finished.measured == []
        assert equal(finished.state(), expected)


def test_the_best_state_is_kept_not_the_last(tmp_path):
    run = Run(tmp_path, recipe=Run.recipe(epochs=4, evaluations=4))
    states = []

    def worse_and_worse():
        states.append(run.state())
        return {"recall@10": 1.0 / len(states)}

    run.trainer.validate = worse_and_worse
    run.trainer.fit()
    assert len(states) == 4
    assert equal(run.state(), states[0])
    assert not equal(run.state(), states[-1])


def test_bf16_learns_and_leaves_no_trace_in_the_modules(tmp_path):
    run = Run(tmp_path, 2, Run.recipe(epochs=8, bf16=True))
    before, _ = run.loss_and_recall()
    run.trainer.fit()
    after, _ = run.loss_and_recall()
    assert after < before / 2
    assert {tensor.dtype for tensor in run.model.parameters()} == {torch.float32}
    assert not [module for module in run.pair.modules() if "forward" in vars(module)]


def test_a_frozen_trunk_without_blocks_can_be_trained(tmp_path):
    """tail_blocks=0 promises any timm tower, also one that does not come apart."""
    vision = {**VISION["timm"], "timm_model_name": "test_resnet"}
    split = SplitImageTower(build_model_of(vision).visual)
    with split.depthwise_in_fp32():
        assert split(split.stem(images(2))).shape == (2, 24)
    assert split.tail_blocks == 0


def build_model_of(vision):
    config = tower_config()
    return build_model(type(config)(24, vision, config.backbone)).eval()


@pytest.mark.parametrize("name", ["test_efficientnet", "tf_efficientnet_lite0"])
@torch.inference_mode()
def test_stem_and_tail_are_the_whole_trunk(name):
    torch.manual_seed(0)
    visual = build_model_of({**VISION["timm"], "timm_model_name": name}).visual
    for module in visual.modules():  # at their initial values, mistakes in batch norms go unseen
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    pictures = images(2)
    pooled, projected = visual.trunk(pictures), visual(pictures)
    assert pooled.std() > 0
    blocks = len(visual.trunk.blocks)
    for tail_blocks in range(blocks + 1) if name == "test_efficientnet" else (0, 2, blocks):
        split = SplitImageTower(visual, tail_blocks)
        stems = split.stem(pictures)
        assert (stems.ndim == 4) == bool(tail_blocks)
        torch.testing.assert_close(split.tail(stems), pooled, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(split(stems), projected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("vision", "tail_blocks", "message"),
    [
        (VISION["vit"], 0, "expected a timm trunk .*, got VisionTransformer"),
        (VISION["resnet"], 1, "expected a timm trunk .*, got ModifiedResNet"),
        ({**VISION["timm"], "timm_model_name": "test_resnet"}, 1, "got ResNet"),
        (VISION["timm"], 6, r"expected tail_blocks in 0\.\.5 .*, got 6"),
        (VISION["timm"], -1, r"expected tail_blocks in 0\.\.5 .*, got -1"),
    ],
)
def test_an_impossible_cut_is_refused(vision, tail_blocks, message):
    with pytest.raises(ValueError, match=message):
        SplitImageTower(build_model_of(vision).visual, tail_blocks)


def depthwise(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]


def test_depthwise_in_fp32_covers_the_tail_while_it_lasts():
    visual = build_model_of(VISION["timm"]).visual
    split = SplitImageTower(visual, 2)
    tail = depthwise(visual.trunk.blocks[-2:])
    assert tail
    hidden = torch.randn(1, tail[0].in_channels, 4, 4)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert tail[0](hidden).dtype == torch.bfloat16
        with split.depthwise_in_fp32():
            inside = tail[0](hidden.bfloat16())
            assert inside.dtype == torch.float32
            covered = [m for m in visual.modules() if "forward" in vars(m)]
            assert covered == tail
        assert tail[0](hidden).dtype == torch.bfloat16
    assert not [m for m in visual.modules() if "forward" in vars(m)]
    with pytest.raises(KeyError), split.depthwise_in_fp32():
        raise KeyError
    assert not [m for m in visual.modules() if "forward" in vars(m)]


def taught_model():
    checkpoint = tiny_checkpoint(vision="timm")
    split = SplitImageTower(checkpoint.model.visual)
    model = ContrastiveModel(checkpoint.model, split, Run.recipe(), 6).eval()
    texts = ["狗", "dog", "心"]
    return model, model(checkpoint.tokenizer(texts), split.stem(images(3)))


def test_the_teachers_loss_is_added():
    model, features = taught_model()
    positives, teacher = torch.eye(3).bool(), torch.randn(3, 6)
    alone = ContrastiveLoss(model.recipe)(features, positives)
    scale = model.pair.logit_scale.exp()
    contrastive = multi_positive_contrastive(
        features["texts"], features["images"], positives, scale
    )
    assert torch.equal(alone, contrastive)
    taught = cosine_distillation(model.to_teacher(features["texts"]), teacher)
    found = multi_positive_contrastive(
        teacher, model.to_teacher(features["images"]), positives, scale
    )
    loss = ContrastiveLoss(model.recipe, distillation=0.5)(features, positives, teacher)
    torch.testing.assert_close(loss, contrastive + 0.5 * taught + 0.25 * found)


def test_pictures_look_for_the_teachers_rows_where_it_speaks():
    model, features = taught_model()
    positives, teacher = torch.eye(3).bool(), torch.randn(3, 6)
    teacher[2] = 0  # it is silent on the third
    alone = ContrastiveLoss(model.recipe)(features, positives)
    loss = ContrastiveLoss(model.recipe)(features, positives, teacher)
    rows = model.to_teacher(features["images"][:2])
    found = multi_positive_contrastive(
        teacher[:2], rows, torch.eye(2).bool(), model.pair.logit_scale.exp()
    )
    taught = cosine_distillation(model.to_teacher(features["texts"][:2]), teacher[:2])
    torch.testing.assert_close(loss, alone + taught + found / 2)
    silent = ContrastiveLoss(model.recipe)(features, positives, torch.zeros(3, 6))
    assert torch.equal(silent, alone)


def test_dropped_tokens_are_hidden_in_training_only():
    checkpoint = tiny_checkpoint(vision="timm")
    split = SplitImageTower(checkpoint.model.visual)
    model = ContrastiveModel(checkpoint.model, split, Run.recipe(token_dropout=1 - 1e-9))
    seen = []
    checkpoint.model.text.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens = checkpoint.tokenizer(["红色的心", "two cats"])
    cached = split.stem(images(2))
    for training in (True, False):
        model.train(training)
        model(tokens, cached)
    assert (seen[0][:, 0] == tokens[:, 0]).all(), "[CLS] stays"
    assert (seen[0][:, 1:] == checkpoint.tokenizer.pad_id).all()
    assert torch.equal(seen[1], tokens)


def test_windows_of_a_stem_are_its_own_or_mirrored():
    stems = torch.arange(4 * 12 * 12.0).reshape(4, 1, 12, 12)
    torch.manual_seed(0)
    shapes, mirrored = set(), []
    for _ in range(40):
        window = cropped_and_mirrored(stems)
        shapes.add(tuple(window.shape[-2:]))
        for row, whole in zip(window, stems, strict=True):
            step = int(row[0, 0, 1] - row[0, 0, 0])
            straight = row.flip(-1) if step < 0 else row
            top, left = divmod(int(straight[0, 0, 0] - whole[0, 0, 0]), 12)
            height, width = straight.shape[-2:]
            assert torch.equal(straight, whole[:, top : top + height, left : left + width])
            mirrored.append(step < 0)
    assert shapes == {(a, b) for a in (10, 11, 12) for b in (10, 11, 12)}
    assert 0.35 < np.mean(mirrored) < 0.65


# Cached features


def pixels(at):
    return np.full((2, 2, 3), at, np.uint8)


def mean_of(stack):
    assert isinstance(stack, np.ndarray)
    rows = torch.from_numpy(stack).float().mean((1, 2))
    return rows * torch.tensor([1.0, 2.0, 0.5])


EXPECTED = np.array([[at, 2 * at, at / 2] for at in range(7)], np.float16)


class Loader:
    """Gives picture ``at``; counts; fails at one; lacks one."""

    def __init__(self, fail_at=None, lacks=None):
        self.fail_at, self.lacks, self.asked = fail_at, lacks, []

    def __call__(self, at):
        self.asked.append(at)
        if at == self.fail_at:
            raise OSError("disk gone")
        return None if at == self.lacks else pixels(at)


def cache(folder, key, load, done=None):
    heard = [] if done is None else done
    file = folder / "features" / "photos.0.npy"
    return cached_features(
        file, key, range(7), load, mean_of, batch_size=3, progress=lambda *told: heard.append(told)
    )


def test_features_are_computed_once(tmp_path):
    first, second, done = Loader(), Loader(), []
    rows = cache(tmp_path, {"b": 1, "a": 2}, first, done)
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, EXPECTED)
    assert sorted(first.asked) == list(range(7))
    assert done == [("pictures", number, 7) for number in (3, 6, 7, 7)]
    done.clear()
    again = cache(tmp_path, {"a": 2, "b": 1}, second, done)  # the same key in another order
    np.testing.assert_array_equal(again, EXPECTED)
    assert second.asked == []
    assert done == [("pictures", 7, 7)]
    assert isinstance(again, np.memmap)


def test_another_key_computes_anew(tmp_path):
    cache(tmp_path, "one", Loader(lacks=1))
    loader = Loader()
    np.testing.assert_array_equal(cache(tmp_path, "two", loader), EXPECTED)
    assert len(loader.asked) == 7


@pytest.mark.parametrize("lacks", [0, 1, 6])
def test_a_missing_picture_is_a_nan_row(lacks, tmp_path):
    rows = cache(tmp_path, "key", Loader(lacks=lacks))
    assert np.isnan(rows[lacks]).all()
    others = [at for at in range(7) if at != lacks]
    np.testing.assert_array_equal(rows[others], EXPECTED[others])


@pytest.mark.parametrize("older", [None, "key", "other"])
@pytest.mark.parametrize("fail_at", [0, 5])
def test_an_interrupted_computation_leaves_nothing_that_looks_complete(older, fail_at, tmp_path):
    if older:
        cache(tmp_path, older, Loader(lacks=2))
    if older != "key":
        with pytest.raises(OSError, match="disk gone"):
            cache(tmp_path, "key", Loader(fail_at=fail_at))
        loader = Loader()
        np.testing.assert_array_equal(cache(tmp_path, "key", loader), EXPECTED)
        assert len(loader.asked) == 7
    else:  # complete already: nothing is loaded, so nothing fails
        assert np.isnan(cache(tmp_path, "key", Loader(fail_at=fail_at))[2]).all()
    (folder,) = tmp_path.iterdir()
    stamp = folder / f"photos.0.npy.{STAMP}"
    assert sorted(folder.iterdir()) == [folder / "photos.0.npy", stamp]
    assert json.loads(stamp.read_text(encoding="utf-8"))["key"] == "key"


def test_new_features_never_stand_beside_an_old_key(tmp_path, monkeypatch):
    """The file is in place, and the process dies before the key is."""
    cache(tmp_path, "older", Loader(lacks=2))

    def die(*args, **kwargs):
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", die)
        with pytest.raises(OSError, match="power cut"):
            cache(tmp_path, "newer", Loader())
    assert np.isnan(cache(tmp_path, "older", Loader(lacks=2))[2]).all()


def test_no_picture_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected at least one picture for photos\.0\.npy"):
        cached_features(tmp_path / "photos.0.npy", "key", [1, 2], lambda at: None, mean_of)


def test_ahead_keeps_order_and_its_distance():
    started, taken = [], []

    def work(at):
        assert current_thread().name != "MainThread"
        started.append(at)
        return at * at

    for result in ahead(work, range(20), workers=2, depth=4):
        assert len(started) <= len(taken) + 5
        taken.append(result)
    assert taken == [at * at for at in range(20)]
    assert list(ahead(work, [], workers=2, depth=4)) == []


def test_module_digest_sees_every_weight():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    digest = module_digest(module)
    assert len(digest) == 32
    assert module_digest(module) == digest
    for tensor in module.state_dict().values():
        before = tensor.clone()
        tensor.add_(1)
        assert module_digest(module) != digest
        tensor.copy_(before)
    assert module_digest(module) == digest


@pytest.mark.parametrize("log_scale", [0.5, MAX_LOGIT_SCALE])
def test_the_sigmoids_bias_starts_where_its_loss_is_least(log_scale, tmp_path):
    run = Run(tmp_path, recipe=Run.recipe(loss="sigmoid"))
    run.pair.logit_scale.data.fill_(log_scale)
    fit_logit_bias(run.model, run.sources[0], run.checkpoint.tokenizer)
    bias = run.model.logit_bias.detach().clone()
    texts = run.pair.text(run.checkpoint.tokenizer(CAPTIONS))
    pictures = run.model.images(torch.from_numpy(run.stems))

    def loss(at):
        scale = torch.tensor(math.exp(log_scale))
        return float(sigmoid_contrastive(texts, pictures, torch.eye(8).bool(), scale, at).detach())

    assert loss(bias) < min(loss(bias - 0.5), loss(bias + 0.5), loss(torch.tensor(-10.0)))


def test_all_gpus_of_a_machine_are_not_cut_into_without_a_launcher(tmp_path, monkeypatch):
    """The Trainer would wrap the model in DataParallel, and a loss is of a whole batch."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: self._n_gpu))
    made = TrainingArguments.__post_init__

    def two_gpus(self):
        made(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", two_gpus)
    assert training_arguments(Run.recipe(), tmp_path, 4, Plumbing()).n_gpu == 1


def test_processes_wait_for_one_that_encodes_pictures_for_hours(monkeypatch):
    asked = {}
    monkeypatch.setattr(trainer, "PartialState", lambda **options: asked.update(options))
    join_processes()
    assert asked["timeout"].days >= 1  # torch's own: ten minutes on GPUs
