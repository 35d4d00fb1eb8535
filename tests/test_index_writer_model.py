"""Any sequence of operations on an index's items equals the same on a plain dict."""

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from item_operations import ENCODER, OPERATIONS, SEAL_EARLY, WIDTH, Entry, Model, unit_row

from retrieval.catalogue import Catalogue
from retrieval.errors import ItemError, ItemNotFoundError
from retrieval.index import open_index
from retrieval.ingest import IndexWriter, Item
from retrieval.search import Searcher

CHANCE = st.randoms(use_true_random=False)


@pytest.fixture(autouse=True)
def seal_early(monkeypatch):
    for module, name, value in SEAL_EARLY:
        monkeypatch.setattr(module, name, value)


def expected_hits(model: Model, query, k):
    """Brute force: cosines in float64, best first."""
    scores = {key: float(entry.feature.astype(np.float64) @ query) for key, entry in model.items()}
    return sorted(scores.items(), key=lambda pair: -pair[1])[:k]


class ItemsAsADict(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.index_dir = self.folder / "index"
        self.writer = IndexWriter.open(self.index_dir, ENCODER)
        self.searcher = Searcher.open(self.index_dir, ENCODER)
        self.model: Model = {}
        self.seen: Model = {}  # what the searcher took over last

    @rule(chance=CHANCE, name=st.sampled_from(list(OPERATIONS)))
    def operate(self, chance: random.Random, name):
        operation = OPERATIONS[name]
        arguments = operation.choose(chance, sorted(self.model))
        if arguments is not None:
            self.writer = operation.do(self.writer, arguments)
            self.model = operation.tell(self.model, arguments)

    @rule(chance=CHANCE)
    def fail(self, chance):
        """What is refused changes nothing, whatever stands before it in the call."""
        good = Item("good", feature=unit_row(chance.randrange(99)))
        with pytest.raises(ItemError):
            self.writer.add_many([good, Item("bad", feature=np.zeros(WIDTH, np.float32))])
        with pytest.raises(ItemNotFoundError):
            self.writer.delete([*self.model, "not there"])

    @rule(seed=st.integers(0, 99), k=st.integers(1, 12))
    def search(self, seed, k):
        self.searcher._rest_until = 0.0  # however busy the machine, none is passed over
        self.searcher.refresh()
        self.seen = self.model
        (hits,) = self.searcher.search_features(unit_row(seed)[None], k)
        expected = expected_hits(self.model, unit_row(seed), k)
        assert [hit.image_id for hit in hits] == [image_id for image_id, _ in expected]
        scores = [score for _, score in expected]
        assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-6)
        for hit in hits:
            entry = self.model[hit.image_id]
            assert (hit.caption, hit.metadata) == (entry.caption, entry.metadata)

    @rule(seed=st.integers(0, 99))
    def search_the_past(self, seed):
        """Without a refresh, a searcher ranks what it took over, less what is gone."""
        (hits,) = self.searcher.search_features(unit_row(seed)[None], 10**4)
        expected = expected_hits(self.seen, unit_row(seed), 10**4)
        rows = {hit.image_id: hit.score for hit in hits}
        assert rows.keys() <= self.model.keys()
        assert {key for key, _ in expected if key in self.model} >= rows.keys()
        for key, score in expected:
            if self.model.get(key) == self.seen[key]:  # neither replaced nor gone
                assert rows[key] == pytest.approx(score, abs=1e-6)

    @rule()
    def open_anew(self):
        self.searcher.close()
        self.searcher = Searcher.open(self.index_dir, ENCODER)
        self.seen = self.model

    @invariant()
    def holds_what_the_dict_holds(self):
        features = {
            row: feature.tobytes()
            for rows, page in self.writer._catalogue.features()
            for row, feature in zip(rows.tolist(), page, strict=True)
        }
        held = {
            record.picture.image_id: (record.picture.caption, record.metadata, features[record.row])
            for record in self.writer
        }
        assert held == {
            key: (entry.caption, entry.metadata, entry.feature.tobytes())
            for key, entry in self.model.items()
        }
        assert len(self.writer) == len(self.model)

    @invariant()
    def searches_what_the_dict_holds(self):
        """The sealed files, what came and what went since, as somebody opens them now."""
        with Catalogue.open(self.index_dir) as catalogue:
            index, generation = open_index(self.index_dir, catalogue)
            rows = {record.picture.image_id: record.row for record in catalogue}
            assert generation == catalogue.generation
        assert sorted(index.rows.tolist()) == sorted(rows.values())
        for image_id, entry in self.model.items():
            scores, found = index.search(entry.feature[None], 1)
            assert scores[0, 0] == pytest.approx(1, abs=1e-6)
            same = [rows[key] for key, one in self.model.items() if one.source == entry.source]
            assert rows[image_id] in same
            assert found[0, 0] == min(same)

    def teardown(self):
        self.searcher.close()
        self.writer.close()
        shutil.rmtree(self.folder)


ItemsAsADict.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
TestItemsAsADict = ItemsAsADict.TestCase


class TestItemsAtLength(ItemsAsADict.TestCase):
    pytestmark = pytest.mark.slow
    settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_the_model_knows_two_sources_of_features():
    made = {Entry((kind, 1), None, {}).feature.tobytes() for kind in ("feature", "data")}
    assert len(made) == 2
