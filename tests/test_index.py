"""One contract for every VectorIndex: a new engine joins by one line in ENGINES."""

import os

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.catalogue import Catalogue
from retrieval.catalogue.changes import Change
from retrieval.errors import CorruptIndexError
from retrieval.index import INDEX_NAME, FaissIndex, open_index, sync
from retrieval.records import Picture

ENGINES = [FaissIndex]


def unit_rows(count: int, embed_dim: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, embed_dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(queries, features, rows, k):
    """Cosines in float64, ties by row, in plain numpy."""
    cosines = (queries.astype(np.float64)[:, None] * features[None]).sum(axis=2)
    cosines = cosines.astype(np.float32).clip(-1, 1)
    order = [np.lexsort((rows, -line))[:k] for line in cosines]
    return (
        np.array([line[best] for line, best in zip(cosines, order, strict=True)]),
        np.array([rows[best] for best in order]),
    )


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.__name__)
def engine(request):
    return request.param


class TestContract:
    def test_by_hand(self, engine):
        index = engine(2)
        # Lengths differ on purpose: by L2 distance, row 7 would win over row 3.
        index.add(numbers(3, 7, 5), np.array([[0.6, 0.8], [0.1, 0.0], [-1, 0]], np.float32))
        scores, rows = index.search(np.array([[1, 0], [0, 1]], np.float32), 3)
        assert rows.tolist() == [[3, 7, 5], [3, 5, 7]]
        assert scores == pytest.approx(np.array([[0.6, 0.1, -1.0], [0.8, 0.0, 0.0]]))
        assert (scores.dtype, rows.dtype) == (np.float32, np.int64)

    def test_an_empty_index_has_no_hits(self, engine):
        index = engine(3)
        scores, rows = index.search(unit_rows(2, 3, 0), 5)
        assert (scores.shape, rows.shape, len(index)) == ((2, 0), (2, 0), 0)
        index.remove(numbers(1))
        index.add(numbers(), np.empty((0, 3), np.float32))
        assert len(index) == 0

    def test_a_change_is_taken_over_in_one_step(self, engine):
        index, features = engine(8), unit_rows(4, 8, 0)
        index.apply(
            Change(1, numbers(), numbers(1, 2, 3), iter([(numbers(1, 2, 3), features[:3])]))
        )
        # row 1 is gone, 9 was never held, 2 has another feature, 5 is new; pages of one row
        pages = iter([(numbers(2), features[3:]), (numbers(5), features[:1])])
        index.apply(Change(2, numbers(1, 9), numbers(2, 5), pages))
        assert len(index) == 3
        held, rows = features[[3, 2, 0]], numbers(2, 3, 5)
        scores, found = index.search(features, 9)
        wanted, order = brute_force(features, held, rows, 9)
        assert found.tolist() == order.tolist()
        assert scores == pytest.approx(wanted)

    def test_no_queries_give_no_answers(self, engine):
        index = engine(3)
        index.add(numbers(1, 2), unit_rows(2, 3, 0))
        scores, rows = index.search(np.empty((0, 3), np.float32), 5)
        assert (scores.shape, rows.shape) == ((0, 2), (0, 2))

    def test_k_beyond_the_size_gives_what_there_is(self, engine):
        index = engine(3)
        index.add(numbers(10, 20), unit_rows(2, 3, 0))
        for k in (2, 3, 1000):
            _, rows = index.search(unit_rows(1, 3, 1), k)
            assert sorted(rows[0].tolist()) == [10, 20]

    @pytest.mark.parametrize("k", [1, 2, 7, 20, 49, 50])
    @pytest.mark.parametrize("queries", [1, 64])  # FAISS computes few and many differently
    def test_equal_features_come_in_the_order_of_their_rows(self, engine, k, queries):
        index = engine(64)
        shuffled = np.random.default_rng(0).permutation(50).astype(np.int64) + 1
        index.add(shuffled, np.repeat(unit_rows(1, 64, 5), 50, axis=0))
        scores, rows = index.search(unit_rows(queries, 64, 6), k)
        assert rows.tolist() == [list(range(1, k + 1))] * queries
        assert (scores == scores[:, :1]).all()

    @pytest.mark.parametrize("queries", [1, 5, 64])
    def test_an_answer_does_not_depend_on_the_other_queries(self, engine, queries):
        index = engine(48)
        index.add(np.arange(1, 301), unit_rows(300, 48, 1))
        many = unit_rows(64, 48, 2)
        all_scores, all_rows = index.search(many, 10)
        scores, rows = index.search(many[:queries], 10)
        assert scores.tobytes() == all_scores[:queries].tobytes()
        assert rows.tolist() == all_rows[:queries].tolist()

    @pytest.mark.parametrize("matching", [0, 1, 30, 2_900, 3_000])
    @pytest.mark.parametrize("k", [1, 10, 100])
    def test_among_some_rows_it_finds_what_brute_force_finds(self, engine, matching, k):
        index, features = engine(16), unit_rows(3_000, 16, 5)
        features[1_000:1_200] = features[:200]  # ties
        rows = np.random.default_rng(1).permutation(3_000).astype(np.int64) * 2
        index.add(rows, features)
        chosen = np.random.default_rng(2).permutation(3_000)[:matching]
        # half of what is asked for is not held: odd rows, and rows beyond the last
        among = np.sort(np.concatenate([rows[chosen], rows[chosen] + 1, rows[chosen] + 6_001]))
        queries = np.concatenate([features[:2], unit_rows(2, 16, 6)])
        scores, found = index.search(queries, k, among)
        wanted, order = brute_force(queries, features[chosen], rows[chosen], k)
        assert found.tolist() == order.tolist()
        assert scores == pytest.approx(wanted)

    def test_cosines_never_leave_their_range(self, engine):
        index = engine(512)
        features = unit_rows(200, 512, 3)
        index.add(np.arange(200), np.concatenate([features[:100], -features[:100]]))
        scores, _ = index.search(features[:100], 200)
        assert scores.max() <= 1.0
        assert scores.min() >= -1.0
        assert scores[:, 0] == pytest.approx(1.0, abs=1e-6)

    def test_removed_rows_are_gone_and_the_rest_stays(self, engine):
        index = engine(8)
        features = unit_rows(6, 8, 4)
        index.add(np.arange(6), features)
        index.remove(numbers(0, 3, 99))
        _, rows = index.search(features[:1], 6)
        assert sorted(rows[0].tolist()) == [1, 2, 4, 5]
        assert sorted(index.rows.tolist()) == [1, 2, 4, 5]
        index.add(numbers(3), features[:1])
        scores, rows = index.search(features[:1], 1)
        assert (rows.tolist(), scores[0, 0]) == ([[3]], pytest.approx(1.0))

    def test_a_copy_is_independent(self, engine):
        index = engine(4)
        index.add(numbers(1, 2), unit_rows(2, 4, 0))
        twin = index.copy()
        twin.remove(numbers(1))
        twin.add(numbers(5), unit_rows(1, 4, 1))
        assert (sorted(index.rows.tolist()), sorted(twin.rows.tolist())) == ([1, 2], [2, 5])
        del index
        assert twin.search(unit_rows(1, 4, 1), 1)[1].tolist() == [[5]]

    def test_saved_and_loaded_it_is_the_same(self, engine, tmp_path):
        path = tmp_path / "索引.bin"
        index = engine(16)
        index.add(numbers(5, 2**40), unit_rows(2, 16, 0))
        index.save(path, "stamp:7")
        loaded, stamp = engine.load(path)
        queries = unit_rows(3, 16, 1)
        assert stamp == "stamp:7"
        assert loaded.embed_dim == 16
        for ours, theirs in zip(index.search(queries, 2), loaded.search(queries, 2), strict=True):
            assert ours.tobytes() == theirs.tobytes()
        loaded.add(numbers(6), unit_rows(1, 16, 3))
        assert (len(loaded), len(index)) == (3, 2)
        assert [left.name for left in tmp_path.iterdir()] == [path.name]

    def test_a_failed_save_leaves_the_file_before(self, engine, tmp_path, monkeypatch):
        path = tmp_path / "index"
        index = engine(4)
        index.save(path, "before")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            index.save(path, "after")
        assert engine.load(path)[1] == "before"
        assert [left.name for left in tmp_path.iterdir()] == [path.name]

    def test_every_damage_to_the_file_is_found(self, engine, tmp_path):
        path = tmp_path / "index"
        index = engine(8)
        index.add(np.arange(20), unit_rows(20, 8, 0))
        index.save(path, "stamp")
        sound = path.read_bytes()
        damaged = [b"", b"\n", b"{}\n1234", b"[]\n1234", sound[:-1], sound[: len(sound) // 2]]
        damaged += [sound + b"\0", sound[:10]]
        for place in range(0, len(sound), 37):
            damaged.append(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        for content in damaged:
            path.write_bytes(content)
            with pytest.raises(CorruptIndexError):
                engine.load(path)
        with pytest.raises(FileNotFoundError):
            engine.load(tmp_path / "nothing")

    def test_what_does_not_fit_is_refused(self, engine):
        index = engine(4)
        index.add(numbers(1), unit_rows(1, 4, 0))
        with pytest.raises(ValueError, match=r"width 4 .* got shape"):
            index.search(unit_rows(1, 5, 0), 1)
        with pytest.raises(ValueError, match=r"width 4 .* got shape"):
            index.search(unit_rows(1, 4, 0)[0], 1)
        with pytest.raises(ValueError, match=r"width 4 .* got shape"):
            index.add(numbers(2), unit_rows(1, 5, 0))
        with pytest.raises(ValueError, match="one per feature"):
            index.add(numbers(2, 3), unit_rows(1, 4, 0))
        with pytest.raises(ValueError, match="does not hold yet"):
            index.add(numbers(1), unit_rows(1, 4, 0))
        with pytest.raises(ValueError, match="does not hold yet"):
            index.add(numbers(2, 2), unit_rows(2, 4, 0))
        for k in (0, -1):
            with pytest.raises(ValueError, match="k of at least 1"):
                index.search(unit_rows(1, 4, 0), k)
        assert len(index) == 1


@st.composite
def cases(draw):
    """Features with many equal ones, so that ties matter, under shuffled rows; removals."""
    count = draw(st.integers(0, 60))
    distinct = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pool = unit_rows(distinct, 24, int(rng.integers(2**32)))
    rows = rng.permutation(count).astype(np.int64) + 1
    removed = np.array(sorted(draw(st.sets(st.integers(1, 60)))), np.int64)
    queries = unit_rows(draw(st.integers(1, 30)), 24, int(rng.integers(2**32)))
    return rows, pool[rng.integers(0, distinct, count)], removed, queries


@given(case=cases(), k=st.integers(1, 70))
@pytest.mark.parametrize("engine_type", ENGINES)
def test_search_equals_brute_force(engine_type, case, k):
    rows, features, removed, queries = case
    index = engine_type(24)
    half = len(rows) // 2
    index.add(rows[:half], features[:half])
    index.add(rows[half:], features[half:])
    index.remove(removed)
    keep = ~np.isin(rows, removed)
    scores, found = index.search(queries, k)
    expected_scores, expected_rows = brute_force(queries, features[keep], rows[keep], k)
    assert found.tolist() == expected_rows.tolist()
    assert scores.tolist() == expected_scores.tolist()


# The file is derived from the catalogue


def picture(name: str) -> Picture:
    path = f"/p/{name}".encode()
    return Picture(b"/p", path, name, 1, 1, path, None, None, None, "{}")


@pytest.fixture
def catalogue(tmp_path):
    with Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=8) as opened:
        with opened.transaction():
            for i, feature in enumerate(unit_rows(5, 8, 0)):
                opened.add(picture(str(i)), feature)
        yield opened


def same_as_catalogue(index: FaissIndex, catalogue: Catalogue) -> bool:
    fresh, generation = sync(FaissIndex(8), 0, catalogue)
    queries = unit_rows(4, 8, 9)
    ours, theirs = index.search(queries, 99), fresh.search(queries, 99)
    return generation == catalogue.generation and all(
        a.tolist() == b.tolist() for a, b in zip(ours, theirs, strict=True)
    )


def change(catalogue: Catalogue) -> None:
    with catalogue.transaction():
        catalogue.remove([2])
        catalogue.replace(4, picture("3"), unit_rows(1, 8, 77)[0])
        catalogue.add(picture("new"), unit_rows(1, 8, 78)[0])


def test_sync_touches_only_what_changed(catalogue, monkeypatch):
    index, generation = sync(FaissIndex(8), 0, catalogue)
    assert same_as_catalogue(index, catalogue)
    change(catalogue)
    added: list[int] = []
    real_add = FaissIndex.add

    def watched_add(self, rows, features):
        added.extend(rows.tolist())
        real_add(self, rows, features)

    with monkeypatch.context() as patch:
        patch.setattr(FaissIndex, "add", watched_add)
        index, later = sync(index, generation, catalogue)
    assert added == [4, 6]
    assert later == generation + 1
    assert sorted(index.rows.tolist()) == [1, 3, 4, 5, 6]
    assert same_as_catalogue(index, catalogue)


def test_a_missing_file_is_written(tmp_path, catalogue):
    index, generation = open_index(tmp_path, catalogue)
    assert same_as_catalogue(index, catalogue)
    loaded, stamp = FaissIndex.load(tmp_path / INDEX_NAME)
    assert stamp == f"{catalogue.uid}:{generation}"
    assert same_as_catalogue(loaded, catalogue)


def test_a_stale_file_is_brought_up_to_date(tmp_path, catalogue):
    open_index(tmp_path, catalogue)
    change(catalogue)
    assert same_as_catalogue(open_index(tmp_path, catalogue)[0], catalogue)
    assert same_as_catalogue(FaissIndex.load(tmp_path / INDEX_NAME)[0], catalogue)


@pytest.mark.parametrize("content", [b"", b"rubbish", b'{"format": "other-1", "stamp": "x"}\n1234'])
def test_a_damaged_file_is_rebuilt_and_said_so(tmp_path, catalogue, content, caplog):
    (tmp_path / INDEX_NAME).write_bytes(content)
    assert same_as_catalogue(open_index(tmp_path, catalogue)[0], catalogue)
    assert "rebuilding" in caplog.text
    assert same_as_catalogue(FaissIndex.load(tmp_path / INDEX_NAME)[0], catalogue)


def test_a_file_of_another_catalogue_or_a_later_one_is_not_believed(tmp_path, catalogue):
    wrong = FaissIndex(8)
    wrong.add(numbers(1), unit_rows(1, 8, 5))
    for stamp in (f"other:{catalogue.generation}", f"{catalogue.uid}:{catalogue.generation + 1}"):
        wrong.save(tmp_path / INDEX_NAME, stamp)
        assert same_as_catalogue(open_index(tmp_path, catalogue)[0], catalogue)


def test_a_sound_file_is_not_written_again(tmp_path, catalogue):
    open_index(tmp_path, catalogue)
    before = (tmp_path / INDEX_NAME).stat()
    open_index(tmp_path, catalogue)
    after = (tmp_path / INDEX_NAME).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_an_index_that_cannot_be_kept_still_serves(tmp_path, catalogue, monkeypatch, caplog):
    def full(self, path, stamp):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FaissIndex, "save", full)
    assert same_as_catalogue(open_index(tmp_path, catalogue)[0], catalogue)
    assert "No space left" in caplog.text


def test_what_a_killed_save_left_is_swept_after_an_hour(tmp_path):
    old, young = tmp_path / ".index.old", tmp_path / ".index.young"
    for left in (old, young):
        left.touch()
    os.utime(old, (0, 0))
    FaissIndex(4).save(tmp_path / "index", "s")
    assert (old.exists(), young.exists()) == (False, True)


def test_faiss_holds_an_exact_inner_product():
    """The scar of vicinity: L2 searched under the name of cosine."""
    held = FaissIndex(4)._faiss
    assert held.metric_type == faiss.METRIC_INNER_PRODUCT
    assert isinstance(faiss.downcast_index(held.index), faiss.IndexFlatIP)
