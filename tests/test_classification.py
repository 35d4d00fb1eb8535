"""Classification heads: trained three ways, calibrated, saved, classified by one pass."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from models import BACKBONES, CONTEXT_LENGTH, shared_checkpoint, tiny_checkpoint, tower_config
from pictures_data import coloured
from PIL import Image
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clip_text import CheckpointError, DataError, Encoder
from clip_text.checkpoints import load_checkpoint, save_checkpoint, start_backbone
from clip_text.checkpoints.export import sequence_classifier
from clip_text.checkpoints.heads import export_head
from clip_text.data import read_retrieval_set
from clip_text.data.collection import Text, retrieval_set
from clip_text.data.labelled_texts import LabelledTexts, hold_out
from clip_text.errors import ClipTextError
from clip_text.evaluation.classification import (
    calibrate,
    calibration_error,
    decide,
    fit_temperature,
    negative_log_likelihood,
    score,
)
from clip_text.heads import ClassificationHead, HeadConfig
from clip_text.heads.classification import balanced_weights, rank, targets_of
from clip_text.heads.standalone import bare_tower
from clip_text.towers import build_model
from clip_text.training import ClassifierRecipe, LabelData, train_classifier
from clip_text.training.holding import HoldPictures, Recall
from clip_text.training.recipe import RecipeError
from clip_text_cli.wiring import query_classifier
from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.service.app import create_app

LABELS = ("动物", "植物")
CONFIG = HeadConfig(labels=LABELS, pooler="mean")


def labelled(*, several=False):
    """Sixty-four texts about an animal or a plant; with ``several``, of a colour too."""
    texts, labels = [], []
    for colour in "红绿蓝黄":
        for thing in "狗猫鸟鱼马花树草":
            for verb in "跑看":
                texts.append(f"{colour}色的{thing}在{verb}")
                kind = "植物" if thing in "花树草" else "动物"
                more = (("红",) if colour == "红" else ()) if several else ()
                labels.append((kind, *more) if several and thing != "马" else (kind,))
                if several and thing == "马":
                    labels[-1] = more
    return LabelledTexts(texts, labels, [f"data, line {at}" for at in range(1, 65)])


TEXTS = labelled()
LESSONS = LabelData(TEXTS, hold_out(TEXTS, 16)[1])


def recipe(train, **changes):
    numbers = {"epochs": 15, "batch_size": 16, "learning_rate": 5e-3, "bf16": False}
    numbers |= {"patience": 9, "evaluations": 1, "train": train}
    numbers |= {"learning_rate": 0.05, "epochs": 60} if train == "head" else {}
    return ClassifierRecipe(**numbers | changes)


def with_head(checkpoint=None, config=CONFIG, seed=0):
    """A checkpoint with an untrained head of large weights, which shares its backbone."""
    checkpoint = checkpoint or shared_checkpoint()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = ClassificationHead(config, checkpoint.model.text.width).eval()
        torch.nn.init.normal_(head.out.weight)
        torch.nn.init.normal_(head.out.bias)
    return replace(checkpoint, heads={"kind": head})


@pytest.mark.parametrize("train", ["head", "copy", "joint"])
def test_it_learns(train, tmp_path):
    checkpoint = tiny_checkpoint()
    tower = {name: each.clone() for name, each in checkpoint.model.text.state_dict().items()}
    found = train_classifier(checkpoint, LESSONS, recipe(train, hold=0.1), tmp_path, config=CONFIG)
    assert found.scores.accuracy >= (0.85 if train == "head" else 0.95)  # 0.75 without learning
    assert found.logits.shape == (16, 2)
    moved = any(
        not torch.equal(each, tower[name])
        for name, each in found.model.model.text.state_dict().items()
    )
    assert moved == (train == "joint"), "the tower itself learns with joint alone"
    assert (found.head.tower is not None) == (train == "copy")
    answers = Encoder(found.model, device="cpu").classify(LESSONS.validation.texts)
    right = [
        one.label == label for one, (label,) in zip(answers, LESSONS.validation.labels, strict=True)
    ]
    assert np.mean(right) == found.scores.accuracy
    assert found.head.temperature.item() == pytest.approx(found.calibration.temperature)


def test_one_pass_gives_both(monkeypatch):
    encoder = Encoder(with_head(), device="cpu")
    calls = []
    encoder.model.text.transformer.register_forward_hook(lambda *_: calls.append(1))
    texts = [*TEXTS.texts, "", "狗" * 100_000]
    rows, labels = encoder.encode_and_classify(texts, batch_size=30)
    assert len(calls) == 3, "66 texts in batches of 30"
    np.testing.assert_allclose(rows, encoder.encode_text(texts), atol=1e-6)
    alone = encoder.classify(texts, "kind")
    for one, other in zip(labels, alone, strict=True):
        assert one.chosen == other.chosen
        assert one.probability == pytest.approx(other.probability, abs=1e-6)
        assert sum(each.probability for each in one.ranked) == pytest.approx(1)
    assert len({one.probability for one in labels}) > 10, "texts differ"
    assert [len(one.ranked) for one in encoder.classify(texts[:2], top_k=1)] == [1, 1]
    cut, _ = encoder.truncated(8).encode_and_classify(texts)
    np.testing.assert_allclose(cut, encoder.encode_text(texts, dimensions=8), atol=1e-6)
    rows, labels = encoder.encode_and_classify([])
    assert (rows.shape, labels) == ((0, 24), [])


def test_a_head_with_its_own_backbone_reads_it():
    checkpoint = shared_checkpoint()
    other = tiny_checkpoint(seed=5)
    tower = bare_tower(other.config.backbone, 16, CONFIG.pooler)
    tower.transformer.load_state_dict(other.model.text.transformer.state_dict())
    head = with_head().heads["kind"]
    own = ClassificationHead(CONFIG, 32, tower).eval()
    own.load_state_dict(head.state_dict(), strict=False)
    mine = Encoder(replace(checkpoint, heads={"own": own}), device="cpu")
    theirs = Encoder(with_head(other), device="cpu")
    rows, labels = mine.encode_and_classify(TEXTS.texts)
    wanted = theirs.classify(TEXTS.texts)
    np.testing.assert_allclose(
        [one.probability for one in labels], [one.probability for one in wanted], atol=1e-6
    )
    np.testing.assert_allclose(rows, Encoder(checkpoint, device="cpu").encode_text(TEXTS.texts))


def test_a_copy_of_another_backbone_has_its_own_context(tmp_path):
    """A backbone of twice the context tells apart what the tower cuts away."""
    checkpoint = tiny_checkpoint()
    filler = "水" * CONTEXT_LENGTH
    far = replace(TEXTS, texts=[filler + each for each in TEXTS.texts])
    lessons = LabelData(far, hold_out(far, 16)[1])
    blind = train_classifier(checkpoint, lessons, recipe("copy"), tmp_path / "blind", config=CONFIG)
    start = start_backbone(tiny_checkpoint(seed=3), 3 * CONTEXT_LENGTH)
    before = {name: each.clone() for name, each in start[0].state_dict().items()}
    found = train_classifier(
        checkpoint, lessons, recipe("copy"), tmp_path / "run", backbone=start, config=CONFIG
    )
    assert blind.scores.accuracy <= 0.8
    assert found.scores.accuracy > 0.95
    assert all(torch.equal(each, before[name]) for name, each in start[0].state_dict().items())
    save_checkpoint(found.model, tmp_path / "model")
    encoder = Encoder.from_pretrained(tmp_path / "model", device="cpu")
    assert encoder.context_length == CONTEXT_LENGTH
    texts, wanted = lessons.validation.texts, lessons.validation.labels
    rows, both = encoder.encode_and_classify(texts)
    np.testing.assert_array_equal(rows, encoder.encode_text(texts))
    for labels in (encoder.classify(texts), both):
        right = [one.label == label for one, (label,) in zip(labels, wanted, strict=True)]
        assert np.mean(right) == found.scores.accuracy


def test_a_copy_starts_from_the_backbone_that_is_named(tmp_path):
    """Without a step worth naming, what is trained is what it started from."""
    checkpoint, other = tiny_checkpoint(), tiny_checkpoint(seed=5)
    for number, start in enumerate((None, start_backbone(other, CONTEXT_LENGTH))):
        still = recipe("copy", learning_rate=1e-12, epochs=1)
        place = tmp_path / str(number)
        found = train_classifier(checkpoint, LESSONS, still, place, backbone=start, config=CONFIG)
        assert found.head.tower is not None
        wanted = (other if number else checkpoint).model.text.transformer.state_dict()
        for name, each in found.head.tower.transformer.state_dict().items():
            torch.testing.assert_close(each, wanted[name], atol=1e-6, rtol=0)
    control = start_backbone(checkpoint, CONTEXT_LENGTH, random=True, seed=1)
    name = "encoder.layer.0.output.dense.weight"
    weights = checkpoint.model.text.transformer.state_dict()
    assert not torch.equal(control[0].transformer.state_dict()[name], weights[name])


def test_what_a_copy_cannot_start_from(tmp_path):
    start = start_backbone(tiny_checkpoint(), CONTEXT_LENGTH)
    with pytest.raises(RecipeError, match="got 'head'"):
        train_classifier(
            tiny_checkpoint(), LESSONS, recipe("head"), tmp_path, backbone=start, config=CONFIG
        )
    with pytest.raises(CheckpointError, match="vocabulary"):
        train_classifier(
            tiny_checkpoint(),
            LESSONS,
            recipe("copy"),
            tmp_path,
            backbone=start_backbone("starter", 16),
            config=CONFIG,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("train", ["head", "copy"])
def test_saved_beside_the_tower(train, dtype, tmp_path):
    few = recipe(train, epochs=1, evaluations=1)
    config = replace(CONFIG, form="bert")
    found = train_classifier(
        tiny_checkpoint(), LESSONS, few, tmp_path / "run", name="类", config=config
    )
    for _ in range(2):  # over itself, too
        save_checkpoint(found.model, tmp_path / "model", dtype=dtype)
    again = Encoder.from_pretrained(tmp_path / "model", device="cpu")
    assert again.heads["类"].config == config
    mine = Encoder(found.model, device="cpu").classify(TEXTS.texts)
    np.testing.assert_allclose(
        [one.probability for one in again.classify(TEXTS.texts)],
        [one.probability for one in mine],
        atol=1e-7 if dtype == torch.float32 else 5e-3,
    )
    names = {file.name for file in (tmp_path / "model" / "heads" / "类").iterdir()}
    assert ("config.json" in names) == (train == "copy")


def test_a_head_of_another_backbone_is_refused(tmp_path):
    for name, pair in (("mine", with_head()), ("other", tiny_checkpoint(seed=1))):
        save_checkpoint(pair, tmp_path / name)
    shutil.copytree(tmp_path / "mine" / "heads", tmp_path / "other" / "heads")
    with pytest.raises(CheckpointError, match="expected a head trained on this model's backbone"):
        load_checkpoint(tmp_path / "other")
    (tmp_path / "other" / "heads" / "kind" / "head.json").write_text('{"task": "unheard-of"}')
    assert load_checkpoint(tmp_path / "other").heads == {}
    (tmp_path / "other" / "heads" / "kind" / "head.json").write_text('{"task": "classification"}')
    with pytest.raises(CheckpointError, match=r"expected a complete checkpoint in .*KeyError"):
        load_checkpoint(tmp_path / "other")
    with pytest.raises(CheckpointError, match="expected a head's name that can name a folder"):
        train_classifier(
            shared_checkpoint(), LESSONS, recipe("head"), tmp_path, name="a/b", config=CONFIG
        )
    # saving other towers there leaves no such head behind, but what it does not know
    unknown = tmp_path / "mine" / "heads" / "theirs" / "head.json"
    unknown.parent.mkdir()
    unknown.write_text('{"task": "unheard-of"}')
    save_checkpoint(tiny_checkpoint(seed=1), tmp_path / "mine")
    assert load_checkpoint(tmp_path / "mine").heads == {}
    assert unknown.exists()


@pytest.mark.parametrize("form", ["linear", "bert"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_transformers_gives_the_same_logits(kind, form, tmp_path):
    config = replace(CONFIG, pooler="cls", form=form)
    checkpoint = with_head(tiny_checkpoint(kind=kind), config)
    head = checkpoint.heads["kind"]
    head.temperature.fill_(1.7)
    if kind == "distilbert":
        with pytest.raises(CheckpointError, match="got pooler cls on distilbert"):
            sequence_classifier(checkpoint.model.text, head)
        return
    export_head(head, tmp_path / "out", checkpoint)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert "ForSequenceClassification" in type(theirs).__name__
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(TEXTS.texts, padding=True, truncation=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.inference_mode():
        wanted = theirs(**batch).logits
        tokens = checkpoint.tokenizer.pad(checkpoint.tokenizer.token_ids(TEXTS.texts))
        found = head.logits(checkpoint.model.text, tokens) / 1.7
    assert found.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert theirs.config.id2label == dict(enumerate(LABELS))
    softmax = torch.softmax(wanted, -1).max(-1).values.tolist()
    mine = [one.probability for one in Encoder(checkpoint, device="cpu").classify(TEXTS.texts)]
    assert mine == pytest.approx(softmax, abs=1e-5)
    with pytest.raises(FileExistsError):
        export_head(head, tmp_path / "out", checkpoint)


def test_their_own_classifier_is_reproduced():
    """BertForSequenceClassification's weights in our head of form bert: its logits."""
    config = replace(CONFIG, pooler="cls", form="bert")
    checkpoint = shared_checkpoint()
    backbone = checkpoint.config.backbone
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = AutoModelForSequenceClassification.from_config(backbone).eval()
        torch.nn.init.normal_(theirs.classifier.bias)
    weights = theirs.state_dict()
    tower = bare_tower(backbone, 16).eval()
    tower.transformer.load_state_dict(
        {
            name.removeprefix("bert."): each
            for name, each in weights.items()
            if name.startswith("bert.") and ".pooler." not in name
        }
    )
    head = ClassificationHead(config, 32, tower).eval()
    head.dense.weight.data = weights["bert.pooler.dense.weight"]
    head.dense.bias.data = weights["bert.pooler.dense.bias"]
    head.out.weight.data, head.out.bias.data = theirs.classifier.weight, theirs.classifier.bias
    tokens = checkpoint.tokenizer.pad(checkpoint.tokenizer.token_ids(TEXTS.texts))
    with torch.inference_mode():
        wanted = theirs(input_ids=tokens, attention_mask=(tokens != 0).long()).logits
        found = head.logits(checkpoint.model.text, tokens)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_mean_pooled_head_is_not_exported(tmp_path):
    checkpoint = with_head()
    with pytest.raises(CheckpointError, match="got pooler mean on bert"):
        export_head(checkpoint.heads["kind"], tmp_path / "out", checkpoint)


def test_several_labels_a_text(tmp_path):
    texts = labelled(several=True)
    config = HeadConfig(labels=(*LABELS, "红"), multi_label=True, pooler="mean")
    assert targets_of([(), ("红", "动物")], config).tolist() == [[0, 0, 0], [1, 0, 1]]
    lessons = LabelData(texts, hold_out(texts, 16)[1])
    found = train_classifier(
        tiny_checkpoint(),
        lessons,
        recipe("copy", epochs=20, balanced=True),
        tmp_path,
        config=config,
    )
    assert found.scores.micro_f1 > 0.9
    answers = Encoder(found.model, device="cpu").classify(lessons.validation.texts)
    right = [
        set(one.chosen) == set(labels)
        for one, labels in zip(answers, lessons.validation.labels, strict=True)
    ]
    assert np.mean(right) == found.scores.accuracy > 0.7
    assert any(len(one.chosen) != 1 for one in answers)
    export_config = replace(config, pooler="cls")
    theirs = sequence_classifier(
        shared_checkpoint().model.text, with_head(config=export_config).heads["kind"]
    )
    assert theirs.config.problem_type == "multi_label_classification"


def test_class_weights_by_hand():
    three = HeadConfig(labels=("a", "b", "c"))
    weights = balanced_weights(np.array([0, 0, 0, 1]), three)
    assert weights.tolist() == pytest.approx([4 / 9, 4 / 3, 4 / 3])
    head = ClassificationHead(three, 4)
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    first = math.log(math.exp(2) + 2) - 2
    loss = head.loss(logits, torch.tensor([0, 1]), torch.tensor([1.0, 3.0, 1.0]))
    assert loss.item() == pytest.approx((first + 3 * math.log(3)) / 4)
    several = HeadConfig(labels=("a", "b"), multi_label=True)
    weights = balanced_weights(np.array([[1, 0], [1, 1], [0, 0], [1, 0]]), several)
    assert weights.tolist() == pytest.approx([1 / 3, 3])
    head = ClassificationHead(several, 4)
    loss = head.loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1, 0]]), torch.tensor([5.0, 1.0]))
    assert loss.item() == pytest.approx((5 * math.log(2) + math.log(1 + math.e)) / 2)


@pytest.mark.parametrize("several", [False, True])
def test_the_temperature_lowers_the_loss_and_changes_no_answer(several):
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 3))
    if several:
        targets = (rng.random((4000, 3)) < 1 / (1 + np.exp(-true))).astype(np.int64)
    else:
        shares = np.exp(true) / np.exp(true).sum(1, keepdims=True)
        targets = np.array([rng.choice(3, p=row) for row in shares])
    logits = 3 * true  # three times too sure of itself
    fitted = fit_temperature(logits, targets, multi_label=several)
    assert fitted == pytest.approx(3, abs=0.3)
    found = calibrate(logits, targets, multi_label=several)
    assert found.nll_after < found.nll_before - 0.1
    assert found.ece_after < 0.03
    assert found.ece_before > 0.1
    for near in (0.9, 1.1):
        best, other = (
            negative_log_likelihood(logits, targets, each, multi_label=several)
            for each in (fitted, near * fitted)
        )
        assert best < other
    before, after = (decide(each, multi_label=several) for each in (logits, logits / fitted))
    assert (before == after).all()
    assert fit_temperature(logits[:0], targets[:0], multi_label=several) == 1


def test_few_texts_move_the_temperature_a_little():
    """1 / temperature, b, is where the slope of the loss's sum is that of log(b) - b: 1 / b - 1."""
    logits, right, wrong = np.tile([2.0, 0.0], (3, 1)), np.zeros(3, int), np.ones(3, int)
    cold, warm = (fit_temperature(logits, each, multi_label=False) for each in (right, wrong))
    assert 3 * 2 / (1 + math.exp(2 / cold)) == pytest.approx(1 - cold, abs=1e-4)
    assert 0.5 < cold < 1
    assert 3 * 2 / (1 + math.exp(-2 / warm)) == pytest.approx(warm - 1, abs=1e-4)
    assert 2 < warm < 5
    # each label of a text counts
    both = np.array([[1, 0]] * 3)
    logits = np.tile([2.0, -2.0], (3, 1))
    cold = fit_temperature(logits, both, multi_label=True)
    assert 6 * 2 / (1 + math.exp(2 / cold)) == pytest.approx(1 - cold, abs=1e-4)
    # logits that say nothing of the labels leave it as it is
    assert fit_temperature(np.zeros((3, 2)), right, multi_label=False) == pytest.approx(1, abs=1e-4)
    # many texts are believed
    many = fit_temperature(
        np.tile([2.0, 0.0], (100_000, 1)), np.zeros(100_000, int), multi_label=False
    )
    assert many < 0.2


def test_scores_by_hand():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]))
    found = score(decide(logits, multi_label=False), np.array([0, 1, 2]), ("a", "b", "c"))
    assert found.accuracy == found.micro_f1 == pytest.approx(2 / 3)
    assert [one.f1 for one in found.classes] == pytest.approx([2 / 3, 0, 1])
    assert [one.precision for one in found.classes] == [0.5, 0, 1]
    assert found.macro_f1 == pytest.approx(5 / 9)
    error = calibration_error(logits, np.array([0, 1, 2]), multi_label=False)
    assert error == pytest.approx((0.3 + 0.6 + 0.2) / 3)  # each in a bin of its own
    ranked = rank(np.array([[0.2, 0.5, 0.3]]), HeadConfig(labels=("a", "b", "c")), 2)[0]
    assert (ranked.label, ranked.probability) == ("b", 0.5)
    assert [one.label for one in ranked.ranked] == ["b", "c"]


def test_joint_training_keeps_retrieval(tmp_path):
    """Held, the rows stay near the old ones; not held, they go where the classes are."""
    after = {}
    for hold in (0.0, 10.0):
        found = train_classifier(
            tiny_checkpoint(),
            LESSONS,
            recipe("joint", hold=hold),
            tmp_path / str(hold),
            config=CONFIG,
        )
        assert found.retrieval_before["own_row_recall@1"] == 1
        assert found.scores.accuracy >= 0.9
        after[hold] = found.retrieval_after["own_row_cosine"]
    assert after[10.0] > 0.97
    assert after[0.0] < 0.7


def test_joint_training_on_pictures(tmp_path):
    pictures = read_retrieval_set(coloured(tmp_path, "train", 3, 0))
    held = read_retrieval_set(coloured(tmp_path, "val", 2, 1))
    lessons = replace(LESSONS, pictures=pictures, held_pictures=held)
    checkpoint = tiny_checkpoint()
    image_rows = Encoder(checkpoint).encode_image(held.images)
    found = train_classifier(checkpoint, lessons, recipe("joint"), tmp_path / "run", config=CONFIG)
    assert found.scores.accuracy >= 0.9
    name = "t2i_recall@5"
    assert found.retrieval_after[name] > found.retrieval_before[name] + 0.1
    encoder = Encoder(found.model)
    np.testing.assert_array_equal(encoder.encode_image(held.images), image_rows)


def test_joint_training_drops_the_heads_that_read_the_old_tower(tmp_path):
    checkpoint = with_head(tiny_checkpoint())
    few = recipe("joint", epochs=1, evaluations=1)
    found = train_classifier(checkpoint, LESSONS, few, tmp_path, name="new", config=CONFIG)
    assert list(found.model.heads) == ["new"]
    found = train_classifier(
        checkpoint, LESSONS, replace(few, train="head"), tmp_path, config=CONFIG
    )
    assert list(found.model.heads) == ["kind", "classifier"]


def test_what_cannot_be(tmp_path):
    encoder = Encoder(shared_checkpoint(), device="cpu")
    with pytest.raises(ValueError, match=r"a head for classification, got one without.* train cl"):
        encoder.classify(["狗"])
    encoder = Encoder(with_head(), device="cpu")
    with pytest.raises(ValueError, match=r"the heads for classification \(kind\), got 'other'"):
        encoder.classify(["狗"], "other")
    with pytest.raises(ValueError, match="expected top_k of at least 1, got 0"):
        encoder.classify(["狗"], top_k=0)
    with pytest.raises(TypeError, match="expected a list of str"):
        encoder.encode_and_classify("狗")
    for changes in ({"labels": ("a",)}, {"pooler": "sum"}, {"form": "deep"}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            replace(CONFIG, **changes)
    for changes in ({"train": "all"}, {"patience": 0}):
        with pytest.raises(RecipeError):
            ClassifierRecipe(**changes)
    lessons = replace(LESSONS, validation=replace(TEXTS, labels=[("石",)] * 64))
    with pytest.raises(DataError, match=r"expected a label of the training .*, line 1, got '石'"):
        train_classifier(shared_checkpoint(), lessons, recipe("head"), tmp_path, config=CONFIG)


def test_towers_without_heads_are_as_before():
    assert shared_checkpoint().heads == {}
    assert build_model(tower_config()).state_dict().keys() == {
        *shared_checkpoint().model.state_dict()
    }


def test_the_search_service_names_a_querys_category_by_the_same_pass(tmp_path):
    encoder = Encoder(with_head(), device="cpu")
    (tmp_path / "pictures").mkdir()
    for at, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"pictures/{at}.png")
    index_folder(tmp_path / "pictures", tmp_path / "index", encoder)
    calls = []
    encoder.model.text.transformer.register_forward_hook(lambda *_: calls.append(1))
    classify = query_classifier(encoder, None)
    with (
        Searcher.open(tmp_path / "index", encoder, classify) as searcher,
        TestClient(create_app(searcher)) as client,
    ):
        found = client.post("/v1/search", json={"query": "红色的心"}).json()
    assert len(calls) == 1
    (expected,) = encoder.classify(["红色的心"])
    label, probability = found["category"]["label"], found["category"]["probability"]
    assert (label, probability) == (expected.label, round(expected.probability, 4))
    assert len(found["hits"]) == 3


def test_a_model_without_a_head_has_no_classifier_and_a_wrong_name_is_refused():
    assert query_classifier(Encoder(shared_checkpoint(), device="cpu"), None) is None
    with pytest.raises(ClipTextError, match=r"expected one of .*\(kind\), got 'other'\. Leave"):
        query_classifier(Encoder(with_head(), device="cpu"), "other")
    with pytest.raises(ClipTextError, match=r"\(it has none\), got 'kind'"):
        query_classifier(Encoder(shared_checkpoint(), device="cpu"), "kind")


def test_what_holds_retrieval_counts_equal_wordings_as_right():
    """Two pictures share a caption: neither is pushed away from the other's, nor counted wrong."""
    texts = [Text(str(at), text, (str(at),), "zh") for at, text in enumerate(["花", "花", "狗"])]
    pictures = retrieval_set("shared", {str(at): "x.png" for at in range(3)}, texts)
    rows = np.eye(3, 24, dtype=np.float32)
    tokenizer = shared_checkpoint().tokenizer
    held = HoldPictures(pictures, rows, tokenizer, 1.0).batch([0])
    of_two = held["positives"].sum(1) == 2
    assert of_two.sum() == 2
    assert held["positives"].diagonal().all()

    class Fixed:
        model = torch.nn.Identity()

        def encode_text(self, texts):
            return rows[[1 if text == "花" else 2 for text in texts]]

    found = Recall(Fixed(), [], (pictures, rows)).measure()
    assert found["t2i_recall@1"] == 1.0  # the other 花, which is right, too
