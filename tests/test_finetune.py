"""Fine-tuning tiny towers on squares of colour, from data to a better checkpoint."""

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_checkpoint
from pictures_data import coloured
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState

from clip_text.checkpoints.recognition import recognise
from clip_text.data import read_retrieval_set
from clip_text.data.collection import Text, retrieval_set
from clip_text.data.duplicates import find_duplicates, merge_duplicates, merge_wordings
from clip_text.data.splits import held_out, part
from clip_text.encoder import Encoder
from clip_text.errors import DataError
from clip_text.evaluation.measure import encode_set, measure
from clip_text.storage import keep_json
from clip_text.training import Listener, PictureData, train_contrastive
from clip_text.training.callbacks import METRICS, read_metrics
from clip_text.training.guard import Mixture, best_mixture, load_mixture, snapshot
from clip_text.training.recipe import Recipe, RecipeError, suggest_learning_rate
from clip_text.training.runs import Run
from clip_text.training.stages import Stage, presets, read_stages, with_rates
from clip_text.training.told import BEST_BY, told, told_labels
from clip_text.training.trainer import NonFiniteLossError, Plumbing, SaveError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    return PictureData(
        read_retrieval_set(coloured(folder, "train", 3, 0)),
        read_retrieval_set(coloured(folder, "val", 2, 1)),
    )


def stage(**changes):
    numbers = {"epochs": 8, "learning_rate": 3e-3, "image_learning_rate": 3e-3, "bf16": False}
    numbers |= {"warmup_steps": 2, "evaluations": 2}
    return Stage(name="one", batch_size=9, recipe=Recipe(**numbers | changes))


def with_seen_pictures(checkpoint, images):
    """Give batch norms the statistics of pictures; with those of random weights all look alike."""
    encoder, visual = Encoder(checkpoint), checkpoint.model.visual
    norms = [part for part in visual.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        visual.train()(encoder.to_input(np.stack([encoder.load_pixels(each) for each in images])))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    visual.eval()
    return checkpoint


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
    if vision == "resnet":
        with_seen_pictures(checkpoint, data.train.images)
    before = weights_of(checkpoint)
    names = list(dict(checkpoint.model.named_parameters()))
    outcome = train_contrastive(checkpoint, data, [stage(**changes)], tmp_path)
    assert outcome.rose
    assert outcome.chosen.metrics[BEST_BY] > outcome.start[BEST_BY] + 0.03
    encoder = Encoder(checkpoint)
    validation = merge_wordings(data.validation)
    found = measure(validation, encode_set(encoder, validation)).by_direction["t2i"]
    assert found.recall[5] == pytest.approx(outcome.chosen.metrics["t2i_recall@5"], abs=0.05)
    assert list(dict(checkpoint.model.named_parameters())) == names, "LoRA is folded in"
    moved = {name for name in changed(before, weights_of(checkpoint)) if name != "logit_scale"}
    assert moved
    assert not [name for name in moved if not any(part in name for part in learns)]
    assert all(parameter.requires_grad for parameter in checkpoint.model.parameters())


def test_a_bad_learning_rate_ends_at_the_start(data, tmp_path):
    checkpoint = tiny_checkpoint()
    train_contrastive(checkpoint, data, [stage()], tmp_path / "good")
    good = weights_of(checkpoint)
    lines = []
    bad = stage(learning_rate=3.0, image_learning_rate=3.0, epochs=2, warmup_steps=0)
    outcome = train_contrastive(
        checkpoint, data, [bad], tmp_path / "bad", listener=Listener(lines.append)
    )
    assert outcome.mixtures[-1].metrics[BEST_BY] < outcome.start[BEST_BY], "it did harm"
    assert not outcome.rose
    assert outcome.chosen.share == 0
    assert changed(good, weights_of(checkpoint)) == set()
    assert lines[0] == "learning from 18 pictures with 36 captions, measured on 12 others"
    assert lines[1].startswith("warning: measured on 12 pictures: recall moves in large steps")
    assert lines[2].startswith("before training: t2i recall@1/5/10 ")
    assert any("since the start" in line for line in lines)


def test_the_same_call_again_goes_on_from_finished_stages(data, tmp_path):
    stages = [
        replace(stage(image="none", epochs=2), name="first"),
        replace(stage(image=0, epochs=2), name="second"),
    ]
    first = tiny_checkpoint()
    one = train_contrastive(first, data, stages, tmp_path)
    lines = []
    again = tiny_checkpoint()
    two = train_contrastive(again, data, stages, tmp_path, listener=Listener(lines.append))
    assert [line for line in lines if "finished before" in line] == [
        "first: finished before",
        "second: finished before",
    ]
    assert changed(weights_of(first), weights_of(again)) == set()
    assert one.mixtures == two.mixtures
    # another recipe of the second stage runs it, and only it, anew
    lines.clear()
    stages[1] = replace(stages[1], batch_size=6)
    train_contrastive(tiny_checkpoint(), data, stages, tmp_path, listener=Listener(lines.append))
    assert [line for line in lines if "finished before" in line] == ["first: finished before"]


def test_metrics_are_lines_of_json(data, tmp_path):
    train_contrastive(tiny_checkpoint(), data, [stage(image="none", epochs=2)], tmp_path)
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
            train_contrastive(tiny_checkpoint(), data, [full], tmp_path, listener=Listener(fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not list((tmp_path / "one").glob("checkpoint-*"))
    assert train_contrastive(tiny_checkpoint(), data, [full], tmp_path).rose

    def fill_later(line):
        if "step 8" in line:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(SaveError, match=r"goes on from checkpoint-4\."):
            train_contrastive(
                tiny_checkpoint(), data, [full], tmp_path / "b", listener=Listener(fill_later)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    kept = [path.name for path in (tmp_path / "b" / "one").glob("checkpoint-*")]
    assert kept == ["checkpoint-4"]
    assert train_contrastive(tiny_checkpoint(), data, [full], tmp_path / "b").rose


def test_a_disk_that_is_full_at_the_end_of_a_stage_is_told(tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    model = torch.nn.Linear(100, 100)

    run = Run(tmp_path / "one", {"made by": "this"}, anew=True)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        return TrainerState()

    try:
        with pytest.raises(SaveError, match=r"room for finished\.safetensors .*\. Make room; the"):
            run.fit(model, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["settings.json"]
    assert not run.fit(model, TrainerState).finished_before
    assert run.fit(model, fill).finished_before


def test_a_checkpoint_that_gives_nan_is_refused_before_the_first_step(data, tmp_path):
    checkpoint = tiny_checkpoint()
    with torch.no_grad():
        checkpoint.model.text.transformer.embeddings.word_embeddings.weight[5:] = torch.nan
    with pytest.raises(NonFiniteLossError, match=r"expected finite features of the texts of .*val"):
        train_contrastive(checkpoint, data, [stage()], tmp_path)


def test_batches_larger_than_the_data_are_refused(data, tmp_path):
    large = replace(stage(), batch_size=19)
    with pytest.raises(RecipeError, match=r"between 1 .* and 18 .* got 19\. Lower it"):
        train_contrastive(tiny_checkpoint(), data, [large], tmp_path)


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
        ({"epochs": 1.5}, "epochs to be a whole number, got 1.5"),
        ({"bf16": "False"}, "bf16 to be true or false, got 'False'"),
        ({"ema": "much"}, "ema to be a number"),
        ({"seed": True}, "seed to be a whole number"),
        ({"matryoshka": 64}, r"matryoshka to be whole numbers from 1 in a tuple, .* got 64\."),
        ({"matryoshka": (0,)}, r"matryoshka to be .* got \(0,\)"),
        ({"matryoshka": ("64",)}, "matryoshka to be"),
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
        ("timm", {"image": 6}, r"at most 5 last layers of the image tower .* got 6"),
        ("timm", {"image": "all", "patch_dropout": 0.5}, "one of open_clip's ViTs"),
        ("vit", {"matryoshka": (8, 25)}, r"widths up to 24 .* got \[8, 25\]\. Leave out"),
    ],
)
def test_towers_without_what_is_asked_for(vision, changes, message, data, tmp_path):
    with pytest.raises(RecipeError, match=message):
        train_contrastive(tiny_checkpoint(vision=vision), data, [stage(**changes)], tmp_path)
    assert not list(tmp_path.iterdir()), "refused before anything is computed"


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
        ("stage = [3]", r"expected \[\[stage\]\] tables"),
        ("[[stage]]\nname = 'a'\nepochs = 1\n" * 2, "stages of different names .* got a, a"),
        ("[[stage]]\nname = '/tmp'\nepochs = 1", "a stage's name of letters"),
        ("[[stage]]\nname = '..'\nepochs = 1", "a stage's name of letters"),
        ("[[stage]]\nname = 'features'\nepochs = 1", "and not features"),
        ("[[stage]]\nname = 'a'\nepochs = 1\nviews = 0", "views to be 1 or more"),
        ("[[stage]]\nname = 'a'\nepochs = 1\ncrop = -1", "crop to be a share"),
        ("[[stage]]\nname = 'a'\nepochs = 1\nbatch_size = 'x'", "batch_size to be a whole"),
        ("[[stage]]\nname = 'a'\nepochs = 1\nbest_by = 'x'", "got best_by"),
    ],
)
def test_presets_that_cannot_be_are_refused(text, message, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_stages(str(file))


def test_widths_are_read_from_toml_and_from_settings(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[[stage]]\nname = 'a'\nepochs = 1\nmatryoshka = [64, 128]")
    assert read_stages(str(file))[0].recipe.matryoshka == (64, 128)
    assert read_stages("both", {"matryoshka": [32]})[0].recipe.matryoshka == (32,)


def test_a_run_chooses_by_all_widths_and_the_model_remembers_them(data, tmp_path):
    start = tiny_checkpoint(vision="timm")
    with_seen_pictures(start, data.train.images)
    before = Encoder(start, "cpu").fingerprint
    cut = stage(image=0, matryoshka=(12, 3), evaluations=1)
    run = tmp_path / "run"
    trained = train_contrastive(start, data, cut, run, out=tmp_path / "out", shares=[0, 1])
    for metrics in (trained.start, trained.metrics):
        means = [metrics[f"mean_recall_{width}d"] for width in (3, 12, 24)]
        assert metrics[BEST_BY] == pytest.approx(np.mean(means))
        recalls = [value for name, value in metrics.items() if name[:3] in ("t2i", "i2t")]
        assert means[2] == pytest.approx(np.mean(recalls))
    assert trained.rose
    # measured from outside: what is told of three dimensions is so
    encoder = Encoder.from_pretrained(tmp_path / "out", "cpu", dimensions=3)
    validation = merge_wordings(data.validation)
    recalls = measure(validation, encode_set(encoder, validation)).recalls()
    assert trained.metrics["mean_recall_3d"] == pytest.approx(np.mean(list(recalls.values())))
    assert encoder.checkpoint.config.matryoshka == (3, 12)
    assert trained.model.config.matryoshka == (3, 12)
    assert Encoder(trained.model, "cpu").fingerprint != before
    assert "over dimensions (3: " in told(trained.metrics)
    said = recognise(tmp_path / "out").lines()
    assert "embed_dim       24 (trained to be cut to 3 and 12 as well)" in said


def test_rates_that_are_given_stay_and_the_image_towers_follows_the_others():
    def rates(**given):
        recipe = with_rates(read_stages("both", given)[0], 1e-4).recipe
        return recipe.learning_rate, recipe.image_learning_rate

    assert rates() == pytest.approx((1e-4, 1e-5))
    assert rates(learning_rate=1e-6) == pytest.approx((1e-6, 1e-7))
    assert rates(image_learning_rate=3e-6) == pytest.approx((1e-4, 3e-6))
    assert rates(learning_rate=1e-6, image_learning_rate=3e-6) == pytest.approx((1e-6, 3e-6))


def test_an_unknown_preset_is_refused():
    with pytest.raises(RecipeError, match=r"expected a preset \(both, lora, .* got 'nope'"):
        read_stages("nope")


def test_suggested_rates_grow_with_the_batch_and_shrink_with_the_width():
    assert suggest_learning_rate(768, 512, 100_000) == 5e-5
    assert suggest_learning_rate(768, 128, 100_000) == 2.5e-5
    assert suggest_learning_rate(384, 512, 100_000) == 2e-4
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
    train_contrastive(tiny_checkpoint(), data, quick, tmp_path)
    first = json.loads((tmp_path / "start.json.kept.json").read_text())
    train_contrastive(tiny_checkpoint(seed=1), data, quick, tmp_path)
    second = json.loads((tmp_path / "start.json.kept.json").read_text())
    assert first["key"] != second["key"]


QUICK = {"epochs": 1, "evaluations": 1, "image": "none"}


def end_of(folder):
    return load_file(folder / "one/finished.safetensors")


def alike(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_two_data_sets_of_one_name_are_measured_each(data, tmp_path):
    other = replace(part(data.train, range(9)), name=data.validation.name)
    outcome = train_contrastive(
        tiny_checkpoint(), replace(data, keep=other), [stage(**QUICK)], tmp_path, shares=(0.0,)
    )
    other = merge_wordings(other)
    encoded = encode_set(Encoder(tiny_checkpoint()), other)
    expected = measure(other, encoded).by_direction["t2i"].recall[5]
    assert outcome.chosen.kept["t2i_recall@5"] == pytest.approx(expected)
    assert outcome.chosen.kept != outcome.chosen.metrics


def test_the_start_has_to_be_measured(data, tmp_path):
    with pytest.raises(ValueError, match="expected share 0, the start, among"):
        train_contrastive(tiny_checkpoint(), data, [stage(**QUICK)], tmp_path, shares=(0.5, 1.0))


def test_the_start_never_counts_as_risen(data, tmp_path):
    """Measured on another machine, its figures may be off in the last digit."""
    bad = [stage(image="none", learning_rate=3.0, epochs=1, warmup_steps=0)]
    assert not train_contrastive(tiny_checkpoint(), data, bad, tmp_path, shares=(0.0,)).rose
    file = tmp_path / "start.json"
    known, key = (
        json.loads(path.read_text()) for path in (file, tmp_path / "start.json.kept.json")
    )
    file.unlink()
    known[BEST_BY] -= 1e-9
    keep_json(file, key["key"], lambda: known)
    assert not train_contrastive(tiny_checkpoint(), data, bad, tmp_path, shares=(0.0,)).rose


def test_a_start_cut_short_is_measured_again(data, tmp_path, monkeypatch):
    write = Path.write_text

    def die(path, text, **options):
        write(path, text[: len(text) // 2], **options)
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", die)
        with pytest.raises(OSError, match="power cut"):
            train_contrastive(tiny_checkpoint(), data, [stage(**QUICK)], tmp_path)
    assert train_contrastive(
        tiny_checkpoint(), data, [stage(**QUICK)], tmp_path, shares=(0.0,)
    ).start


def test_features_are_of_the_pictures_there_are_and_not_of_their_captions(data, tmp_path):
    train = read_retrieval_set(coloured(tmp_path / "own", "train", 3, 0))

    def caches():
        train_contrastive(
            tiny_checkpoint(), replace(data, train=train), [stage(**QUICK)], tmp_path / "run",
            shares=(0.0,),
        )  # fmt: skip
        return len(list((tmp_path / "run/features").glob("*.npy")))

    assert caches() == 1
    train.texts[0] = replace(train.texts[0], text="another caption")
    assert caches() == 1
    Image.new("RGB", (90, 90), (1, 2, 3)).save(train.images[0])  # another picture of that name
    assert caches() == 2


def test_pictures_that_are_learnt_and_measured_are_told(data, tmp_path):
    lines = []
    both = replace(data, validation=part(data.train, range(7), "some"))
    train_contrastive(
        tiny_checkpoint(), both, [stage(**QUICK)], tmp_path,
        listener=Listener(lines.append), shares=(0.0,),
    )  # fmt: skip
    assert lines[2].startswith("warning: 7 of the 7 pictures to measure on are learnt, too")


def test_lora_starts_from_the_seed(data, tmp_path):
    for name in ("one", "two"):
        torch.manual_seed(len(str(tmp_path)) if name == "one" else 99)
        lora = [stage(**QUICK, text="lora")]
        train_contrastive(tiny_checkpoint(), data, lora, tmp_path / name, shares=(0.0,))
    assert alike(end_of(tmp_path / "one"), end_of(tmp_path / "two"))


class Stop(TrainerCallback):
    """Ctrl-C after some steps."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise KeyboardInterrupt


def test_with_workers_an_interrupted_run_goes_on_to_the_same_end(data, tmp_path):
    """Random crops, dropout; the checkpoint is of the fourth step, in mid-epoch."""
    small = Stage(
        name="one",
        batch_size=3,
        crop=0.5,
        recipe=replace(stage(epochs=2, evaluations=3, image="all").recipe, token_dropout=0.2),
    )

    def run(folder, workers, *callbacks):
        plumbing = Plumbing(workers=workers, callbacks=callbacks)
        train_contrastive(
            tiny_checkpoint(), data, [small], tmp_path / folder, plumbing=plumbing, shares=(0.0,)
        )

    run("through", 0)
    with pytest.raises(KeyboardInterrupt):
        run("cut", 2, Stop())
    assert not (tmp_path / "cut/one/finished.safetensors").exists()
    run("cut", 2)
    assert alike(end_of(tmp_path / "through"), end_of(tmp_path / "cut"))


def test_a_folder_of_something_else_is_left_alone(data, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"got files of something else\. Name another"):
        train_contrastive(tiny_checkpoint(), data, [stage(**QUICK)], tmp_path)
    assert (tmp_path / "one/thesis.txt").read_text() == "years of work"
    shutil.rmtree(tmp_path / "one")
    train_contrastive(tiny_checkpoint(), data, [stage(**QUICK)], tmp_path, shares=(0.0,))
    (tmp_path / "one/left.txt").write_text("by another recipe")
    train_contrastive(tiny_checkpoint(), data, [stage(**QUICK, seed=1)], tmp_path, shares=(0.0,))
    assert not (tmp_path / "one/left.txt").exists()


def labels(collection):
    """The same pictures with the colour's name for a caption, which all of a colour share."""
    texts = [
        Text(f"{at}", name.split("-")[1], (name,), "zh")
        for at, name in enumerate(collection.image_ids)
    ]
    images = dict(zip(collection.image_ids, collection.images, strict=True))
    return retrieval_set(collection.name, images, texts)


def test_captions_that_are_labels_are_right_for_all_of_their_pictures(data, tmp_path):
    shared = PictureData(labels(data.train), labels(data.validation), keep=labels(data.train))
    lines = []
    checkpoint = tiny_checkpoint()
    outcome = train_contrastive(
        checkpoint, shared, [stage(epochs=30)], tmp_path, listener=Listener(lines.append)
    )
    kept = outcome.chosen.metrics
    assert (kept["t2i_recall@1"], kept["i2t_recall@1"]) == (1.0, 1.0)
    assert outcome.chosen.kept["i2t_recall@1"] > 0.9
    # the same figures as evaluate --merge-duplicates has; without it, ties decide
    encoded = encode_set(Encoder(checkpoint), shared.validation)
    merged = merge_duplicates(shared.validation, find_duplicates(shared.validation, ()))
    assert kept | measure(merged, encoded).recalls() == kept
    assert measure(shared.validation, encoded).recalls()["i2t_recall@1"] < 1.0
    assert not any("are labels" in line for line in lines), "two pictures of each are few"


def test_few_labels_are_told_with_what_recall_means(data, tmp_path):
    lines = []
    many = labels(part(data.train, range(9)))
    assert told_labels(data.validation) == told_labels(many) == ""
    one = part(many, range(3))
    assert told_labels(one).startswith(
        "note: the captions of 3 pictures to measure on have 1 wording: 红色 (3). They are labels"
    )
    five = retrieval_set(
        "five",
        {f"{at}": "x.png" for at in range(15)},
        [Text(f"{at}", "次品" if at % 3 else "合格品", (f"{at}",), "zh") for at in range(15)],
    )
    line = told_labels(merge_wordings(five))
    assert (
        "the captions of 15 pictures to measure on have 2 wordings: 次品 (10), 合格品 (5)." in line
    )
    assert "(guessing gives 1 in 2)" in line
    measured = replace(data, validation=one)
    train_contrastive(
        tiny_checkpoint(), measured, [stage(**QUICK)], tmp_path, shares=(0.0,),
        listener=Listener(lines.append),
    )  # fmt: skip
    assert lines[1] == told_labels(one)
