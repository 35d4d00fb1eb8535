"""Heads for entities and answers within a checkpoint: loaded, saved and chosen with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
from models import shared_checkpoint, tiny_checkpoint
from safetensors.torch import load_file, save_file
from test_answers import finder
from test_classification import CONFIG, LESSONS, recipe, with_head
from test_entities import recognizer

from clip_text import CheckpointError, Encoder
from clip_text.checkpoints import load_checkpoint, save_as, save_checkpoint
from clip_text.checkpoints.heads import TASKS, save_heads
from clip_text.heads import ClassificationHead
from clip_text.training import train_classifier
from clip_text.training.token_runs import place_towers
from clip_text_cli.train import app

TEXTS = ["红绿蓝黄黑白色心星圆", "", "狗猫在水上 running１２" * 9]
QUESTIONS = ["狗在", "猫", "狗"]


def with_token_heads(checkpoint=None):
    """A checkpoint with a head of each kind."""
    checkpoint = checkpoint or with_head()
    heads = {"ner": recognizer(), "qa": finder(overlap=3, longest=5, threshold=-100.5)}
    return replace(checkpoint, heads={**checkpoint.heads, **heads})


def same(one, other):
    """Whether two encoders say the very same."""
    np.testing.assert_array_equal(one.encode_text(TEXTS), other.encode_text(TEXTS))
    assert one.classify(TEXTS) == other.classify(TEXTS)
    assert one.entities(TEXTS) == other.entities(TEXTS)
    assert one.answers(QUESTIONS, TEXTS) == other.answers(QUESTIONS, TEXTS)
    return True


def test_loaded_and_saved_elsewhere_they_stay(tmp_path):
    first = tmp_path / "first"
    save_checkpoint(with_head(), first)
    save_heads({"ner": recognizer()}, first)  # as the commands do
    save_heads({"qa": finder(overlap=3, longest=5, threshold=-100.5)}, first)
    encoder = Encoder.from_pretrained(first, device="cpu")
    encoder.save_pretrained(tmp_path / "second")
    save_as(load_checkpoint(tmp_path / "second"), tmp_path / "third", "open_clip")
    again = Encoder.from_pretrained(tmp_path / "third", device="cpu")
    assert sorted(again.checkpoint.heads) == ["kind", "ner", "qa"]
    assert same(encoder, again)
    assert same(encoder, Encoder(with_token_heads(), device="cpu"))
    assert encoder.entities(TEXTS) == recognizer().entities(TEXTS)
    assert encoder.checkpoint.heads["qa"].threshold == -100.5
    files = sorted(path.relative_to(first) for path in first.rglob("*"))
    assert files == sorted(
        path.relative_to(tmp_path / "third") for path in (tmp_path / "third").rglob("*")
    )
    for file in files:
        if file.suffix in (".json", ".safetensors"):
            assert (first / file).read_bytes() == (tmp_path / "third" / file).read_bytes()


def test_half_precision_is_stored_for_them_too(tmp_path):
    checkpoint = with_token_heads()
    save_checkpoint(checkpoint, tmp_path, dtype=torch.float16)
    for name, head in load_checkpoint(tmp_path).heads.items():
        for key, weight in checkpoint.heads[name].module.state_dict().items():
            stored = head.module.state_dict()[key]
            assert torch.equal(stored, weight.half().float()), (name, key)
            assert stored.dtype == torch.float32


def test_a_head_is_chosen_by_task_and_name():
    encoder = Encoder(with_token_heads(), device="cpu")
    assert encoder.entities(TEXTS, "ner", 1) == recognizer().entities(TEXTS, 1)
    assert encoder.entities([]) == encoder.answers([], []) == []
    assert any(encoder.entities(TEXTS))
    finders = finder(overlap=3, longest=5, threshold=-100.5)
    assert encoder.answers(QUESTIONS, TEXTS, "qa", 1) == finders.answers(QUESTIONS, TEXTS, 1)
    answer = encoder.answer("狗在", TEXTS[2])
    assert answer == finders.answer("狗在", TEXTS[2])
    assert answer.text == TEXTS[2][answer.start : answer.end]
    assert encoder.answer("狗在", "") is None
    with pytest.raises(
        ValueError, match=r"heads for entities \(ner\), got 'qa', a head for answers\. Name one"
    ):
        encoder.entities(TEXTS, "qa")
    with pytest.raises(ValueError, match=r"heads for answers \(qa\), got 'ner', a head for ent"):
        encoder.answer("狗", "狗", "ner")
    with pytest.raises(ValueError, match=r"heads for answers \(qa\), got 'kind', a head for cla"):
        encoder.answers(["狗"], ["狗"], "kind")
    with pytest.raises(ValueError, match=r"for classification \(kind\), got 'ner', a head for ent"):
        encoder.classify(TEXTS, "ner")
    with pytest.raises(ValueError, match="expected a batch_size of at least 1, got 0"):
        encoder.entities(TEXTS, batch_size=0)
    with pytest.raises(TypeError, match="expected a list of str"):
        encoder.entities("狗")


def test_the_table_of_tasks():
    assert list(TASKS) == ["classification", "entities", "answers", "pairs"]
    commands = typer.main.get_command(app).commands
    assert {task.command for task in TASKS.values()} <= set(commands)


def test_they_are_where_the_encoder_is():
    encoder = Encoder(with_token_heads(tiny_checkpoint()), device="meta")
    for head in encoder.heads.values():
        assert {weight.device.type for weight in head.module.parameters()} == {"meta"}


def test_several_heads_of_a_task_and_none():
    more = recognizer(types=("X",))
    several = replace(shared_checkpoint(), heads={"ner": recognizer(), "more": more})
    encoder = Encoder(several, device="cpu")
    with pytest.raises(ValueError, match=r"heads for entities \(ner, more\), got None\. Name one"):
        encoder.entities(TEXTS)
    assert encoder.entities(TEXTS, "more") == more.entities(TEXTS)
    assert encoder.entities(TEXTS, "more") != encoder.entities(TEXTS, "ner")
    with pytest.raises(ValueError, match=r"head for answers, got one without\. Train one: .* qa "):
        encoder.answer("狗", "狗")
    with pytest.raises(ValueError, match=r"head for answers, got 'ner', a head for entities\. Tr"):
        encoder.answer("狗", "狗", "ner")
    with pytest.raises(ValueError, match=r"head for entities, got one without\. .* ner DATA"):
        Encoder(with_head(), device="cpu").entities(TEXTS)


def test_a_name_is_that_of_a_folder(tmp_path):
    for name in ("a/b", "", "ner.partial"):
        with pytest.raises(CheckpointError, match="a head's name that can name a folder"):
            save_checkpoint(replace(shared_checkpoint(), heads={name: finder()}), tmp_path)


@pytest.mark.parametrize("train", ["head", "joint"])
def test_training_a_classifier_keeps_them_but_that_of_its_name(train, tmp_path):
    folder, few = tmp_path / "model", recipe(train, epochs=1, evaluations=1)
    start = with_token_heads(tiny_checkpoint())
    save_checkpoint(start, folder)
    found = train_classifier(start, LESSONS, few, tmp_path / "run", name="ner", config=CONFIG)
    assert isinstance(found.model.heads["ner"], ClassificationHead)
    assert sorted(found.model.heads) == ["ner", "qa"]
    save_checkpoint(found.model, folder)  # over the head that was
    again = Encoder.from_pretrained(folder, device="cpu")
    assert {name: head.task for name, head in again.heads.items()} == {
        "ner": "classification",
        "qa": "answers",
    }
    assert again.classify(TEXTS) == Encoder(found.model, device="cpu").classify(TEXTS)
    before = start.heads["qa"].answers(QUESTIONS, TEXTS)
    assert again.answers(QUESTIONS, TEXTS) == before


def test_training_a_token_head_replaces_the_head_of_its_name(tmp_path):
    save_checkpoint(with_token_heads(), tmp_path / "model")
    place_towers(str(tmp_path / "model"), tmp_path / "out")
    save_heads({"kind": recognizer(types=("X",))}, tmp_path / "out")
    save_heads({"ner": finder(longest=2)}, tmp_path / "out")
    found = load_checkpoint(tmp_path / "out")
    assert found.heads["kind"].types == ("X",)
    assert [found.heads[name].longest for name in ("ner", "qa")] == [2, 5]


def test_what_is_damaged_or_unknown(tmp_path):
    save_checkpoint(with_token_heads(), tmp_path)
    heads = tmp_path / "heads"
    (heads / "qa.partial").mkdir()  # the process was killed
    (heads / "qa.partial" / "head.json").write_bytes((heads / "qa" / "head.json").read_bytes())
    (heads / "kind" / "head.json").write_text('{"task": ["unheard-of"]}')
    assert list(load_checkpoint(tmp_path).heads) == ["ner", "qa"]
    (heads / "qa" / "head.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"head\.safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(("name", "tensor"), [("kind", "out.weight"), ("qa", "out.bias")])
def test_a_head_with_a_number_that_is_none_is_refused_by_name(name, tensor, tmp_path):
    save_checkpoint(with_token_heads(), tmp_path)
    file = tmp_path / "heads" / name / "head.safetensors"
    weights = load_file(file)
    weights[tensor].view(-1)[0] = float("nan")
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=rf"{name}.*, got NaN or infinity in {tensor}\."):
        load_checkpoint(tmp_path)
