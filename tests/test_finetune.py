"""Fine-tuning tiny towers on squares of colour, from data to a better checkpoint."""

import json
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import tiny_checkpoint
from pictures_data import coloured

from clip_text.data import read_retrieval_set
from clip_text.data.splits import held_out, part
from clip_text.encoder import Encoder
from clip_text.errors import DataError
from clip_text.evaluation.measure import encode_set, measure
from clip_text.training.finetune import BEST_BY, Data, Listener, finetune
from clip_text.training.guard import Mixture, best_mixture, load_mixture, snapshot
from clip_text.training.recipe import Recipe, RecipeError, suggest_learning_rate
from clip_text.training.stages import Stage, presets, read_stages
from clip_text.training.trainer import METRICS, SaveError, read_metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    return Data(
        read_retrieval_set(coloured(folder, "train", 3, 0)),
        read_retrieval_set(coloured(folder, "val", 2, 1)),
    )


def stage(**changes):
    numbers = {"epochs": 8, "learning_rate": 3e-3, "image_learning_rate": 3e-3, "bf16": False}
    numbers |= {"warmup_steps": 2, "evaluations": 2}
    return Stage(name="one", batch_size=9, recipe=Recipe(**numbers | changes))


def weights_of(checkpoint):
    return snapshot(checkpoint.model)


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("vision", "changes", "learns"),
    [
        ("vit", {"image": "none"}, {"text"}),
        ("vit", {"image": 0}, {"text", "visual.proj"}),
        (
            "vit",
            {"image": "all", "micro_batch": 5, "gradient_checkpointing": True},
            {"text", "visual"},
        ),
        ("vit", {"image": "none", "text": "lora"}, {"attention", "text.proj"}),
        ("timm", {"image": 0, "text": 1, "loss": "sigmoid"}, {"layer.1.", "proj"}),
        ("resnet", {"image": 1, "ema": 0.5}, {"text", "layer4", "attnpool"}),
    ],
    ids=["text", "projections", "both-in-pieces", "lora", "sigmoid", "resnet-ema"],
)
def test_recall_rises_and_only_what_should_learn_does(vision, changes, learns, data, tmp_path):
    checkpoint = tiny_checkpoint(vision=vision)
    before = weights_of(checkpoint)
    names = list(dict(checkpoint.model.named_parameters()))
    outcome = finetune(checkpoint, data, [stage(**changes)], tmp_path)
    assert outcome.rose
    assert outcome.chosen.metrics[BEST_BY] > outcome.start[BEST_BY] + 0.03
    encoder = Encoder(checkpoint)
    found = measure(data.validation, encode_set(encoder, data.validation)).by_direction["t2i"]
    assert found.recall[5] == pytest.approx(outcome.chosen.metrics["t2i_recall@5"], abs=0.05)
    assert list(dict(checkpoint.model.named_parameters())) == names, "LoRA is folded in"
    moved = {name for name in changed(before, weights_of(checkpoint)) if name != "logit_scale"}
    assert moved
    assert not [name for name in moved if not any(part in name for part in learns)]
    assert all(parameter.requires_grad for parameter in checkpoint.model.parameters())


def test_a_bad_learning_rate_ends_at_the_start(data, tmp_path):
    checkpoint = tiny_checkpoint()
    finetune(checkpoint, data, [stage()], tmp_path / "good")
    good = weights_of(checkpoint)
    lines = []
    bad = stage(learning_rate=3.0, image_learning_rate=3.0, epochs=2, warmup_steps=0)
    outcome = finetune(checkpoint, data, [bad], tmp_path / "bad", listener=Listener(lines.append))
    assert outcome.mixtures[-1].metrics[BEST_BY] < outcome.start[BEST_BY], "it did harm"
    assert not outcome.rose
    assert outcome.chosen.share == 0
    assert changed(good, weights_of(checkpoint)) == set()
    assert lines[0].startswith("before training: t2i recall@1/5/10 ")
    assert any("since the start" in line for line in lines)


def test_the_same_call_again_goes_on_from_finished_stages(data, tmp_path):
    stages = [
        replace(stage(image="none", epochs=2), name="first"),
        replace(stage(image=0, epochs=2), name="second"),
    ]
    first = tiny_checkpoint()
    one = finetune(first, data, stages, tmp_path)
    lines = []
    again = tiny_checkpoint()
    two = finetune(again, data, stages, tmp_path, listener=Listener(lines.append))
    assert [line for line in lines if "finished before" in line] == [
        "first: finished before",
        "second: finished before",
    ]
    assert changed(weights_of(first), weights_of(again)) == set()
    assert one.mixtures == two.mixtures
    # another recipe of the second stage runs it, and only it, anew
    lines.clear()
    stages[1] = replace(stages[1], batch_size=6)
    finetune(tiny_checkpoint(), data, stages, tmp_path, listener=Listener(lines.append))
    assert [line for line in lines if "finished before" in line] == ["first: finished before"]


def test_metrics_are_lines_of_json(data, tmp_path):
    finetune(tiny_checkpoint(), data, [stage(image="none", epochs=2)], tmp_path)
    rows = read_metrics(tmp_path / "one" / METRICS)
    assert [row["step"] for row in rows if f"eval_{BEST_BY}" in row] == [2, 4]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    with (tmp_path / "one" / METRICS).open("a") as out:
        out.write('{"step": 5, "lo')  # a crash
    assert read_metrics(tmp_path / "one" / METRICS) == rows


def test_a_full_disk_stops_with_a_word_and_keeps_the_older_checkpoint(data, tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    full = stage(image="none", epochs=4, evaluations=2)
    said = []

    def fill(line):
        said.append(line)
        if "step 4" in line:  # the first checkpoint is written; no file larger than this any more
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    # the first of two evaluations is at step 4 of 8: its checkpoint does not fit, then nothing is
    # left of it
    try:
        with pytest.raises(SaveError, match=r"expected room .*\. Make room; .* starts anew\."):
            finetune(tiny_checkpoint(), data, [full], tmp_path, listener=Listener(fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not list((tmp_path / "one").glob("checkpoint-*"))
    assert finetune(tiny_checkpoint(), data, [full], tmp_path).rose

    def fill_later(line):
        if "step 8" in line:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(SaveError, match=r"goes on from checkpoint-4\."):
            finetune(tiny_checkpoint(), data, [full], tmp_path / "b", listener=Listener(fill_later))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    kept = [path.name for path in (tmp_path / "b" / "one").glob("checkpoint-*")]
    assert kept == ["checkpoint-4"]
    assert finetune(tiny_checkpoint(), data, [full], tmp_path / "b").rose


def test_a_checkpoint_that_gives_nan_is_refused_before_the_first_step(data, tmp_path):
    checkpoint = tiny_checkpoint()
    with torch.no_grad():
        checkpoint.model.text.transformer.embeddings.word_embeddings.weight[5:] = torch.nan
    with pytest.raises(ValueError, match=r"expected finite query features, got 24 rows"):
        finetune(checkpoint, data, [stage()], tmp_path)


def test_batches_larger_than_the_data_are_refused(data, tmp_path):
    large = replace(stage(), batch_size=19)
    with pytest.raises(RecipeError, match=r"between 1 .* and 18 .* got 19\. Lower it"):
        finetune(tiny_checkpoint(), data, [large], tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "none", "image": "none"}, "something to learn, got two frozen towers"),
        ({"text": "some"}, "expected text to be one of all, none, lora, or a number"),
        ({"image": "lora"}, "expected image to be one of all, none, or a number"),
        ({"image": True}, "expected image"),
        ({"loss": "hinge"}, "softmax or sigmoid"),
        ({"ema": 1.0}, "a share below 1"),
        ({"learning_rate": 0}, "a number above 0"),
        ({"epochs": 0}, "1 or more"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**{"epochs": 1} | changes)


@pytest.mark.parametrize(
    ("vision", "changes", "message"),
    [
        ("vit", {"text": 3}, r"at most 2 last layers of the text tower .* got 3\. Lower"),
        ("vit", {"image": 3}, r"at most 2 last layers of the image tower .* got 3"),
        ("timm", {"image": "all", "patch_dropout": 0.5}, "one of open_clip's ViTs"),
    ],
)
def test_towers_without_what_is_asked_for(vision, changes, message, data, tmp_path):
    with pytest.raises(RecipeError, match=message):
        finetune(tiny_checkpoint(vision=vision), data, [stage(**changes)], tmp_path)


def test_every_preset_is_read_and_headed_by_its_command():
    assert {"text", "two-stage", "both", "lora", "sigmoid", "projections"} <= set(presets())
    for name in presets():
        stages = read_stages(name)
        assert stages
        assert all(one.suggest for one in stages) or name == "starter"
        changed_stages = read_stages(name, {"epochs": 2, "learning_rate": 1e-4})
        assert {one.recipe.epochs for one in changed_stages} == {2}
        assert not any(one.suggest for one in changed_stages)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage = 3", r"expected \[\[stage\]\] tables .* got stage"),
        ("", r"got nothing"),
        ("[[stage]]\nname = 'a'", "got no epochs"),
        ("[[stage]]\nname = 'a'\nepochs = 1\nlr = 3", "got lr"),
        ("[[stage]]\nname = 'a'\nepochs = 'x'", r"expected"),
        ("[[stage", "expected TOML"),
    ],
)
def test_presets_that_cannot_be_are_refused(text, message, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_stages(str(file))


def test_an_unknown_preset_is_refused():
    with pytest.raises(RecipeError, match=r"expected a preset \(both, lora, .* got 'nope'"):
        read_stages("nope")


def test_suggested_rates_grow_with_the_batch_and_shrink_with_the_width():
    assert suggest_learning_rate(768, 512, 100_000) == 5e-5
    assert suggest_learning_rate(768, 128, 100_000) == 2.5e-5
    assert suggest_learning_rate(384, 512, 100_000) == 1e-4
    assert suggest_learning_rate(768, 512, 2_000) < 5e-5


def test_mixtures_lie_on_the_line_and_of_equals_the_nearer_is_best():
    model = tiny_checkpoint().model
    start = snapshot(model)
    end = {k: v + 1 if v.is_floating_point() else v for k, v in start.items()}
    load_mixture(model, start, end, 0.25)
    for name, tensor in model.state_dict().items():
        expected = start[name] + 0.25 if tensor.is_floating_point() else start[name]
        torch.testing.assert_close(tensor, expected)
    load_mixture(model, start, end, 0)
    assert changed(start, snapshot(model)) == set()
    mixtures = [Mixture(share, {"r": r}, {}) for share, r in ((0, 0.5), (0.5, 0.7), (1, 0.7))]
    assert best_mixture(mixtures, "r").share == 0.5


def test_parts_keep_what_describes_them(data):
    train = data.train
    some = part(train, [2, 0])
    assert some.image_ids == [train.image_ids[0], train.image_ids[2]]
    assert {text.image_ids for text in some.texts} == {(i,) for i in some.image_ids}
    left, measured = held_out(train, 5)
    assert len(measured.image_ids) == 5
    assert sorted(left.image_ids + measured.image_ids) == sorted(train.image_ids)
    assert held_out(train, 5)[1].image_ids == measured.image_ids
    with pytest.raises(DataError, match="expected at least 2 pictures"):
        held_out(part(train, [0]), 1)


def test_start_is_remembered_only_for_the_same_model_and_data(data, tmp_path):
    quick = [stage(image="none", epochs=1, evaluations=1)]
    finetune(tiny_checkpoint(), data, quick, tmp_path)
    first = json.loads((tmp_path / "start.json").read_text())
    finetune(tiny_checkpoint(seed=1), data, quick, tmp_path)
    second = json.loads((tmp_path / "start.json").read_text())
    assert first["key"] != second["key"]
