"""Files that the code of commit 3286393 wrote load as ever, and say the same.

It came before rooms and heads were cut anew.

What lies in ``tests/data/3286393`` was made in a checkout of that commit, with its tests importable
(and what SQLite leaves beside a catalogue removed)::

    models.WIDTH = 16
    models.VISION["vit"] |= {"layers": 1, "width": 16, "patch_size": 8}
    config = HeadConfig(labels=("动物", "植物"), multi_label=True, pooler="cls", form="bert")
    torch.manual_seed(3)
    pair = with_head(tiny_checkpoint(seed=1))
    tower = own_tower(pair.config.backbone, 16, config, 16)
    own = ClassificationHead(config, 16, tower)
    own.temperature.fill_(1.7)
    torch.nn.init.normal_(own.out.weight, std=8)
    finders = finder(overlap=3, longest=5, threshold=-100.5)
    heads, readers = {**pair.heads, "own": own}, {"ner": recognizer(), "qa": finders}
    checkpoint = replace(pair, heads=heads, token_heads=readers)
    save_checkpoint(checkpoint, OUT / "model", dtype=torch.half)
    for number in range(4):
        save_picture(photos / f"{number}.png", number)
    line = {"file_name": "3.png", "caption": "一只橘猫", "licence": "CC0"}
    (photos / "metadata.jsonl").write_text(json.dumps(line))
    index_folder(photos, OUT / "index", FakeEncoder())

``said.json`` is what that commit's Encoder and Searcher said of the texts and pictures below.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder

from clip_text import Encoder
from clip_text.checkpoints import load_answers, load_entities, start_backbone
from retrieval.search import Searcher

FOLDER = Path(__file__).parent / "data" / "3286393"
SAID = json.loads((FOLDER / "said.json").read_text(encoding="utf-8"))

TEXTS = ["红色的狗在跑", "", "cat running１２！" * 3]
QUESTIONS = ["狗在", "猫", "狗"]
PICTURES = np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3)


@pytest.fixture(scope="module")
def encoder():
    return Encoder.from_pretrained(FOLDER / "model", device="cpu")


def same(ours, theirs):
    """Compare what JSON can hold: numbers to rounding, all else exactly."""
    ours, theirs = (json.loads(json.dumps(each)) for each in (ours, theirs))
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == (pytest.approx(theirs, abs=1e-5) if isinstance(theirs, float) else theirs)


def test_rows_are_the_same_and_so_is_the_fingerprint(encoder):
    assert same(encoder.encode_text(TEXTS).tolist(), SAID["text_rows"])
    assert same(encoder.encode_image(PICTURES).tolist(), SAID["image_rows"])
    assert encoder.fingerprint == SAID["fingerprint"]  # or no index of that time could be searched


def test_every_head_says_the_same(encoder):
    assert sorted(encoder.heads) == ["kind", "ner", "own", "qa"]
    for head in ("kind", "own"):
        assert same([asdict(one) for one in encoder.classify(TEXTS, head)], SAID[head])
    found = encoder.entities(TEXTS)
    assert same([[asdict(entity) for entity in of_text] for of_text in found], SAID["entities"])
    answers = encoder.answers(QUESTIONS, TEXTS)
    assert same([answer and asdict(answer) for answer in answers], SAID["answers"])
    assert load_entities(FOLDER / "model").entities(TEXTS) == found
    assert load_answers(FOLDER / "model" / "heads" / "qa").answers(QUESTIONS, TEXTS) == answers
    tower, _ = start_backbone(FOLDER / "model" / "heads" / "ner", 16)
    weights = encoder.heads["ner"].tower.transformer.state_dict()
    assert all((weights[key] == each).all() for key, each in tower.transformer.state_dict().items())


def test_saved_again_they_say_the_same(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "again")
    again = Encoder.from_pretrained(tmp_path / "again", device="cpu")
    for head in ("kind", "own"):
        assert again.classify(TEXTS, head) == encoder.classify(TEXTS, head)
    assert again.entities(TEXTS) == encoder.entities(TEXTS)
    assert again.answers(QUESTIONS, TEXTS) == encoder.answers(QUESTIONS, TEXTS)


def test_the_index_gives_the_same_hits(tmp_path):
    shutil.copytree(FOLDER / "index", tmp_path / "index")
    with Searcher.open(tmp_path / "index", FakeEncoder()) as searcher:
        hits = [
            [hit.row, hit.image_id, hit.caption, hit.score] for hit in searcher.search("一只猫", 4)
        ]
    said = [(*hit[:3], pytest.approx(hit[3], abs=1e-3)) for hit in SAID["hits"]]  # fp16 now
    assert [tuple(hit) for hit in hits] == said
