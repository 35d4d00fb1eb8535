"""Shards that are dealt to ranks and workers: who reads what, and what does not depend on it."""

import io
import tarfile
from collections import Counter

import numpy as np
import pytest
from models import tiny_tokenizer
from PIL import Image

from clip_text.data.batches import Collator, MixtureBatchSampler, Pictures, Source
from clip_text.data.collection import shards_of
from clip_text.data.identity import captions_of
from clip_text.data.lanes import MIXED, Lanes
from clip_text.data.readers import read_retrieval_set
from clip_text.data.splits import held_out
from clip_text.data.webdataset import TarImages
from clip_text.errors import DataError
from clip_text.training.recipe import Recipe, RecipeError
from clip_text.training.stages import Stage, deal_shards

SIZES = (5, 9, 4, 6, 7, 5, 8, 4)  # pictures of each shard


def shards():
    return [shard for shard, size in enumerate(SIZES) for _ in range(size)]


def sampler(lanes, per_batch=6, **others):
    captions = [{"zh": [f"图 {picture}"]} for picture in range(sum(SIZES))]
    views = [np.zeros((sum(SIZES), 1), np.float32)]
    return MixtureBatchSampler(
        [Source(captions, views, {"zh": 1}, per_batch)], lanes=lanes, **others
    )


def batches(made, epoch=0):
    made.set_epoch(epoch)
    return [[draw.picture for draw in batch] for batch in made]


def test_all_shards_are_dealt_once_and_evenly():
    lanes = Lanes(shards(), ranks=2, workers=2)
    dealt = lanes.deal(np.random.default_rng(0))
    assert sorted(shard for lane in dealt for shard in lane) == list(range(len(SIZES)))
    held = [sum(SIZES[shard] for shard in lane) for lane in dealt]
    assert max(held) - min(held) <= max(SIZES)
    assert dealt != lanes.deal(np.random.default_rng(1))


def test_parts_of_a_batch_by_hand():
    lanes = Lanes(shards(), ranks=2, workers=3)
    # rank 0 has lanes 0, 1, 2, one for each of its workers; of 5 pictures the second has one more
    assert lanes.of_batch(0, 5) == [(0, 2), (3, 3)]
    assert lanes.of_batch(4, 5) == [(1, 2), (4, 3)]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_each_part_of_each_workers_batches_is_from_its_own_shards(ranks, workers):
    of = shards()
    made = sampler(Lanes(of, ranks, workers), per_batch=4)
    read = {}
    for number, batch in enumerate(batches(made)):
        assert len(set(batch)) == len(batch) == 4
        for rank in range(ranks):
            part = batch[4 * rank // ranks : 4 * (rank + 1) // ranks]
            lane = read.setdefault((rank, number % workers), set())
            lane.update(of[picture] for picture in part)
    seen = Counter(shard for lane in read.values() for shard in lane)
    assert set(seen.values()) == {1}, "no shard is read by two"
    assert len(read) == min(ranks * workers, ranks * len(made))


def test_an_epoch_shows_nearly_all_and_the_next_deals_anew():
    made = sampler(Lanes(shards(), 2), per_batch=6)
    first, second = batches(made), batches(made, 1)
    shown = Counter(picture for batch in first for picture in batch)
    assert len(first) == sum(SIZES) // 6
    assert len(shown) >= 0.8 * sum(SIZES)
    assert max(shown.values()) <= 2, "a lane that is through starts over"
    assert first != second
    assert batches(sampler(Lanes(shards(), 2), per_batch=6)) == first, "seed and epoch say it all"
    assert batches(sampler(Lanes(shards(), 2), per_batch=6, seed=1)) != first
    often = Counter(p for epoch in range(40) for batch in batches(made, epoch) for p in batch)
    assert len(often) == sum(SIZES)
    assert min(often.values()) > 20, "no picture is left out for ever"


def test_few_shards_are_open_at_a_time():
    lanes = Lanes([shard for shard in range(20) for _ in range(10)], 1)
    order = lanes.pictures(lanes.deal(np.random.default_rng(0))[0], np.random.default_rng(0))
    assert sorted(order) == list(range(200))
    for first in range(0, 200, MIXED * 10):
        assert len({picture // 10 for picture in order[first : first + MIXED * 10]}) == MIXED
    assert len({picture // 10 for picture in order[:10]}) > 1, "and these are mixed"


def test_too_few_shards_or_pictures():
    with pytest.raises(
        DataError, match="at least 10 shards to deal to 5 ranks with 2 workers, got 8"
    ):
        Lanes(shards(), 5, 2)
    with pytest.raises(DataError, match="expected 16 pictures or more in the shards of each lane"):
        batches(sampler(Lanes(shards(), 3), per_batch=48))


@pytest.fixture
def tars(tmp_path):
    for number in range(4):
        with tarfile.open(tmp_path / f"train-{number:04d}.tar", "w") as tar:
            for inside in range(6):
                picture = io.BytesIO()
                Image.new("RGB", (8, 8), (40 * number, 9 * inside, 5)).save(picture, "PNG")
                members = {"png": picture.getvalue(), "txt": f"图 {number} {inside}".encode()}
                for ending, data in members.items():
                    member = tarfile.TarInfo(f"{number}{inside}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """Which shards pictures were read from."""
    told = []
    plain = TarImages.__getitem__

    def spied(self, image_id):
        told.append(self.shard_of(image_id))
        return plain(self, image_id)

    monkeypatch.setattr(TarImages, "__getitem__", spied)
    return told


def test_a_split_of_shards_reads_no_picture_and_knows_their_shards(tars, read):
    train, held = held_out(read_retrieval_set(str(tars / "train-{0000..0003}.tar")), 4)
    assert read == []
    assert len(train.image_ids) == 20
    assert [int(name[0]) for name in train.image_ids] == shards_of(train.images)
    assert [int(name[0]) for name in held.image_ids] == shards_of(held.images)
    train.images[0]
    assert read == [shards_of(train.images)[0]]


def test_ranks_read_their_own_shards_and_together_the_whole_batch(tars, read):
    train = read_retrieval_set(str(tars / "train-{0000..0003}.tar"))
    lanes = deal_shards(stage(shard_ranks=2), train)
    source = Source(captions_of(train), [Pictures(train.images, 8)], {"": 1}, 6)
    drawn = list(MixtureBatchSampler([source], lanes=lanes))
    whole = [Collator([source], tiny_tokenizer())(batch)["images"] for batch in drawn]
    parts, by_rank = [], []
    for rank in range(2):
        read.clear()
        collate = Collator([source], tiny_tokenizer(), part=(rank, 2))
        parts.append([collate(batch)["images"] for batch in drawn])
        by_rank.append(set(read))
    assert [len(shards) for shards in by_rank] == [2, 2]
    assert not by_rank[0] & by_rank[1]
    for one, *two in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(two), one)


def stage(**others):
    return Stage(name="both", recipe=Recipe(epochs=1), **others)


def test_what_is_asked_for_reaches_the_stage(tars):
    train = read_retrieval_set(str(tars / "train-{0000..0003}.tar"))
    assert deal_shards(stage(), train) is None
    assert deal_shards(stage(shard_ranks=2, shard_workers=2), train) == Lanes(
        shards_of(train.images), 2, 2
    )
    assert repr(stage(shard_ranks=2)) == repr(stage()), "runs of before know themselves by it"
    loose = held_out(train, 4)[0]
    plain = type(loose)(loose.name, loose.image_ids, list(loose.images), loose.texts, loose.answers)
    with pytest.raises(RecipeError, match="expected pictures in shards"):
        deal_shards(stage(shard_ranks=2), plain)
