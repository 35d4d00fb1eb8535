"""Training the head for sentence pairs: a lesson, a resumed run, and the command."""

import itertools

import pytest
import torch
from models import backbone, tiny_tokenizer

from clip_text.data.labelled_pairs import LabelledPairs
from clip_text.heads import ClassificationHead, HeadConfig
from clip_text.heads.pairs import PairClassifier
from clip_text.heads.standalone import bare_tower
from clip_text.training.heads_pairs import measure_pairs, pair_examples, pair_trainer
from clip_text.training.heads_tokens import HeadRecipe

pytestmark = pytest.mark.usefixtures("one_thread")


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
