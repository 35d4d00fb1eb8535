"""Several heads in one folder, by several commands; and what a run leaves for the next."""

import json
import shutil

import pytest
import torch
from models import tiny_checkpoint
from test_answers import LESSONS as QUESTIONS
from test_answers import squad
from test_classification import CONFIG, LESSONS, TEXTS, labelled, recipe
from test_entities import TEXTS as SENTENCES
from test_entities import lesson, make_trainer
from test_train_classifier import write

from clip_text import Encoder
from clip_text.checkpoints import load_checkpoint, load_entities, save_checkpoint
from clip_text.checkpoints.heads import save_heads
from clip_text.data.labelled_texts import LabelledTexts, hold_out, without
from clip_text.data.tags import spell
from clip_text.training import train_classifier
from clip_text.training import trainer as trainer_module


@pytest.fixture
def commands(tmp_path, tiny_folder):
    """The three commands, each with its data, into one folder."""
    pairs = zip(TEXTS.texts, TEXTS.labels, strict=True)
    kinds = write(tmp_path / "kinds.tsv", "".join(f"{text}\t{of}\n" for text, (of,) in pairs))
    lines = [
        {"text": list(text), "label": spell(len(text), lesson(text).entities)} for text in SENTENCES
    ]
    names = write(tmp_path / "names.jsonl", "\n".join(map(json.dumps, lines * 4)))
    asked = [(one.question, one.passage, (one.answers[0], 1)) for one in QUESTIONS]
    questions = squad(tmp_path / "questions.json", *asked * 2)
    common = ["-m", tiny_folder, "--epochs", 1, "--out", tmp_path / "model"]
    return {
        "classifier": ["train", "classifier", kinds, "--evaluations", 1, *common],
        "ner": ["train", "ner", names, "--val", names, *common],
        "qa": ["train", "qa", questions, "--val", questions, *common],
    }


def test_three_heads_in_one_folder(commands, run, tmp_path):
    told = {}
    for name in ("classifier", "ner", "qa", "classifier"):
        code, out, err = run(*commands[name], "--json")
        assert code == 0, err
        assert told.setdefault(name, json.loads(out)) == json.loads(out)  # the second time, too
    assert "accuracy" in told["classifier"]
    assert "types" in told["ner"]
    assert "em" in told["qa"]
    encoder = Encoder.from_pretrained(tmp_path / "model", device="cpu")
    assert sorted(encoder.heads) == ["classifier", "ner", "qa"]
    for name in commands:
        assert (tmp_path / "model.run" / name / "report.json").is_file()


@pytest.mark.parametrize("name", ["ner", "qa"])
def test_a_finished_run_writes_what_is_missing(name, commands, run, tmp_path):
    first = json.loads(run(*commands[name], "--json")[1])
    place = tmp_path / "model" / "heads" / name
    weights = (place / "head.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "model")
    again = json.loads(run(*commands[name], "--json")[1])
    assert (place / "head.safetensors").read_bytes() == weights
    assert again["f1"] == first["f1"]
    for end in (tmp_path / "model.run" / name).glob("finished.*"):
        end.unlink()  # as a run of before there was that file
    assert json.loads(run(*commands[name], "--json")[1]) == again
    code, _, err = run(*commands[name], "--name", "second")
    assert code == 0, err
    assert (tmp_path / "model" / "heads" / "second" / "head.safetensors").is_file()


def test_a_model_trained_anew_in_its_place_is_not_taken_for_the_old(commands, run, tmp_path):
    save_checkpoint(tiny_checkpoint(), tmp_path / "start")
    given = [*commands["ner"], "-m", tmp_path / "start"]
    assert run(*given)[0] == 0
    shutil.rmtree(tmp_path / "start")
    save_checkpoint(tiny_checkpoint(seed=7), tmp_path / "start")
    code, _, err = run(*given)
    assert code == 1
    assert "got another model" in err


def test_other_towers_in_the_folder_stay(commands, run, tmp_path):
    mine = tiny_checkpoint(seed=9)
    save_checkpoint(mine, tmp_path / "model")
    code, _, err = run(*commands["classifier"])
    assert code == 1
    assert f"put the head on those by -m {tmp_path / 'model'}." in err
    kept = Encoder.from_pretrained(tmp_path / "model", device="cpu")
    assert kept.fingerprint == Encoder(mine, device="cpu").fingerprint
    code, _, err = run(*commands["classifier"], "-m", tmp_path / "model")
    assert code == 0, err


def test_joint_training_in_place_takes_the_heads_that_read_the_old_tower(commands, run, tmp_path):
    for name in ("classifier", "ner"):
        assert run(*commands[name])[0] == 0
    joint = [*commands["classifier"], "-m", tmp_path / "model", "--name", "intent"]
    code, _, err = run(*joint, "--train", "joint", "--lr", 1e-2, "--epochs", 3)
    assert code == 0, err
    assert "head classifier is gone: it read the text tower as it was" in err
    encoder = Encoder.from_pretrained(tmp_path / "model", device="cpu")
    assert sorted(encoder.heads) == ["intent", "ner"]


def test_a_joint_run_may_write_its_towers_again(commands, run, tmp_path):
    joint = [*commands["classifier"], "--train", "joint", "--lr", 1e-2, "--epochs", 3]
    assert run(*joint)[0] == 0
    assert run(*commands["ner"])[0] == 0
    code, _, err = run(*joint)  # the model's towers are not those that lie there now
    assert code == 0, err
    assert list(Encoder.from_pretrained(tmp_path / "model").heads) == ["classifier", "ner"]


def test_an_export_is_made_once(commands, run, tmp_path):
    for name, more in (("classifier", ["--pooler", "cls"]), ("ner", []), ("qa", [])):
        given = [*commands[name], *more, "--export", tmp_path / name]
        for _ in range(2):
            code, _, err = run(*given)
            assert code == 0, err
        code, _, err = run(*given, "--name", "other")
        assert code == 1
        assert "expected a new folder" in err


def test_several_labels_of_a_validation_text_are_told(commands, run, tmp_path):
    train = write(tmp_path / "a.jsonl", '{"text": "狗", "label": ["动物"]}\n' * 3)
    with train.open("a", encoding="utf-8") as file:
        file.write('{"text": "花", "label": ["植物"]}\n')
    val = write(tmp_path / "b.jsonl", '{"text": "马", "label": ["动物", "植物"]}\n')
    given = [*commands["classifier"]]
    given[2] = train
    code, _, err = run(*given, "--val", val)
    assert code == 1
    assert f"expected one label, as all training texts have, in {val}, line 1, got 2." in err


def test_a_rare_class_is_learnt_and_known_texts_are_not(commands, run, tmp_path):
    texts = labelled()
    rare = LabelledTexts([*texts.texts, "水"], [*texts.labels, ("水",)], [*texts.places, "last"])
    for seed in range(40):  # one of which would hold it out
        learnt, held = hold_out(rare, 16, seed)
        assert ("水",) in learnt.labels
        assert len(learnt) + len(held) == 65
    twice = LabelledTexts(["狗", "猫", "狗"], [("a",)] * 3, ["1", "2", "3"])
    assert without(twice, twice.take([0])).texts == ["猫"]
    given = [*commands["classifier"]]
    pairs = list(zip(TEXTS.texts, TEXTS.labels, strict=True)) * 2
    given[2] = write(tmp_path / "twice.tsv", "".join(f"{t}\t{of}\n" for t, (of,) in pairs))
    report = json.loads(run(*given, "--hold-out", 32, "--json")[1])
    assert report["validation_texts"] == 32
    assert report["texts"] < 96
    code, _, err = run(*given, "--val", commands["classifier"][2])
    assert code == 0
    assert "128 of the texts to learn are in" in err


def test_states_of_another_context_are_not_taken(tmp_path):
    save_checkpoint(tiny_checkpoint(), tmp_path / "model")
    short, long = (load_checkpoint(tmp_path / "model", length) for length in (4, 16))
    train_classifier(short, LESSONS, recipe("head", epochs=1), tmp_path / "run", config=CONFIG)
    found = train_classifier(
        long, LESSONS, recipe("head", epochs=1), tmp_path / "run", config=CONFIG
    )
    fresh = train_classifier(
        long, LESSONS, recipe("head", epochs=1), tmp_path / "fresh", config=CONFIG
    )
    assert (found.logits == fresh.logits).all()


def test_what_is_measured_is_what_is_saved(tmp_path, monkeypatch):
    """Training in bfloat16 leaves no trace: neither in what is measured nor in the head."""
    monkeypatch.setattr(trainer_module, "bf16_pays", lambda device: True)
    found, trainer = make_trainer(tmp_path, epochs=1, bf16=True)
    tokens = found.tokenizer.pad(found.tokenizer.token_ids(SENTENCES))
    seen = []
    found.head.out.register_forward_hook(
        lambda module, given, out: seen.append((module.training, out.dtype))
    )
    trainer.fit()
    assert (True, torch.bfloat16) in seen  # it did train in it
    assert (False, torch.float32) in seen
    assert (False, torch.bfloat16) not in seen
    save_heads({"ner": found}, tmp_path)
    again = load_entities(tmp_path)
    found.head.eval()
    assert torch.equal(found.head(tokens)["logits"], again.head(tokens)["logits"])
