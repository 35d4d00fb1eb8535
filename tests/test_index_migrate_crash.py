"""A migration killed at random, and at every point that matters: the index is always whole."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import as_stored, save_picture
from migrating_process import BEFORE_THE_COMMIT, POINTS, NumberedEncoder

from retrieval.catalogue import Catalogue
from retrieval.index import compact, verify
from retrieval.ingest import IndexWriter, index_folder
from retrieval.search import Searcher

HERE = Path(__file__).parent
COUNT = 48
MOST_SECONDS = 0.2


@pytest.fixture(scope="module")
def nursery():
    """A process that forks migrations and kills them; gives what to call."""
    with subprocess.Popen(
        [sys.executable, HERE / "migrating_process.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
    ) as process:

        def move(index_dir, number, seconds=None, point=None):
            process.stdin.write(json.dumps([str(index_dir), number, seconds, point]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline().split()[1])

        yield move
        process.stdin.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        save_picture(folder / f"{number}.png", number)
    return folder


class Watch:
    """What an index has to have, whichever of the models it is of."""

    def __init__(self, index_dir, photos):
        self.index_dir = index_dir
        index_folder(photos, index_dir, NumberedEncoder(0))
        compact(index_dir)
        with Catalogue.open(index_dir) as catalogue:
            self._records = list(catalogue)
        self._expected = {}

    def number(self):
        with Catalogue.open(self.index_dir) as catalogue:
            return int(catalogue.fingerprint.removeprefix("model-"))

    def check(self, folder=None):
        """Look through an index; gives the number of its model."""
        folder = folder or self.index_dir
        with Catalogue.open(folder) as catalogue:
            number = int(catalogue.fingerprint.removeprefix("model-"))
            encoder = NumberedEncoder(number)
            assert catalogue.embed_dim == encoder.embed_dim
            assert list(catalogue) == self._records
            features = catalogue.features_of([record.row for record in self._records])
        for record in self._records:
            np.testing.assert_array_equal(features[record.row], self._row(number, record))
        with Searcher.open(folder, encoder) as searcher:
            hits = searcher.search("猫", COUNT + 10)
        assert sorted(hit.row for hit in hits) == [record.row for record in self._records]
        return number

    def _row(self, number, record):
        key = number, record.row
        if key not in self._expected:
            encoded = NumberedEncoder(number).encode_file(record.path)
            self._expected[key] = as_stored(encoded)
        return self._expected[key]

    def beside(self):
        found = self.index_dir.parent.glob(f"{self.index_dir.name}.*")
        return sorted(path.name.removeprefix(f"{self.index_dir.name}.") for path in found)

    def kept(self):
        """The models of what was kept, in the order of their numbers."""
        found = self.index_dir.parent.glob(f"{self.index_dir.name}.before-migration*")
        in_order = sorted(found, key=lambda path: (len(path.name), path.name))
        return [self.check(folder) for folder in in_order]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_it_is_whole_and_the_same_command_ends_it(
    nursery, tmp_path, photos, point
):
    watch = Watch(tmp_path / "index", photos)
    assert nursery(watch.index_dir, 1, point=point) == -signal.SIGKILL
    assert watch.check() == (0 if point in BEFORE_THE_COMMIT else 1)
    assert verify(watch.index_dir).problems == [] or point in ("committed", "unsealed")
    assert nursery(watch.index_dir, 1) == 0
    assert watch.check() == 1
    assert verify(watch.index_dir).problems == []
    assert watch.kept() == [0]
    assert watch.beside() == ["before-migration"]


@pytest.mark.parametrize("point", ["written", "committed"])
def test_killed_there_it_takes_writes_of_the_model_that_it_has(nursery, tmp_path, photos, point):
    watch = Watch(tmp_path / "index", photos)
    assert nursery(watch.index_dir, 1, point=point) == -signal.SIGKILL
    encoder = NumberedEncoder(watch.check())
    with IndexWriter.open(watch.index_dir, encoder) as writer:
        writer.add("since", path=photos / "1.png")
    assert nursery(watch.index_dir, 1) == 0
    with Searcher.open(watch.index_dir, NumberedEncoder(1)) as searcher:
        assert len(searcher.search("猫", COUNT + 10)) == COUNT + 1
    assert verify(watch.index_dir, repair=True).problems == []


def kill_again_and_again(nursery, watch, times, seed):
    """Move an index from model to model, with so many kills on the way; gives how far it came."""
    chance = random.Random(seed)
    number, killed = 1, 0
    while killed < times:
        status = nursery(watch.index_dir, number, seconds=chance.uniform(0.0, MOST_SECONDS))
        assert status in (0, -signal.SIGKILL)
        killed += status != 0
        assert watch.check() in (number - 1, number)
        if status == 0:
            assert watch.number() == number
            number += 1
    assert nursery(watch.index_dir, number) == 0
    assert watch.check() == number
    assert watch.kept() == list(range(number))
    assert set(watch.beside()) == {
        "before-migration" if one < 1 else f"before-migration-{one + 1}" for one in range(number)
    }
    return number


def test_it_outlasts_10_kills(nursery, tmp_path, photos):
    kill_again_and_again(nursery, Watch(tmp_path / "index", photos), 10, 1)


@pytest.mark.slow
def test_it_outlasts_200_kills(nursery, tmp_path, photos):
    watch = Watch(tmp_path / "index", photos)
    assert kill_again_and_again(nursery, watch, 200, 1000) > 5
