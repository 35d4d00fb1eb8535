"""A writer killed at random points: what it acknowledged is there, once, and found."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from item_operations import ENCODER, OPERATIONS, RECIPES, Model

from retrieval.catalogue import Catalogue
from retrieval.errors import IndexNotFoundError
from retrieval.index import open_index, state_of, verify
from retrieval.index.sealed import current
from retrieval.search import Searcher

HERE = Path(__file__).parent
MOST_SECONDS = 0.25


@pytest.fixture
def nursery():
    """A process that forks writers and kills them."""
    with subprocess.Popen(
        [sys.executable, HERE / "writing_process.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
    ) as process:
        yield process
        process.stdin.close()


def write_and_die(nursery, index_dir, seed, seconds):
    """Let a writer work and kill it; gives what it acknowledged, and what it was doing."""
    nursery.stdin.write(json.dumps([str(index_dir), seed, seconds]) + "\n")
    nursery.stdin.flush()
    acknowledged, at_work = [], None
    while not (line := nursery.stdout.readline()).startswith("status"):
        assert line, "the nursery died"
        if line.startswith("begin"):
            at_work = json.loads(line.removeprefix("begin"))
        else:
            acknowledged.append(at_work)
            at_work = None
    assert int(line.split()[1]) == -signal.SIGKILL, "the writer ended by itself"
    return acknowledged, at_work


def told(model: Model, done) -> Model:
    name, arguments = done
    return OPERATIONS[name].tell(model, arguments)


def stored(index_dir):
    """What the catalogue says of each id, each once; None if it was never created."""
    try:
        catalogue = Catalogue.open(index_dir)
    except IndexNotFoundError:
        return None
    with catalogue:
        records = list(catalogue)
        features = {
            row: feature.tobytes()
            for rows, page in catalogue.features()
            for row, feature in zip(rows.tolist(), page, strict=True)
        }
    assert list(features) == [record.row for record in records]
    held = {record.picture.image_id: record for record in records}
    assert len(held) == len(records)
    return {
        key: (one.picture.caption, one.metadata, features[one.row]) for key, one in held.items()
    }


def said(model: Model):
    return {
        key: (entry.caption, entry.metadata, entry.feature.tobytes())
        for key, entry in model.items()
    }


class Watch:
    """What looks at an index after each kill: a searcher that stays open over all of them."""

    def __init__(self, index_dir):
        self.index_dir = index_dir
        self.states = Counter()
        self._searcher = None

    def check(self, model: Model):
        """Each item is found by its feature, and all that is found is in the model."""
        with Catalogue.open(self.index_dir) as catalogue:
            self._check_vectors(catalogue, model)
        if self._searcher is None:
            self._searcher = Searcher.open(self.index_dir, ENCODER)
        self._searcher._rest_until = 0.0  # however busy the machine, none is passed over
        self._searcher.refresh()
        with Searcher.open(self.index_dir, ENCODER) as opened:
            for searcher in (self._searcher, opened):
                assert len(searcher) == len(model)
                if model:
                    self._check_hits(searcher, model)

    def _check_vectors(self, catalogue, model):
        """The index itself, before the catalogue leaves out of its hits what is gone."""
        index, generation = open_index(self.index_dir, catalogue)
        ids = {record.row: record.picture.image_id for record in catalogue}
        assert generation == catalogue.generation
        assert sorted(index.rows.tolist()) == sorted(ids)
        told = state_of(self.index_dir, catalogue)
        assert told["state"] in ("not sealed", "behind", "up to date")
        if told["sealed"]:
            assert index.origin == current(self.index_dir)
        self.states.update(name for name in ("sealed", "tail", "tombstones") if told[name])
        self.states[told.get("recipe", "")] += 1
        self.states["left behind"] += bool(list(self.index_dir.glob("vectors/*.partial")))
        if ids:
            features = np.stack([model[name].feature for name in ids.values()])
            scores, rows = index.search(features, len(ids))
            for row, own_scores, own_rows in zip(ids, scores, rows, strict=True):
                assert sorted(own_rows.tolist()) == sorted(ids)
                assert own_scores[own_rows == row] == pytest.approx([1], abs=1e-6)

    def _check_hits(self, searcher, model):
        features = np.stack([entry.feature for entry in model.values()])
        for image_id, hits in zip(model, searcher.search_features(features, 10**4), strict=True):
            scores = {hit.image_id: hit.score for hit in hits}
            assert scores.keys() == model.keys()
            assert len(hits) == len(model)
            assert scores[image_id] == pytest.approx(1, abs=1e-6)

    def close(self):
        if self._searcher is not None:
            self._searcher.close()


def kill_again_and_again(nursery, index_dir, times, seed):
    """Gives what the index was like after the kills, and what was killed how often."""
    chance = random.Random(seed)
    model: Model = {}
    done_at_all, killed = set(), Counter()
    with contextlib.closing(Watch(index_dir)) as watch:
        for number in range(times):
            seconds = chance.uniform(0.005, MOST_SECONDS)
            done, at_work = write_and_die(nursery, index_dir, seed + number, seconds)
            for operation in done:
                model = told(model, operation)
            now = stored(index_dir)
            if now is None:
                assert not done
                continue
            if at_work is not None:
                killed[at_work[0]] += 1
                if now != said(model):
                    # Not acknowledged: it may have happened, but then as a whole.
                    model = told(model, at_work)
            assert now == said(model), f"kill {number}"
            done_at_all |= {name for name, _ in done}
            watch.check(model)
            if number % 2:  # else what is derived stays behind for the next writer
                assert verify(index_dir).problems == []
    assert done_at_all == set(OPERATIONS), "some operation was never seen through"
    return watch.states, killed


def test_what_was_acknowledged_outlasts_20_kills(nursery, tmp_path):
    states, _ = kill_again_and_again(nursery, tmp_path / "index", 20, 1)
    assert min(states[name] for name in ("sealed", "tail", "tombstones")) > 0


@pytest.mark.slow
def test_what_was_acknowledged_outlasts_300_kills(nursery, tmp_path):
    states, killed = kill_again_and_again(nursery, tmp_path / "index", 300, 1000)
    assert min(states[name] for name in ("sealed", "tail", "tombstones", "left behind")) > 0
    assert min(states[recipe.factory] for recipe in RECIPES.values()) > 0
    assert set(killed) == set(OPERATIONS), "none was killed at some operation"
