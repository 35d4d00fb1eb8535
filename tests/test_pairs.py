"""The head for sentence pairs: rows of two texts, labels, files, and parity with transformers."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from models import BACKBONES, CLS, SEP, backbone, bert_tokenizer, shared_checkpoint, tiny_tokenizer
from test_classification import with_head
from test_entities import recognizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clip_text import CheckpointError, Encoder
from clip_text.checkpoints import (
    export_head,
    load_checkpoint,
    load_head,
    save_checkpoint,
    start_backbone,
)
from clip_text.checkpoints.heads import save_heads
from clip_text.heads import ClassificationHead, HeadConfig
from clip_text.heads.pair_frame import cut_longest_first
from clip_text.heads.pairs import PairClassifier
from clip_text.heads.standalone import bare_tower

CONFIG = HeadConfig(labels=("不同", "相同"), form="bert")
PAIRS = [
    ("红色的狗", "红的狗在跑"),
    ("猫", ""),
    ("", ""),
    ("大" * 30, "小running１２" * 9),
    ("狗", "猫" * 99),
]


def pair_classifier(kind="bert", config=CONFIG, context_length=16):
    """An untrained head whose logits differ, with a temperature."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = bare_tower(backbone(kind), context_length)
        head = ClassificationHead(config, tower.width, tower)
        for layer in (head.dense, head.out):
            if layer is not None:
                torch.nn.init.normal_(layer.weight)
                torch.nn.init.normal_(layer.bias)
    head.temperature.fill_(1.7)
    return PairClassifier(head.eval(), tiny_tokenizer(context_length))


def test_a_pair_is_one_row_with_a_type_for_each_text():
    ids = {text: tiny_tokenizer().token_ids([text])[0][1:-1] for text in ("红狗", "猫")}
    assert pair_classifier().rows([("红狗", "猫"), ("猫", "")]) == [
        ([CLS, *ids["红狗"], SEP, *ids["猫"], SEP], [0, 0, 0, 0, 1, 1]),
        ([CLS, *ids["猫"], SEP, SEP], [0, 0, 0, 1]),
    ]
    assert pair_classifier().rows([]) == []


def test_texts_are_cut_as_the_tokenizers_library_cuts_them():
    pipeline = bert_tokenizer().backend_tokenizer
    for room in range(1, 12):
        pipeline.enable_truncation(room + 3, strategy="longest_first")
        for first, second in itertools.product(range(15), repeat=2):
            theirs = pipeline.encode("狗" * first, "猫" * second).tokens
            ours = cut_longest_first("狗" * first, "猫" * second, room)
            assert [len(text) for text in ours] == [theirs.count("狗"), theirs.count("猫")]


@pytest.mark.parametrize("form", ["linear", "bert"])
@pytest.mark.parametrize("kind", [kind for kind in BACKBONES if kind != "distilbert"])
def test_transformers_gives_the_same_tokens_and_logits(kind, form, tmp_path):
    classifier = pair_classifier(kind, replace(CONFIG, form=form))
    export_head(classifier, tmp_path / "plain")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    pairs = [pair for pair in PAIRS if pair[1]]  # transformers takes "" for no second text
    batch = tokenizer(*zip(*pairs, strict=True), padding=True, truncation=True, return_tensors="pt")
    tokens, kinds = classifier.batch(classifier.rows(pairs))
    assert torch.equal(tokens, batch["input_ids"])
    assert torch.equal(kinds, batch["token_type_ids"])
    with torch.inference_mode():
        wanted = theirs(**batch).logits
    found = classifier.logits(pairs) / 1.7
    assert found.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert theirs.config.id2label == dict(enumerate(CONFIG.labels))
    mine = [one.probability for one in classifier.classify(pairs)]
    assert mine == pytest.approx(torch.softmax(wanted, -1).max(-1).values.tolist(), abs=1e-5)


def test_labels_depend_on_no_batch_and_on_which_text_is_first():
    classifier = pair_classifier()
    whole = classifier.logits(PAIRS)
    torch.testing.assert_close(classifier.logits(PAIRS, 1), whole, atol=1e-5, rtol=1e-5)
    turned = classifier.logits([(second, first) for first, second in PAIRS])
    assert (turned[0] - whole[0]).abs().max() > 1e-3
    assert classifier.classify([]) == []
    assert [len(one.ranked) for one in classifier.classify(PAIRS[:2], top_k=1)] == [1, 1]
    with pytest.raises(
        TypeError, match="expected two texts in each pair, got '狗猫' at position 0"
    ):
        classifier.classify(["狗猫"])
    with pytest.raises(TypeError, match=r"got \('狗', None\) at position 1\. Write"):
        classifier.classify([("狗", "猫"), ("狗", None)])
    with pytest.raises(ValueError, match="expected a batch_size of at least 1, got 0"):
        classifier.classify(PAIRS, batch_size=0)


def test_in_a_model_with_other_heads(tmp_path):
    heads = {**with_head().heads, "ner": recognizer(), "same": pair_classifier()}
    save_checkpoint(replace(shared_checkpoint(), heads=heads), tmp_path / "model")
    encoder = Encoder.from_pretrained(tmp_path / "model", device="cpu")
    said = encoder.classify_pairs(PAIRS)
    assert said == pair_classifier().classify(PAIRS) == encoder.classify_pairs(PAIRS, "same")
    assert len({round(one.probability, 4) for one in said}) > 2, "pairs differ"
    assert load_head(tmp_path / "model", PairClassifier).classify(PAIRS) == said
    assert encoder.heads["same"].head.config == CONFIG
    with pytest.raises(ValueError, match=r"heads for pairs \(same\), got 'ner', a head for ent"):
        encoder.classify_pairs(PAIRS, "ner")
    with pytest.raises(
        ValueError, match=r"for classification \(kind\), got 'same', a head for pai"
    ):
        encoder.classify(["狗"], "same")
    with pytest.raises(
        ValueError, match=r"a head for pairs, got one without\. .* train pairs DATA"
    ):
        Encoder(with_head(), device="cpu").classify_pairs(PAIRS)


def test_saved_alone_and_damaged(tmp_path):
    classifier = pair_classifier()
    save_heads({"same": classifier}, tmp_path, torch.float16)
    place = tmp_path / "heads" / "same"
    again = load_head(place, PairClassifier)
    assert again.head.temperature == classifier.head.temperature  # in fp32
    torch.testing.assert_close(again.logits(PAIRS), classifier.logits(PAIRS), atol=0.05, rtol=0.05)
    tower, tokenizer = start_backbone(place, 8)  # another head may start from its backbone
    assert torch.equal(
        tower.transformer.state_dict()["embeddings.word_embeddings.weight"],
        again.tower.transformer.state_dict()["embeddings.word_embeddings.weight"],
    )
    assert tokenizer.context_length == 8
    about = json.loads((place / "head.json").read_text(encoding="utf-8"))
    (place / "head.json").write_text(json.dumps(about | {"labels": ["one"]}), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"expected a complete checkpoint in .*2 different lab"
    ):
        load_head(place, PairClassifier)
    save_checkpoint(shared_checkpoint(), tmp_path)
    with pytest.raises(CheckpointError, match="heads/same"):
        load_checkpoint(tmp_path)
