"""Reading captions, drawing batches, collating them."""

import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from models import CLS, PAD, SEP, VOCABULARY, tiny_tokenizer
from PIL import Image

from clip_text.data.batches import (
    Collator,
    Draw,
    DrawDataset,
    MixtureBatchSampler,
    Pictures,
    Source,
)
from clip_text.data.captions import Captioned, read_captions
from clip_text.errors import DataError


def write(tmp_path, *lines):
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_read_captions(tmp_path):
    path = write(
        tmp_path,
        json.dumps({"image": "a.jpg", "zh": ["一只狗", "狗"], "en": "a dog", "more": 1}),
        "",
        json.dumps({"image": "b.jpg", "zh": [], "en": ["cat"]}, ensure_ascii=False),
        "   ",
    )
    assert read_captions(path, ["zh", "en"]) == [
        Captioned("a.jpg", {"zh": ["一只狗", "狗"], "en": ["a dog"]}),
        Captioned("b.jpg", {"zh": [], "en": ["cat"]}),
    ]


def test_read_captions_of_another_field(tmp_path):
    path = write(tmp_path, json.dumps({"file": "a.jpg", "zh": "狗"}))
    assert read_captions(path, ["zh"], "file") == [Captioned("a.jpg", {"zh": ["狗"]})]


GOOD = json.dumps({"image": "a.jpg", "zh": ["狗"]})


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ('{"image": "a.jpg", "zh": ["狗"]', "expected a JSON object in"),
        ("[1, 2]", "got list"),
        ("null", "got NoneType"),
        ('"text"', "got str"),
        ('{"zh": ["狗"]}', "field 'image' .* got None.* The fields there are: zh"),
        ('{"image": "a.jpg"}', "field 'zh' .* got None.* The fields there are: image"),
        ('{"image": "a.jpg", "zh": 3}', "field 'zh' .* got 3"),
        ('{"image": "a.jpg", "zh": ["狗", 3]}', r"field 'zh' .* got \['狗', 3\]"),
        ('{"image": "a.jpg", "zh": {"a": "b"}}', "field 'zh' .* got {"),
        ('{"image": 7, "zh": ["狗"]}', "field 'image' .* got 7"),
        ('{"image": ["a", "b"], "zh": ["狗"]}', "expected one file name in 'image' .* got 2"),
        ('{"image": [], "zh": ["狗"]}', "expected one file name in 'image' .* got 0"),
    ],
)
def test_a_bad_line_is_named(line, got, tmp_path):
    path = write(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(DataError, match=got) as caught:
        read_captions(path, ["zh"])
    assert f"{path}, line 3" in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_an_empty_file_is_refused(lines, tmp_path):
    with pytest.raises(DataError, match=r"got an empty file\. Check the path\."):
        read_captions(write(tmp_path, *lines), ["zh"])


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_captions(tmp_path / "none.jsonl", ["zh"])


def source(pictures=10, per_batch=3, views=1, missing=(), **options):
    """Pictures with two kinds of captions; each view's row tells which it is: [picture, view]."""
    captions = [
        {
            "zh": [f"红{at}" + "心" * length for length in range(4)],
            "en": [f"red {at}" + "x" * length for length in range(4)],
        }
        for at in range(pictures)
    ]
    arrays = [
        np.stack([np.array([at, view], np.float16) for at in range(pictures)])
        for view in range(views)
    ]
    for picture, view in missing:
        arrays[view][picture] = np.nan
    options = {"weights": {"zh": 0.5, "en": 0.5}} | options
    return Source(captions, arrays, per_batch=per_batch, **options)


def epoch(sources, number=0, seed=0):
    sampler = MixtureBatchSampler(sources, seed)
    sampler.set_epoch(number)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


def pictures(batches, at=0):
    return [draw.picture for draw in chain(*batches) if draw.source == at]


@pytest.mark.parametrize("number", [0, 1, 7])
def test_an_epoch_shows_each_picture_of_the_first_source_once(number):
    batches = epoch([source(12, per_batch=3), source(5, per_batch=2)], number)
    assert len(batches) == 4
    assert sorted(pictures(batches)) == list(range(12))
    for batch in batches:
        assert [draw.source for draw in batch[:3]] == [0, 0, 0]
        assert {draw.source for draw in batch[3:]} == {1}


def test_a_rest_too_small_for_a_batch_waits_for_another_epoch():
    seen = [set(pictures(epoch([source(10, per_batch=3)], number))) for number in range(6)]
    assert all(len(shown) == 9 for shown in seen)
    assert set().union(*seen) == set(range(10))


def test_another_source_starts_over_evenly():
    batches = epoch([source(20, per_batch=2), source(4, per_batch=2)])
    shown = Counter(pictures(batches, 1))
    assert shown == dict.fromkeys(range(4), 5)  # 10 batches of 2 from 4 pictures


def test_no_picture_twice_in_a_batch():
    for number in range(5):
        for batch in epoch([source(8, per_batch=2), source(5, per_batch=4)], number):
            drawn = [(draw.source, draw.picture) for draw in batch]
            assert len(set(drawn)) == len(drawn)


def test_draws_depend_on_seed_and_epoch_alone():
    def make():
        return [source(9, views=3), source(7, per_batch=2, views=2)]

    assert epoch(make(), 3, seed=5) == epoch(make(), 3, seed=5)
    used = MixtureBatchSampler(make(), 5)
    for number in (0, 1, 3):  # what was drawn before leaves no trace
        used.set_epoch(number)
        last = list(used)
    assert last == epoch(make(), 3, seed=5)
    assert epoch(make(), 3, seed=5) != epoch(make(), 4, seed=5)
    assert epoch(make(), 3, seed=5) != epoch(make(), 3, seed=6)


def test_captions_of_a_source_in_a_batch_are_of_one_kind():
    kinds = Counter()
    for number in range(10):
        for batch in epoch([source(12), source(8, per_batch=4)], number):
            for at in (0, 1):
                texts = chain(*(draw.captions for draw in batch if draw.source == at))
                (kind,) = {"en" if text.startswith("red") else "zh" for text in texts}
                kinds[kind] += 1
    assert min(kinds.values()) > 20  # of 80: both occur


def test_weights_choose_the_kind():
    batches = epoch([source(12, weights={"zh": 0.0, "en": 2.0})])
    assert all(t.startswith("red") for draw in chain(*batches) for t in draw.captions)


def test_a_picture_without_the_kind_gives_what_it_has():
    lacking = Source(
        [{"zh": [], "en": ["red"]}, {"zh": ["红"], "en": ["dog"]}],
        [np.zeros((2, 1))],
        {"zh": 1.0},
        per_batch=2,
    )
    (batch,) = epoch([lacking])
    assert {draw.picture: draw.captions for draw in batch} == {0: ("red",), 1: ("红",)}


def test_captions_are_neighbours_in_length_and_of_one_rank():
    """In a batch, all pictures give captions of the same place in their order of length."""
    firsts = set()
    for number in range(10):
        for batch in epoch([source(12, captions_per_image=2, weights={"zh": 1})], number):
            ranks = {tuple(text.count("心") for text in draw.captions) for draw in batch}
            assert len(ranks) == 1
            assert ranks <= {(0, 1), (1, 2), (2, 3)}
            firsts |= ranks
    assert len(firsts) == 3


def test_fewer_captions_than_asked_for():
    batches = epoch([source(6, captions_per_image=9, weights={"zh": 1})])
    for draw in chain(*batches):
        assert len(draw.captions) == len(set(draw.captions)) == 4


def test_equal_lengths_and_doubles_have_one_order_in_every_process():
    """Python orders a set of texts differently in every process; a resumed run must not."""
    texts = [f"{a}{b}" for a in "红绿蓝黄黑白" for b in "狗猫鸟鱼"]
    lone = Source([{"zh": texts * 2}], [np.zeros((1, 1))], {"zh": 1}, 1, captions_per_image=99)
    ((draw,),) = epoch([lone])
    assert draw.captions == tuple(sorted(texts))


def test_views_a_picture_lacks_are_never_drawn():
    missing = [(0, 0), (0, 2), (1, 1), (3, 0), (3, 1)]
    mixed = source(4, per_batch=4, views=3, missing=missing)
    seen = {
        (draw.picture, draw.view) for number in range(60) for draw in chain(*epoch([mixed], number))
    }
    assert seen == {(p, v) for p in range(4) for v in range(3)} - set(missing)


def test_a_picture_without_a_view_is_refused():
    hopeless = source(4, views=2, missing=[(2, 0), (2, 1)])
    with pytest.raises(DataError, match=r"at least one view .*, got 1 pictures without\. Drop"):
        MixtureBatchSampler([hopeless])


@pytest.mark.parametrize("captions", [{}, {"zh": []}, {"zh": [], "en": []}])
def test_a_picture_without_a_caption_is_refused(captions):
    with pytest.raises(DataError, match=r"a caption for every picture, got 1 pictures without\. "):
        Source([{"zh": ["红"]}, captions], [np.zeros((2, 1))], {"zh": 1}, 1)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(DataError, match=r"at most 10 pictures in a batch .*, got 11\. Lower"):
        source(10, per_batch=11)
    assert len(epoch([source(10, per_batch=10)])) == 1


@pytest.mark.parametrize("views", [[], [np.zeros((3, 1))], [np.zeros((2, 1)), np.zeros((3, 1))]])
def test_views_of_other_pictures_are_refused(views):
    with pytest.raises(DataError, match=r"expected 2 pictures in every view, got \["):
        Source([{"zh": ["红"]}] * 2, views, {"zh": 1}, 1)


def test_the_dataset_hands_on_what_the_sampler_says():
    sampler = MixtureBatchSampler([source(9, per_batch=3), source(4, per_batch=2)])
    dataset = DrawDataset(sampler)
    assert len(dataset) == 3 * 5
    draw = next(iter(sampler))[0]
    assert dataset[draw] is draw


TOKENIZER = tiny_tokenizer()
ANIMALS = Source(
    [{"zh": ["红", "狗"]}, {"zh": ["狗"], "en": ["猫"]}, {"zh": ["鸟", "鱼"]}, {"zh": ["狗"]}],
    [np.arange(8, dtype=np.float16).reshape(4, 2), -np.arange(8, dtype=np.float16).reshape(4, 2)],
    {"zh": 1},
    per_batch=3,
)
COLOURS = Source([{"zh": ["绿绿绿绿绿绿"]}], [np.full((1, 2), 0.5, np.float32)], {"zh": 1}, 1)


def ids(*characters):
    return [CLS, *(VOCABULARY.index(c) for c in characters), SEP]


def test_collate_by_hand():
    collate = Collator([ANIMALS, COLOURS], TOKENIZER)
    batch = collate(
        [
            Draw(0, 0, 1, ("红", "狗"), 32),
            Draw(0, 2, 0, ("鸟",), 32),
            Draw(0, 1, 0, ("猫",), 32),
            Draw(1, 0, 0, ("绿绿绿绿绿绿",), 5),
        ]
    )
    assert set(batch) == {"tokens", "images", "positives"}
    assert batch["tokens"].tolist() == [
        [*ids("红"), PAD, PAD],
        [*ids("狗"), PAD, PAD],
        [*ids("鸟"), PAD, PAD],
        [*ids("猫"), PAD, PAD],
        ids("绿", "绿", "绿"),  # cut to five tokens, [SEP] kept
    ]
    assert batch["images"].dtype == torch.float32
    assert batch["images"].tolist() == [[0, -1], [4, 5], [2, 3], [0.5, 0.5]]
    # 狗 was drawn for picture 0, and is right for picture 1 (third column), too; picture 3,
    # also a 狗, is not in the batch
    assert batch["positives"].dtype == torch.bool
    assert batch["positives"].int().tolist() == [
        [1, 0, 0, 0],
        [1, 0, 1, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]


def test_one_text_drawn_for_both_of_its_pictures():
    batch = Collator([ANIMALS], TOKENIZER)(
        [Draw(0, 3, 0, ("狗",), 32), Draw(0, 2, 0, ("鱼",), 32), Draw(0, 1, 0, ("狗",), 32)]
    )
    assert batch["positives"].int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_every_batch_has_positives_in_rows_and_columns():
    sources = [ANIMALS, COLOURS]
    collate = Collator(sources, TOKENIZER)
    for number in range(5):
        for draws in epoch(sources, number):
            positives = collate(draws)["positives"]
            assert positives.any(0).all()
            assert positives.any(1).all()


def test_teacher_rows_and_silence():
    rows = {"红": np.array([1, 2, 3], np.float16), "狗": np.array([4, 5, 6], np.float64)}
    collate = Collator([ANIMALS], TOKENIZER, rows, teacher_dim=3)
    batch = collate([Draw(0, 2, 0, ("鸟",), 32), Draw(0, 0, 0, ("红", "狗"), 32)])
    assert batch["teacher"].dtype == torch.float32
    assert batch["teacher"].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]


def test_hard_negatives_are_texts_of_no_picture_unless_they_are():
    collate = Collator([ANIMALS], TOKENIZER)
    batch = collate([Draw(0, 0, 0, ("红",), 32, ("猫",)), Draw(0, 1, 0, ("狗",), 32, ("大",))])
    # 猫 is another picture's caption, 大 nobody's
    assert batch["positives"].int().tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert batch["tokens"].tolist() == [ids("红"), ids("猫"), ids("狗"), ids("大")]


def test_a_batch_has_one_of_a_pictures_hard_negatives():
    wrong = [["错一", "错二"], [], *[["错"]] * 8]
    drawn = [
        draw for number in range(8) for draw in chain(*epoch([source(negatives=wrong)], number))
    ]
    seen = {at: {draw.negatives for draw in drawn if draw.picture == at} for at in (0, 1, 2)}
    assert seen == {0: {("错一",), ("错二",)}, 1: {()}, 2: {("错",)}}


@pytest.mark.parametrize("parts", [2, 3])
def test_the_parts_of_a_batch_are_the_whole(parts):
    (draws,) = epoch([source(7, per_batch=7, captions_per_image=2)])
    draws[3] = Draw(0, draws[3].picture, 0, draws[3].captions[:1], 32, ("错",))
    whole = Collator([source(7)], TOKENIZER)(draws)
    pieces = [Collator([source(7)], TOKENIZER, part=(at, parts))(draws) for at in range(parts)]
    assert all(torch.equal(piece["positives"], whole["positives"]) for piece in pieces)
    assert torch.equal(torch.cat([piece["images"] for piece in pieces]), whole["images"])
    texts = [row for piece in pieces for row in piece["tokens"].tolist()]
    assert [[t for t in row if t != PAD] for row in texts] == [
        [t for t in row if t != PAD] for row in whole["tokens"].tolist()
    ]


def clashing(pictures=12):
    """Two of every three pictures share a caption with another."""
    captions = [{"zh": ["同" if at % 3 else f"自{at}", f"独{at}"]} for at in range(pictures)]
    return Source(captions, [np.zeros((pictures, 2), np.float16)], {"zh": 1}, 3, 2)


def test_pictures_that_share_a_caption_are_kept_apart():
    def clashes(keep_apart):
        sampler = MixtureBatchSampler([clashing()], keep_apart=keep_apart)
        batches = list(sampler)
        assert sorted(pictures(batches)) == list(range(12)), "every picture once"
        return [sum("同" in draw.captions for draw in batch) for batch in batches]

    assert max(clashes(False)) > 1
    apart = clashes(True)
    assert apart[0] == 1
    assert apart[1] == 1
    assert sum(apart) == 8, "the last batches take what is left"


def test_pictures_are_read_when_asked_for_and_cropped_by_their_seed(tmp_path):
    ramp = np.tile(np.arange(60, dtype=np.uint8)[:, None, None] * 4, (1, 60, 3))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    whole = Pictures([tmp_path / "ramp.png"], 30)
    assert np.array_equal(whole.load(0), whole.load(0, 3)), "no crop was asked for"
    cropped = Pictures([tmp_path / "ramp.png"], 30, crop=0.5)
    assert cropped.load(0, 1).shape == (30, 30, 3)
    assert np.array_equal(cropped.load(0, 1), cropped.load(0, 1))
    assert not np.array_equal(cropped.load(0, 1), cropped.load(0, 2))
    assert np.array_equal(cropped.load(0), whole.load(0)), "without a seed, the picture itself"
    shown = int(cropped.load(0, 1).max()) - int(cropped.load(0, 1).min())
    assert shown < 220, "less than the whole ramp of 0..236"
    pixels = Source([{"zh": ["狗"]}], [cropped], {"zh": 1}, 1)
    batch = Collator([pixels], TOKENIZER)(epoch([pixels])[0])
    assert batch["images"].dtype == torch.uint8
    assert batch["images"].shape == (1, 30, 30, 3)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"expected picture 1 .*broken\.jpg.*data check"):
        Pictures([tmp_path / "a.jpg", tmp_path / "broken.jpg"], 30).load(1)
