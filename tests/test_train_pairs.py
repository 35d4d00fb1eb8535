"""Training the head for sentence pairs: a lesson, its data, and the command."""

import itertools
import json
import shutil

import pytest
import torch
from models import backbone, tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from clip_text import DataError, Encoder
from clip_text.data.labelled_pairs import LabelledPairs, PairColumns
from clip_text.heads import ClassificationHead, HeadConfig
from clip_text.heads.pairs import PairClassifier
from clip_text.heads.standalone import bare_tower
from clip_text.training import PairData
from clip_text.training.heads_pairs import measure_pairs, pair_examples, pair_trainer
from clip_text.training.heads_tokens import HeadRecipe


def lessons():
    """Pairs of animals or of plants, which are the same, and pairs of one and the other."""
    texts = list(itertools.product("狗猫鸟马花树草", repeat=2))
    same = [(first in "花树草") == (second in "花树草") for first, second in texts]
    places = [f"here, line {number}" for number in range(len(texts))]
    return LabelledPairs(texts, [("same" if one else "other",) for one in same], places)


def untrained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = bare_tower(backbone(), 16)
        config = HeadConfig(labels=("other", "same"), form="bert")
        head = ClassificationHead(config, tower.width, tower)
    return PairClassifier(head, tiny_tokenizer())


def test_it_learns_which_pairs_are_the_same(tmp_path):
    classifier, pairs = untrained(), lessons()
    recipe = HeadRecipe(epochs=40, batch_size=7, learning_rate=3e-3, patience=40, bf16=False)
    trainer = pair_trainer(classifier, pairs, pairs, recipe, tmp_path)
    trainer.fit()
    logits, scores = measure_pairs(classifier, pairs)
    assert scores.accuracy == trainer.measure()["accuracy"] > 0.95
    assert logits.shape == (49, 2)
    labels = [one.label for one in classifier.classify([("狗", "马"), ("花", "狗")])]
    assert labels == ["same", "other"]


def test_what_is_learnt_by_hand():
    examples = pair_examples(untrained(), lessons().take([0, 4]))
    batch = examples.collate(examples.rows)
    assert batch["targets"].tolist() == [1, 0]
    assert batch["kinds"].tolist() == [[0, 0, 0, 1, 1]] * 2


def test_the_command(run, tmp_path, tiny_folder):
    pairs = lessons()
    lines = [f"{a}\t{b}\t{of}\n" for (a, b), (of,) in zip(pairs.texts, pairs.labels, strict=True)]
    data = tmp_path / "pairs.tsv"
    data.write_text("".join(lines), encoding="utf-8")
    arguments = ["train", "pairs", data, "--val", data, "--model", tiny_folder, "--epochs", 4]
    arguments += ["--batch-size", 7, "--lr", 3e-3, "--out", tmp_path / "out"]
    code, stdout, stderr = run(*arguments, "--json", "--export", tmp_path / "plain")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert "49 pairs to learn from, 49 to measure on" in stderr
    assert "accuracy" in stderr
    # the head lies beside the towers, calibrated, and says what was measured
    encoder = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    found = encoder.classify_pairs(pairs.texts)
    right = [one.chosen == of for one, of in zip(found, pairs.labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(report["accuracy"])
    assert encoder.heads["pairs"].head.temperature.item() == pytest.approx(report["temperature"])
    assert report["temperature"] != 1.0
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    assert plain.config.id2label == {0: "other", 1: "same"}
    # once more: nothing is trained, the same is said, and a head that is gone is written again
    shutil.rmtree(tmp_path / "out")
    code, stdout, stderr = run(*arguments)
    assert code == 0, stderr
    assert f"accuracy {report['accuracy']:.2%}" in stdout
    for picture in ("curves.png", "confusion.png"):
        assert str(tmp_path / "out.run" / "pairs" / picture) in stdout
    again = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    assert again.classify_pairs(pairs.texts) == found


def test_data_are_held_out(tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"第{n}\t{n % 7}\t{n % 2}\n" for n in range(50)), encoding="utf-8")
    data = PairData.read(file, seed=3)
    assert (len(data.train), len(data.validation), data.labels) == (45, 5, ("0", "1"))
    assert not set(data.train.texts) & set(data.validation.texts)
    named = PairData.read(file, file, columns=PairColumns(names=("different", "same")))
    assert named.labels == ("different", "same")
    other = tmp_path / "other.tsv"
    other.write_text("狗\t猫\t2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a label of the training texts .* line 1, got '2'"):
        PairData.read(file, other)
    with pytest.raises(DataError, match="at least two classes, got 1: 2"):
        PairData.read(other)
