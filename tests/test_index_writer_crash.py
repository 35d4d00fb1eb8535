"""A writer killed at random points: what it acknowledged is there, once, and found."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from item_operations import ENCODER, OPERATIONS, Model

from retrieval.catalogue import Catalogue
from retrieval.errors import IndexNotFoundError
from retrieval.index import verify
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
    """What the catalogue says of each id, each once; nothing if it was never created."""
    try:
        catalogue = Catalogue.open(index_dir)
    except IndexNotFoundError:
        return {}
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


def check_searchable(index_dir, model: Model):
    """Each item is found by its feature, and all that is found is in the model."""
    if not model:
        return
    features = np.stack([entry.feature for entry in model.values()])
    with Searcher.open(index_dir, ENCODER) as searcher:
        assert len(searcher) == len(model)
        for image_id, hits in zip(model, searcher.search_features(features, 10**4), strict=True):
            scores = {hit.image_id: hit.score for hit in hits}
            assert scores.keys() == model.keys()
            assert len(hits) == len(model)
            assert scores[image_id] == pytest.approx(1, abs=1e-6)


def kill_again_and_again(nursery, index_dir, times, seed):
    chance = random.Random(seed)
    model: Model = {}
    acknowledged = []
    for number in range(times):
        seconds = chance.uniform(0.005, MOST_SECONDS)
        done, at_work = write_and_die(nursery, index_dir, seed + number, seconds)
        for operation in done:
            model = told(model, operation)
        now = stored(index_dir)
        if at_work is not None and now != said(model):
            # Not acknowledged: it may have happened, but then as a whole.
            model = told(model, at_work)
        assert now == said(model), f"kill {number}"
        acknowledged += [name for name, _ in done]
        if number % 2:  # else what is derived stays behind for the next writer
            check_searchable(index_dir, model)
            assert verify(index_dir).problems == []
    check_searchable(index_dir, model)
    assert set(acknowledged) == set(OPERATIONS), "some operation was never seen through"


def test_what_was_acknowledged_outlasts_20_kills(nursery, tmp_path):
    kill_again_and_again(nursery, tmp_path / "index", 20, 1)


@pytest.mark.slow
def test_what_was_acknowledged_outlasts_300_kills(nursery, tmp_path):
    kill_again_and_again(nursery, tmp_path / "index", 300, 1000)
