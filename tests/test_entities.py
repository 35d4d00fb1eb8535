"""Entities: tags, readers, alignment, windows, training, files and the command."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import (
    BACKBONES,
    CLS,
    SEP,
    backbone,
    shared_checkpoint,
    tiny_checkpoint,
    tiny_tokenizer,
)
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForTokenClassification,
)

from clip_text import Encoder
from clip_text.checkpoints import load_entities, save_checkpoint, start_backbone
from clip_text.checkpoints.heads import export_head, save_heads
from clip_text.data.length_grouped import LengthGrouped
from clip_text.data.tagged_text import check_labels, read_tagged
from clip_text.data.tags import Decoded, Entity, decode_tags, spell
from clip_text.errors import CheckpointError, DataError
from clip_text.evaluation.entities import entity_confusion, entity_scores
from clip_text.heads.entities import (
    IGNORED,
    EntityHead,
    EntityRecognizer,
    bio_labels,
    gather,
    tag_tokens,
    unreachable,
)
from clip_text.heads.standalone import bare_tower
from clip_text.heads.windows import Window, windows
from clip_text.tokenizer import Tokenizer
from clip_text.training.heads_tokens import (
    HeadRecipe,
    entity_examples,
    entity_trainer,
)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def entities(text, *places):
    return [Entity(start, end, label, text[start:end]) for start, end, label in places]


def recognizer(kind="bert", types=("PER", "LOC"), overlap=4, context_length=16):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = EntityHead(bare_tower(backbone(kind), context_length), len(bio_labels(types)))
    head.out.weight.data *= 40  # so that untrained labels differ
    return EntityRecognizer(head.eval(), tiny_tokenizer(context_length), types, overlap)


@pytest.mark.parametrize(
    ("tags", "found", "repaired"),
    [
        ("B-P I-P O B-L", [(0, 2, "P"), (3, 4, "L")], 0),
        ("B-P B-P I-P", [(0, 1, "P"), (1, 3, "P")], 0),  # beside each other
        ("B-P M-P E-P S-L O", [(0, 3, "P"), (3, 4, "L")], 0),  # BMES
        ("B-P I-P L-P U-L", [(0, 3, "P"), (3, 4, "L")], 0),  # BILOU
        ("O I-P I-P", [(1, 3, "P")], 1),  # I- without B-
        ("B-P I-L I-L", [(0, 1, "P"), (1, 3, "L")], 1),
        ("S-P I-P", [(0, 1, "P"), (1, 2, "P")], 1),
        ("B-P E-P E-P", [(0, 2, "P"), (2, 3, "P")], 1),
        ("B-GPE.NAM I-GPE.NAM", [(0, 2, "GPE.NAM")], 0),
        ("", [], 0),
    ],
)
def test_tags_of_every_scheme(tags, found, repaired):
    assert decode_tags(tags.split()) == Decoded(found, repaired)


@pytest.mark.parametrize("tag", ["X-PER", "B", "B-", "PER", "", "BI-PER"])
def test_what_is_no_tag(tag):
    with pytest.raises(DataError, match=r"expected O, or a tag such as B-PER .*, got "):
        decode_tags(["O", tag])


def test_decoding_and_scores_are_seqevals():
    metrics = pytest.importorskip("seqeval.metrics")
    chunks = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    draw = random.Random(0)
    for letters in ("BI", "BIES"):
        tags = ["O", *(f"{letter}-{label}" for letter in letters for label in ("PER", "LOC"))]
        truth = [[draw.choice(tags) for _ in range(30)] for _ in range(40)]
        guess = [[draw.choice([tag, tag, *tags]) for tag in row] for row in truth]
        ours = []
        for rows in (truth, guess):
            ours.append([])
            for row in rows:
                found = decode_tags(row).found
                theirs = [(start, end + 1, label) for label, start, end in chunks(row)]
                assert found == theirs
                ours[-1].append([Entity(*one, "") for one in found])
        overall, by_type = entity_scores(*ours)
        assert overall.f1 == pytest.approx(metrics.f1_score(truth, guess))
        assert overall.precision == pytest.approx(metrics.precision_score(truth, guess))
        assert overall.recall == pytest.approx(metrics.recall_score(truth, guess))
        report = metrics.classification_report(truth, guess, output_dict=True)
        for label, scores in by_type.items():
            assert scores.f1 == pytest.approx(report[label]["f1-score"])
            assert scores.support == report[label]["support"]


def test_scores_by_hand():
    one = entities("王小明在北京", (0, 3, "PER"), (4, 6, "LOC"))
    # one right, one of the wrong type, one in a text without any
    guess = entities("王小明在北京", (0, 3, "PER"), (4, 6, "PER"))
    overall, by_type = entity_scores([one, []], [guess, entities("天", (0, 1, "LOC"))])
    assert (overall.precision, overall.recall) == (1 / 3, 1 / 2)
    assert overall.f1 == pytest.approx(0.4)
    assert (by_type["PER"].precision, by_type["PER"].recall) == (0.5, 1.0)
    assert by_type["LOC"].f1 == 0
    assert entity_scores([[]], [[]])[0].f1 == 0
    counts = entity_confusion([one, []], [guess, entities("天", (0, 1, "LOC"))], ["LOC", "PER"])
    assert counts.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]  # LOC, PER, and none of them
    with pytest.raises(ValueError, match="expected entities found for each of 1 texts, got 0"):
        entity_scores([[]], [])


def test_bio_written_and_read():
    text = "王小明在北京上海"
    named = entities(text, (0, 3, "PER"), (4, 6, "LOC"), (6, 8, "LOC"))
    assert spell(8, named) == ["B-PER", "I-PER", "I-PER", "O", *(["B-LOC", "I-LOC"] * 2)]
    assert decode_tags(spell(8, named)).found == [one.key for one in named]


def test_alignment_by_hand():
    # words in pieces, full-width letters and digits, white space, an emoji, an unknown character
    text = "看 running１２Ｃat\u3000🐶龘大"
    (aligned,) = tiny_tokenizer().align([text])
    tokens = tiny_tokenizer().backend.convert_ids_to_tokens(aligned.ids)
    pieces = [text[start:end] for start, end in aligned.spans]
    assert tokens == ["看", "run", "##ning", "##1", "##2", "##c", "##a", "##t", "🐶", "[UNK]", "大"]
    assert pieces == ["看", "run", "ning", "１", "２", "Ｃ", "a", "t", "🐶", "龘", "大"]
    assert aligned.spans[-1] == (17, 18)
    named = entities(text, (2, 9, "ORG"), (15, 17, "PER"))
    tags = tag_tokens(aligned.spans, named)
    assert tags == ["O", "B-ORG", "I-ORG", *["O"] * 5, "B-PER", "I-PER", "O"]
    assert [one.key for one in gather(text, aligned.spans, tags)] == [
        (2, 9, "ORG"),
        (15, 17, "PER"),
    ]
    assert unreachable(aligned, text, named) == 0
    # half of a piece: no labels spell it
    assert unreachable(aligned, text, entities(text, (2, 4, "ORG"))) == 1


def test_lengths_that_change():
    # ﬁ and İ become two characters, é one and an accent that is dropped; a zero-width space none
    for compat in ("clip_text", "cn_clip", "hf"):
        tokenizer = Tokenizer(tiny_tokenizer().backend, compat=compat)
        text = "é\u200bİ天ＡＢ狗"
        (aligned,) = tokenizer.align([text])
        known = {
            text[start:end]: token
            for token, (start, end) in zip(
                tokenizer.backend.convert_ids_to_tokens(aligned.ids), aligned.spans, strict=True
            )
        }
        assert (known["天"], known["狗"]) == ("天", "狗"), compat
        assert aligned.ids == tokenizer.token_ids([text])[0][1:-1]
        named = entities(text, (3, 4, "LOC"), (6, 7, "PER"))
        assert unreachable(aligned, text, named) == 0
    with pytest.raises(ValueError, match="got 'open_clip', whose cleaning"):
        Tokenizer(tiny_tokenizer().backend, compat="open_clip").align(["a"])


def test_windows_by_hand():
    assert windows(5, 6, 2) == [Window(0, 5, (0, 5))]
    assert windows(6, 6, 2) == [Window(0, 6, (0, 6))]
    assert windows(0, 6, 2) == [Window(0, 0, (0, 0))]
    # 4 and 5 are in both: 4 lies deeper in the first, 5 in the second
    assert windows(10, 6, 2) == [Window(0, 6, (0, 5)), Window(4, 10, (5, 10))]
    assert windows(7, 6, 0) == [Window(0, 6, (0, 4)), Window(1, 7, (4, 7))]
    for length in range(40):
        parts = windows(length, 7, 3)
        owned = [at for part in parts for at in range(*part.owned)]
        assert owned == list(range(length))
        assert all(part.start <= part.owned[0] <= part.owned[1] <= part.end for part in parts)
        assert all(part.end - part.start == min(7, length) for part in parts)
    with pytest.raises(ValueError, match=r"expected an overlap from 0 to 5 .*, got 6"):
        windows(10, 6, 6)


def test_examples_label_each_token_once():
    found = recognizer(overlap=4, context_length=8)  # room for 6
    text = "红绿蓝黄黑白色心星圆"
    tagged = read_like(text, (4, 7, "PER"))
    rows = entity_examples(found, [tagged]).rows
    per = bio_labels(found.types)
    assert [ids[0] for ids, _ in rows] == [CLS] * len(rows)
    assert [ids[-1] for ids, _ in rows] == [SEP] * len(rows)
    assert all(len(ids) == len(labels) == 8 for ids, labels in rows)
    learnt = [per[label] for _, labels in rows for label in labels if label != IGNORED]
    assert learnt == ["O"] * 4 + ["B-PER", "I-PER", "I-PER"] + ["O"] * 3
    batch = entity_examples(found, [tagged, read_like("红")]).collate([*rows[:1], ([CLS], [0])])
    assert batch["labels"][1].tolist() == [0] + [IGNORED] * 7


def read_like(text, *places):
    from clip_text.data.tagged_text import TaggedText

    return TaggedText(text, entities(text, *places), "here")


def test_predictions_do_not_depend_on_batches_and_read_all_of_a_text():
    found = recognizer()
    texts = ["", " ", "大", "run running 12", "红绿蓝黄黑白色心星圆方狗猫鸟鱼马花树草地水天人" * 3]
    together = found.entities(texts)
    assert together[:2] == [[], []]
    for text, one in zip(texts, together, strict=True):
        (alone,) = found.entities([text], batch_size=1)
        assert [each.key for each in alone] == [each.key for each in one]
        assert all(text[each.start : each.end] == each.text for each in one)
        assert all(0 < each.score <= 1 for each in one)
    assert max(each.end for each in together[-1]) > 40  # far beyond the first window
    assert together[-1] == sorted(together[-1], key=lambda one: one.start)
    with pytest.raises(TypeError, match="expected a list of str, got one str"):
        found.entities("一")
    with pytest.raises(ValueError, match="batch_size"):
        found.entities(["一"], batch_size=0)


def test_a_very_long_document():
    found = recognizer(context_length=64, overlap=8)
    text = "红绿蓝黄黑白色心星圆" * 10_000
    (one,) = found.entities([text], batch_size=512)
    assert one
    assert one[-1].end <= 100_000
    assert one[-1].start > 99_000


@pytest.mark.parametrize("kind", BACKBONES)
def test_parity_with_transformers(kind, tmp_path):
    found = recognizer(kind)
    export_head(found, tmp_path / "plain")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "plain").eval()
    if kind == "bert":
        assert isinstance(model, BertForTokenClassification)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    texts = ["看 running１２", "大狗"]
    theirs = tokenizer(texts, padding=True, return_tensors="pt")
    tokens = found.tokenizer.pad(found.tokenizer.token_ids(texts))
    assert theirs["input_ids"].tolist() == tokens.tolist()
    with torch.no_grad():
        ours = found.head(tokens)["logits"]
        wanted = model(**theirs).logits
    mask = theirs["attention_mask"].bool()
    assert (ours - wanted)[mask].abs().max() < 1e-5
    assert model.config.id2label[1] == "B-PER"


def test_saved_beside_the_towers(tmp_path):
    folder = tmp_path / "model"
    save_checkpoint(shared_checkpoint(), folder)
    found = recognizer()
    save_heads({"names": found}, folder)
    assert (folder / "heads" / "names" / "head.json").is_file()
    for where in (folder, folder / "heads" / "names"):
        again = load_entities(where)
        assert again.types == found.types
        assert again.entities(["红绿蓝黄黑白色心星圆"]) == found.entities(["红绿蓝黄黑白色心星圆"])
    # the towers load as before
    assert Encoder.from_pretrained(folder, device="cpu").encode_text(["狗"]).shape == (1, 24)
    save_heads({"more": found}, folder)
    with pytest.raises(
        CheckpointError, match=r"expected one head of task entities .*, got more, na"
    ):
        load_entities(folder)
    assert load_entities(folder, "more").types == found.types
    with pytest.raises(CheckpointError, match=r"got none\. Train one first"):
        load_entities(folder, "other")
    (folder / "heads" / "more" / "head.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="safetensors"):
        load_entities(folder, "more")


def test_where_a_backbone_comes_from(tmp_path):
    folder = tmp_path / "pair"
    save_checkpoint(tiny_checkpoint(), folder)
    tower, tokenizer = start_backbone(folder, 100)
    assert tokenizer.context_length == 64  # the positions there are
    theirs = tiny_checkpoint().model.text.transformer.state_dict()
    assert all(torch.equal(theirs[name], w) for name, w in tower.transformer.state_dict().items())
    control, _ = start_backbone(folder, 100, random=True, seed=3)
    name = "embeddings.word_embeddings.weight"
    assert not torch.equal(control.transformer.state_dict()[name], theirs[name])
    again, _ = start_backbone(folder, 100, random=True, seed=3)
    assert torch.equal(control.transformer.state_dict()[name], again.transformer.state_dict()[name])
    save_heads({"ner": recognizer()}, tmp_path)
    place = tmp_path / "heads" / "ner"
    from_head, _ = start_backbone(place, 16)
    assert torch.equal(
        from_head.transformer.state_dict()[name],
        recognizer().head.tower.transformer.state_dict()[name],
    )


TEXTS = ["红狗在天上", "大猫看星", "白马在水上跑", "小鸟飞在树上", "黑狗看花", "一只猫坐在草地"]
ANIMALS = "狗猫马鸟"
PLACES = "天水树草"


def lesson(text):
    at = [(i, i + 1, "PER") for i, c in enumerate(text) if c in ANIMALS]
    at += [(i, i + 1, "LOC") for i, c in enumerate(text) if c in PLACES]
    return read_like(text, *sorted(at))


def make_trainer(folder, epochs=3, callbacks=(), times=1, *, bf16=False):
    found = recognizer(types=("LOC", "PER"))
    found.head.out.weight.data /= 40
    recipe = HeadRecipe(epochs=epochs, batch_size=3, learning_rate=3e-3, patience=epochs, bf16=bf16)
    texts = [lesson(text) for text in TEXTS]
    trainer = entity_trainer(found, texts * times, texts, recipe, folder, callbacks=callbacks)
    return found, trainer


def test_it_learns_a_few_texts_by_heart(tmp_path):
    found, trainer = make_trainer(tmp_path, epochs=6, times=16)
    trainer.fit()
    assert trainer.measure()["f1"] == 1.0
    assert [one.key for one in found.entities(["红狗在天上"])[0]] == [(1, 2, "PER"), (3, 4, "LOC")]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    whole, trainer = make_trainer(tmp_path / "whole")
    trainer.fit()
    _, first = make_trainer(tmp_path / "parts", callbacks=[Stop()])
    first.fit()
    assert first.state.global_step == 2
    parts, second = make_trainer(tmp_path / "parts")
    second.fit()
    assert second.state.global_step == trainer.state.global_step == 6
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(tensor, parts.head.state_dict()[name]), name


def test_early_stopping_and_draws(tmp_path):
    _, trainer = make_trainer(tmp_path, epochs=9)
    trainer.validate = iter([{"f1": f1} for f1 in (0.1, 0.5, 0.4, 0.3, 0.5, 0.2)]).__next__
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__name__ == "EarlyStop":
            callback.patience = 2
    trainer.fit()
    assert trainer.state.global_step == 8  # two steps an epoch, four epochs
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    batches = LengthGrouped([3] * 10, 4, seed=0)
    first, same = list(batches), list(batches)
    batches.set_epoch(1)
    assert first == same != list(batches)
    assert sorted(at for batch in first for at in batch) == list(range(10))
    assert len(batches) == len(first) == 3


def test_lines_of_a_unit_and_its_tag(tmp_path):
    path = write(
        tmp_path / "a.conll",
        "\ufeff-DOCSTART- O\n\n王\tB-PER\n明\tE-PER\n在\tO\n \tO\n\n\nI O\nlike NN O\n"
        "New NN B-LOC\nYork NN I-LOC\n,\tO\n3 I-NUM\n",
    )
    read = read_tagged(path)
    first, second = read.texts
    assert first.text == "王明在 "
    assert [one.key for one in first.entities] == [(0, 2, "PER")]
    assert first.where.endswith("a.conll, line 3")
    # words of more than a letter have a space between them, and none before a comma
    assert second.text == "I like New York,3"
    assert [(one.text, one.label) for one in second.entities] == [("New York", "LOC"), ("3", "NUM")]
    assert read.repaired == 1
    assert read.labels == ["LOC", "NUM", "PER"]
    letters = write(tmp_path / "b.txt", "i B-P\nP I-P\nh I-P\n")
    assert read_tagged(letters).texts[0].text == "iPh"
    with pytest.raises(DataError, match=r"type LOC, PER in .*a\.conll, line 9, got 'NUM' \('3'\)"):
        check_labels(read, ["LOC", "PER"])


@pytest.mark.parametrize("blank", ["  ", "\u3000 ", " \t", "\t ", "\t\t", "\xa0 "])
def test_a_unit_may_be_a_blank(blank, tmp_path):
    """A letter and its tag, written by a program that takes white space for a letter, too."""
    path = write(tmp_path / "a.txt", f"纽 B-LOC\n{blank}I-LOC\n约 I-LOC\n{blank}O\n\n \t\n好 O\n")
    first, second = read_tagged(path).texts
    assert first.text == f"纽{blank[0]}约{blank[0]}"
    assert [one.key for one in first.entities] == [(0, 3, "LOC")]
    assert second.text == "好"
    for lost in (" O", "\tO", "\u3000O"):
        path = write(tmp_path / "b.txt", f"王 O\n{lost}\n")
        with pytest.raises(DataError, match=r"line 2, got 'O' without its unit, which is gone\."):
            read_tagged(path)


def test_json_lines(tmp_path):
    lines = [
        {"text": ["王", "明"], "label": ["B-PER", "I-PER"]},
        {"tokens": ["a"], "ner_tags": ["O"]},
        {
            "text": "在北京 ok",
            "entities": [
                {"start": 4, "end": 6, "label": "X"},
                {"start": 1, "end": 3, "label": "LOC", "text": "北京"},
            ],
        },
    ]
    read = read_tagged(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines))))
    assert [text.text for text in read.texts] == ["王明", "a", "在北京 ok"]
    assert [one.key for one in read.texts[2].entities] == [(1, 3, "LOC"), (4, 6, "X")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", r"expected texts with entities in .*a\.txt, got none"),
        ("a.txt", "王 O\n明\n", r"a character or word and its tag in .*, line 2, got '明'\. Give"),
        ("a.txt", "王 O\n\tO\n", r"a character or word and its tag in .*, line 2, got 'O'"),
        ("a.txt", "王 O\n明 Q-PER\n", r"expected O, or a tag .* in .*, line 2, got 'Q-PER'\. Mend"),
        (
            "a.jsonl",
            '\n{"text": ["王"], "label": ["O", "O"]}',
            r"expected a tag for each of 1 units in .*, line 2, got 2 tags",
        ),
        ("a.jsonl", '{"text": ["王"], "label": ["B"]}', r"tag .* in .*, line 1, got 'B'"),
        ("a.jsonl", '{"text": [], "label": []}', r"expected a text in .*, line 1, got an empty"),
        ("a.jsonl", '{"text": ["王"]}', r"strings in label or .*, line 1, got NoneType\. .*: text"),
        ("a.jsonl", '{"text": " ", "entities": []}', r"expected a text in .*, got an empty one"),
        ("a.jsonl", '{"text": "王"}', r"a list of objects in 'entities' of .*, got NoneType"),
        (
            "a.jsonl",
            '{"text": "王", "entities": [{"start": 0, "end": 2, "label": "X"}]}',
            r"expected 0 <= start < end <= 1 .*, line 1, got start 0 and end 2",
        ),
        (
            "a.jsonl",
            '{"text": "王明", "entities": [{"start": 0, "end": 1, "label": "X", "text": "明"}]}',
            r"expected '明' at characters 0 to 1 in .*, line 1, got '王'",
        ),
        (
            "a.jsonl",
            '{"text": "王明", "entities": [{"start": 0, "end": 2, "label": "X"},'
            '{"start": 1, "end": 2, "label": "X"}]}',
            r"entities beside each other in .*, line 1, got '明' within or over '王明'",
        ),
        (
            "a.jsonl",
            '{"text": "王", "entities": [{"start": 0, "end": 1}]}',
            r"expected a label of the entity in .*, got None",
        ),
    ],
)
def test_broken_files_are_refused(name, text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_tagged(write(tmp_path / name, text))


def test_the_command(run, tmp_path, tiny_folder):
    lines = [
        {"text": list(text), "label": spell(len(text), lesson(text).entities)} for text in TEXTS
    ]
    data = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines * 16)))
    arguments = ["train", "ner", data, "--val", data, "--model", tiny_folder, "--epochs", 3]
    arguments += ["--batch-size", 3, "--learning-rate", 3e-3, "--json"]
    arguments += ["--out", tmp_path / "out", "--export", tmp_path / "plain"]
    code, stdout, stderr = run(*arguments)
    assert code == 0, stderr
    report = json.loads(stdout)
    assert report["f1"] > 0.7
    assert report["support"] == 10 * 16
    assert report["types"].keys() == {"LOC", "PER"}
    assert "f1" in stderr
    # beside the towers, which load
    assert Encoder.from_pretrained(tmp_path / "out", device="cpu").encode_text(["狗"]).shape[0] == 1
    found = load_entities(tmp_path / "out").entities(TEXTS)
    right = sum(
        one.key in {each.key for each in lesson(t).entities}
        for t, of_text in zip(TEXTS, found, strict=True)
        for one in of_text
    )
    assert right / 10 == pytest.approx(report["recall"])
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "plain")
    assert plain.config.id2label[0] == "O"
    # once more: nothing is trained, the same is said
    code, stdout, stderr = run(*arguments[:-5], "--out", tmp_path / "out")
    assert code == 0, stderr
    assert f"{100 * report['f1']:.1f}" in stdout
    for picture in ("curves.png", "confusion.png"):
        assert str(tmp_path / "out.run" / "ner" / picture) in stdout
        assert (tmp_path / "out.run" / "ner" / picture).stat().st_size > 5000
    code, _, stderr = run(*arguments, "--seed", 3)
    assert code == 1
    assert "seed. Name another folder" in stderr
    other = write(tmp_path / "b.txt", "王 B-ORG\n")
    code, _, stderr = run(*arguments, "--val", other)
    assert code == 1
    assert "line 1, got 'ORG'" in stderr


def test_help_without_torch():
    root = Path(__file__).parents[1]
    code = "import sys; import clip_text_cli.train.ner; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
