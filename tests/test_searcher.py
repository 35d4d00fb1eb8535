import dataclasses
import json
import multiprocessing
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import orjson
import pytest
from fakes import FakeEncoder, as_stored, save_picture
from indexing_process import start_process

from retrieval.catalogue import Catalogue
from retrieval.errors import (
    EncoderError,
    IndexMismatchError,
    IndexNotFoundError,
    QueryError,
    RetrievalError,
)
from retrieval.filters import matches
from retrieval.filters.language import parse_where
from retrieval.index import compact
from retrieval.ingest import index_folder
from retrieval.search import Hit, Searcher, relevance

COUNT = 12


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "图片"
    for i in range(COUNT):
        save_picture(pictures / f"{i:02}.png", i)
    line = {"file_name": "03.png", "caption": "一只橘猫", "licence": "CC0", "tags": ["猫"]}
    (pictures / "metadata.jsonl").write_text(json.dumps(line), encoding="utf-8")
    return pictures


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.fixture
def index_dir(tmp_path, folder, encoder):
    index_folder(folder, tmp_path / "index", encoder)
    return tmp_path / "index"


@pytest.fixture
def searcher(index_dir, encoder):
    with Searcher.open(index_dir, encoder) as opened:
        yield opened


def expected_order(
    folder: Path, encoder: FakeEncoder, query: np.ndarray
) -> list[tuple[str, float]]:
    scored = [
        (path.name, float(query.astype(np.float64) @ as_stored(encoder.encode_file(path))))
        for path in sorted(folder.glob("*.png"))
    ]
    return sorted(scored, key=lambda pair: -pair[1])


def test_a_text_finds_what_brute_force_finds(searcher, folder, encoder):
    hits = searcher.search("一只橘猫", top_k=5)
    expected = expected_order(folder, encoder, encoder.encode_text(["一只橘猫"])[0])[:5]
    assert [hit.image_id for hit in hits] == [name for name, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-3)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert hits[0].path == folder / hits[0].image_id


class TestFilters:
    @pytest.fixture
    def folder(self, folder):
        lines = [
            {"file_name": f"{i:02}.png", "n": i, "tags": ["偶", f"m{i % 3}"] if i % 2 == 0 else []}
            for i in range(COUNT)
        ]
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
        return folder

    @pytest.mark.parametrize("text", ['tags = "偶"', "n >= 3 and not n = 5", "n = 4", "n < 0"])
    @pytest.mark.parametrize("top_k", [1, 3, 50])
    def test_hits_are_those_that_brute_force_gives(self, searcher, folder, encoder, text, top_k):
        where = parse_where(text)
        everything = searcher.search("一只橘猫", COUNT)
        with Catalogue.open(searcher._index_dir) as catalogue:
            held = {record.row for record in catalogue if matches(where, record)}
        expected = [(hit.row, hit.score) for hit in everything if hit.row in held][:top_k]
        hits = searcher.search("一只橘猫", top_k, where)
        assert [(hit.row, hit.score) for hit in hits] == expected
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        (answer,) = searcher.answers(["一只橘猫"], top_k, where)
        assert answer.hits == hits
        (by_features,) = searcher.search_features(encoder.encode_text(["一只橘猫"]), top_k, where)
        assert by_features == hits

    def test_pictures_removed_since_the_last_refresh_make_place(self, searcher, encoder):
        where = parse_where('tags = "偶"')
        hits = searcher.search("x", 50, where)
        options = {"fingerprint": encoder.fingerprint, "embed_dim": encoder.embed_dim}
        with (
            Catalogue.create_or_open(searcher._index_dir, **options) as catalogue,
            catalogue.transaction(),
        ):
            catalogue.remove([hits[0].row, hits[2].row])
        found = searcher.search("x", 2, where)
        assert [hit.row for hit in found] == [hits[1].row, hits[3].row]

    def test_pictures_that_a_refresh_has_yet_to_take_over_are_no_trouble(
        self, searcher, folder, encoder
    ):
        save_picture(folder / "new.png", 99)
        index_folder(folder, searcher._index_dir, encoder)
        where = parse_where("n >= 10 or not exists(n)")
        assert len(searcher.search("x", 50, where)) == 2
        assert searcher.refresh()
        assert len(searcher.search("x", 50, where)) == 3

    def test_what_is_said_of_pictures_counts_at_once(self, searcher, folder, encoder):
        where = parse_where("n = 100")
        assert searcher.search("x", 50, where) == []
        line = {"file_name": "03.png", "n": 100}
        (folder / "metadata.jsonl").write_text(json.dumps(line), encoding="utf-8")
        index_folder(folder, searcher._index_dir, encoder)
        assert [hit.image_id for hit in searcher.search("x", 50, where)] == ["03.png"]

    def test_facets(self, searcher):
        counts = searcher.facets("tags", parse_where("n < 6"))
        assert [(count.value, count.count) for count in counts] == [
            ("偶", 3),
            ("m0", 1),
            ("m1", 1),
            ("m2", 1),
        ]

    def test_a_filter_that_cannot_be_used_is_refused_before_anything_is_encoded(self, searcher):
        with pytest.raises(QueryError, match="Did you mean tags"):
            searcher.search("x", 3, parse_where("tag = 'a'"))


def test_a_picture_finds_itself_with_all_that_is_known_of_it(searcher, folder, encoder):
    features = np.stack([encoder.encode_file(folder / f"{i:02}.png") for i in (3, 7)])
    (first, *_), (second, *_) = searcher.search_features(features, top_k=3)
    assert first == Hit(
        rank=1,
        score=first.score,
        row=4,
        image_id="03.png",
        path=folder / "03.png",
        caption="一只橘猫",
        metadata={"licence": "CC0", "tags": ["猫"]},
    )
    assert first.score == pytest.approx(1.0, abs=1e-6)
    assert (second.image_id, second.caption, second.metadata) == ("07.png", None, {})


def test_a_hit_cannot_be_changed(searcher):
    with pytest.raises(dataclasses.FrozenInstanceError):
        searcher.search("猫")[0].score = 1.0


@pytest.mark.parametrize("query", ["", " ", "\n\t", "　", None, 3, b"cat", ["cat"]])
def test_what_is_no_text_is_refused(searcher, query):
    with pytest.raises(QueryError, match="expected a text"):
        searcher.search(query)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3", None, True])
def test_a_top_k_below_one_is_refused(searcher, encoder, top_k):
    with pytest.raises(QueryError, match="top_k of at least 1"):
        searcher.search("猫", top_k=top_k)
    with pytest.raises(QueryError, match="top_k of at least 1"):
        searcher.search_features(encoder.encode_text(["猫"]), top_k=top_k)


def test_a_top_k_beyond_the_size_gives_everything(searcher):
    assert len(searcher) == COUNT
    for top_k in (COUNT, COUNT + 1, 10**9, np.int64(50)):
        assert len(searcher.search("猫", top_k=top_k)) == COUNT


def test_features_that_give_no_cosines_are_refused(searcher, encoder):
    row = encoder.encode_text(["猫"])
    for features, what in [
        (row[0], "shape"),
        (row[:, :-1], "width 16 .* got 15"),
        (row * 2, "unit rows, got length 2"),
        (row * np.nan, "unit rows"),
        ("猫", "no array"),
    ]:
        with pytest.raises(QueryError, match=what):
            searcher.search_features(features)
    assert searcher.search_features(np.empty((0, 16), np.float32)) == []


def test_an_encoder_that_breaks_its_promise_is_blamed(index_dir):
    class Careless(FakeEncoder):
        def encode_text(self, texts):
            return super().encode_text(texts) * 3

    with (
        Searcher.open(index_dir, Careless()) as searcher,
        pytest.raises(EncoderError, match="length 3"),
    ):
        searcher.search("猫")


def test_an_empty_index_has_no_hits(tmp_path, encoder):
    (tmp_path / "empty").mkdir()
    index_folder(tmp_path / "empty", tmp_path / "index", encoder)
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        assert len(searcher) == 0
        assert searcher.search("猫") == []
        assert searcher.search_features(encoder.encode_text(["猫", "狗"])) == [[], []]


def test_no_index_names_the_command(tmp_path, encoder):
    with pytest.raises(IndexNotFoundError, match="clip-text index FOLDER"):
        Searcher.open(tmp_path / "nothing", encoder)
    assert not (tmp_path / "nothing").exists()


def test_another_model_is_refused(index_dir):
    with pytest.raises(IndexMismatchError, match="fingerprint fake-1"):
        Searcher.open(index_dir, FakeEncoder(fingerprint="fake-2"))
    with pytest.raises(IndexMismatchError, match="width 16"):
        Searcher.open(index_dir, FakeEncoder(embed_dim=8))


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_the_sealed_vectors_are_derived(index_dir, encoder, damage):
    compact(index_dir)
    with Searcher.open(index_dir, encoder) as searcher:
        before = searcher.search("猫")
    (features,) = (index_dir / "vectors").glob("sealed-*/features.npy")
    if damage == "missing":
        shutil.rmtree(index_dir / "vectors")
    else:
        features.write_bytes(b"rubbish")
    with Searcher.open(index_dir, encoder) as searcher:
        assert searcher.search("猫") == before


def test_an_index_sealed_meanwhile_is_taken_over(searcher, index_dir, folder, encoder):
    before = searcher.search("猫", 50)
    compact(index_dir)
    assert searcher.refresh() is True
    assert searcher.refresh() is False
    assert searcher.search("猫", 50) == before
    save_picture(folder / "new.png", 100)
    index_folder(folder, index_dir, encoder)
    compact(index_dir)
    assert searcher.refresh() is True
    assert len(searcher) == len(searcher.search("猫", 50)) == COUNT + 1


def test_infinite_numbers_of_before_are_null(searcher, index_dir):
    database = sqlite3.connect(index_dir / "catalogue.sqlite")
    stored = '{"a": [Infinity, -Infinity], "b": "Infinity", "c": NaN, "d": 1}'
    database.execute("UPDATE images SET metadata = ?", (stored,))
    database.commit()
    database.close()
    expected = {"a": [None, None], "b": "Infinity", "c": None, "d": 1}
    sent, parsed = searcher.search("x", top_k=2)
    assert orjson.loads(sent.metadata_json) == expected  # as strict as browsers are
    assert parsed.metadata == expected
    assert searcher.record(parsed.row).metadata == expected


def test_hit_path(searcher, folder):
    assert searcher.hit_path(1) == folder / "00.png"
    for row in (0, -1, COUNT + 1, 2**63, 10**30):
        assert searcher.hit_path(row) is None


def test_names_that_are_no_utf8_lead_to_the_file(tmp_path, encoder):
    name = os.fsdecode(b"\xff\n\xe7\x8c\xab.png")
    try:
        save_picture(tmp_path / "p" / name, 1)
    except OSError:
        pytest.skip("the file system takes no such names")
    index_folder(tmp_path / "p", tmp_path / "index", encoder)
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        (hit,) = searcher.search("猫")
    assert hit.path.read_bytes() == (tmp_path / "p" / name).read_bytes()
    assert hit.image_id == r"\xff\n猫.png"


def test_refresh_takes_over_what_was_indexed_since(searcher, index_dir, folder, encoder):
    assert searcher.refresh() is False
    save_picture(folder / "new.png", 100)
    (folder / "05.png").unlink()
    save_picture(folder / "06.png", 101)
    index_folder(folder, index_dir, encoder)
    assert searcher.refresh() is True
    assert searcher.refresh() is False
    assert len(searcher) == COUNT
    with Searcher.open(index_dir, encoder) as fresh:
        assert searcher.search("猫", 50) == fresh.search("猫", 50)
    (hit,) = searcher.search_features(encoder.encode_file(folder / "new.png")[None], 1)[0]
    assert (hit.image_id, hit.score) == ("new.png", pytest.approx(1.0, abs=1e-6))


def test_captions_are_read_live(searcher, index_dir, folder, encoder):
    (folder / "metadata.jsonl").write_text('{"file_name": "00.png", "text": "新"}', "utf-8")
    index_folder(folder, index_dir, encoder)
    assert searcher.refresh() is False  # no feature changed
    captions = {hit.image_id: hit.caption for hit in searcher.search("猫", 50)}
    assert (captions["00.png"], captions["03.png"]) == ("新", None)


def test_hits_removed_meanwhile_are_replaced_by_the_next_best(searcher, index_dir, folder, encoder):
    best, second, *_ = searcher.search("猫", 2)
    best.path.unlink()
    index_folder(folder, index_dir, encoder)
    hits = searcher.search("猫", 2)  # without a refresh by hand
    assert hits[0] == dataclasses.replace(second, rank=1)
    assert [hit.rank for hit in hits] == [1, 2]


@pytest.mark.parametrize("left", [0, 1, 5])
def test_hits_stay_right_however_many_were_removed_meanwhile(index_dir, folder, encoder, left):
    class Unrefreshed(Searcher):
        def refresh(self):
            pytest.fail("a search waits for a refresh")

    searcher = Unrefreshed.open(index_dir, encoder)
    every = searcher.search("猫", COUNT)
    for hit in every[: COUNT - left]:
        hit.path.unlink()
    index_folder(folder, index_dir, encoder, allow_empty=True)
    queries = encoder.encode_text(["猫", "狗"])
    for hits in (searcher.search("猫", 2), searcher.search_features(queries, 2)[0]):
        expected = every[COUNT - left :][:2]
        assert [hit.image_id for hit in hits] == [hit.image_id for hit in expected]
        assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))
        assert [hit.score for hit in hits] == [hit.score for hit in expected]
    searcher.close()


def test_searches_go_on_while_a_refresh_reads_features(
    searcher, index_dir, folder, encoder, monkeypatch
):
    """The refresh is held within ``features()``, within its snapshot, until searches are done."""
    before = searcher.search("猫", 50)
    save_picture(folder / "new.png", 100)
    before[0].path.unlink()
    index_folder(folder, index_dir, encoder)
    reading, go_on = threading.Event(), threading.Event()
    features = Catalogue.features

    def slow_features(self, since=0):
        for page in features(self, since):
            reading.set()
            assert go_on.wait(60)
            yield page

    monkeypatch.setattr(Catalogue, "features", slow_features)
    refreshed: list[bool] = []
    answers: list[list[Hit]] = []
    paths: list[Path | None] = []

    def look() -> None:
        answers.append(searcher.search("猫", 50))
        paths.append(searcher.hit_path(before[1].row))

    refresh = threading.Thread(target=lambda: refreshed.append(searcher.refresh()))
    searches = [threading.Thread(target=look) for _ in range(4)]
    try:
        refresh.start()
        assert reading.wait(60)
        for thread in searches:
            thread.start()
        for thread in searches:
            thread.join(10)
        # The refresh still waits: whatever is answered now did not wait for it.
        assert len(answers) == len(paths) == 4, "a search waits for a refresh"
        assert searcher.refresh() is False
        assert refreshed == []
    finally:
        go_on.set()
        refresh.join()
    still_there = [dataclasses.replace(hit, rank=hit.rank - 1) for hit in before[1:]]
    assert answers == [still_there] * 4
    assert paths == [before[1].path] * 4
    assert refreshed == [True]
    assert "new.png" in {hit.image_id for hit in searcher.search("猫", 50)}


def test_closing_waits_for_a_refresh(index_dir, folder, encoder, monkeypatch):
    searcher = Searcher.open(index_dir, encoder)
    save_picture(folder / "new.png", 100)
    index_folder(folder, index_dir, encoder)
    reading, go_on, failed = threading.Event(), threading.Event(), []
    features = Catalogue.features

    def slow_features(self, since=0):
        reading.set()
        assert go_on.wait(60)
        yield from features(self, since)

    def refresh() -> None:
        try:
            searcher.refresh()
        except (RetrievalError, sqlite3.Error) as error:
            failed.append(error)

    monkeypatch.setattr(Catalogue, "features", slow_features)
    refreshing, closing = (threading.Thread(target=task) for task in (refresh, searcher.close))
    refreshing.start()
    assert reading.wait(60)
    closing.start()
    go_on.set()
    refreshing.join()
    closing.join()
    assert failed == []
    assert searcher.refresh() is False


def test_an_index_put_back_from_a_copy_is_taken_over(searcher, index_dir, folder, encoder):
    kept = index_dir.with_name("kept")
    shutil.copytree(index_dir, kept)
    save_picture(folder / "new.png", 100)
    index_folder(folder, index_dir, encoder)
    assert searcher.refresh() is True
    assert len(searcher) == COUNT + 1
    shutil.rmtree(index_dir)
    kept.rename(index_dir)
    assert searcher.refresh() is True
    assert len(searcher) == len(searcher.search("猫", 50)) == COUNT


def test_an_index_deleted_and_built_anew_is_taken_over(searcher, index_dir, folder, encoder):
    before = searcher.search("猫")
    shutil.rmtree(index_dir)
    assert searcher.refresh() is False
    assert searcher.search("猫") == before
    (folder / "00.png").unlink()
    index_folder(folder, index_dir, encoder)
    assert searcher.refresh() is True
    assert len(searcher) == COUNT - 1
    shutil.rmtree(index_dir)
    index_folder(folder, index_dir, FakeEncoder(fingerprint="fake-2"))
    with pytest.raises(IndexMismatchError):
        searcher.refresh()
    assert len(searcher.search("猫", 50)) == COUNT - 1


def test_a_costly_refresh_is_not_repeated_at_once(
    searcher, index_dir, folder, encoder, monkeypatch
):
    monkeypatch.setattr("retrieval.search.searcher._CHEAP_SECONDS", -1.0)
    monkeypatch.setattr("retrieval.search.searcher._REST_FACTOR", 1e9)
    for name, expected in (("a.png", True), ("b.png", False)):
        save_picture(folder / name, hash(name) % 1000 + 1000)
        index_folder(folder, index_dir, encoder)
        assert searcher.refresh() is expected
    assert len(searcher) == COUNT + 1


def test_many_threads_search_and_refresh_while_this_one_indexes(
    searcher, index_dir, folder, encoder, monkeypatch
):
    # However busy the machine is, no refresh is passed over.
    monkeypatch.setattr("retrieval.search.searcher._CHEAP_SECONDS", 1e9)
    queries = encoder.encode_text([f"词{i}" for i in range(8)])
    done = threading.Event()
    wrong: list[object] = []

    def look() -> None:
        try:
            while not done.is_set():
                searcher.refresh()
                for hits in searcher.search_features(queries, 5):
                    ranks = [hit.rank for hit in hits]
                    scores = [hit.score for hit in hits]
                    if ranks != list(range(1, len(hits) + 1)) or scores != sorted(scores)[::-1]:
                        wrong.append(hits)
        except (RetrievalError, RuntimeError, ValueError) as error:
            wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(10):
        save_picture(folder / f"x{i}.png", 200 + i)
        (folder / f"{i:02}.png").unlink()
        index_folder(folder, index_dir, encoder, batch_size=2)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    searcher.refresh()
    with Searcher.open(index_dir, encoder) as fresh:
        assert searcher.search_features(queries, 50) == fresh.search_features(queries, 50)


def test_searching_while_another_process_indexes(tmp_path, encoder):
    folder, index_dir = tmp_path / "p", tmp_path / "index"
    for i in range(12):
        save_picture(folder / f"{i:02}.png", i)
    process = start_process("gated", folder, index_dir)
    assert process.stdin
    assert process.stdout

    def reach_batch() -> None:
        """Until the other process is about to encode: what came before is committed."""
        while not process.stdout.readline().startswith("batch"):
            assert process.poll() is None

    def allow_batch() -> None:
        process.stdin.write("go\n")
        process.stdin.flush()

    reach_batch()
    with Searcher.open(index_dir, encoder) as searcher:
        assert searcher.search("猫") == []
        for stored in (4, 8):
            allow_batch()
            reach_batch()
            assert searcher.refresh() is True
            assert len(searcher) == len(searcher.search("猫", 50)) == stored
        allow_batch()
        process.communicate()
        assert process.returncode == 0
        assert searcher.refresh() is True
        assert sorted(h.image_id for h in searcher.search("猫", 50)) == [
            f"{i:02}.png" for i in range(12)
        ]


def test_a_query_is_classified_by_the_pass_that_encodes_it(index_dir, encoder):
    asked = []

    def classify(texts):
        asked.append(list(texts))
        return encoder.encode_text(texts), [("动物", 0.9)]

    plain = Searcher.open(index_dir, encoder)
    with Searcher.open(index_dir, encoder, classify) as searcher, plain:
        answer = searcher.answer("一只猫", 3)
        assert answer.category == ("动物", 0.9)
        assert answer.hits == plain.search("一只猫", 3)
        assert searcher.search("一只猫", 3) == answer.hits
        assert plain.answer("一只猫", 3).category is None
    assert asked == [["一只猫"]] * 2


def test_several_queries_are_answered_by_one_pass(index_dir, encoder):
    queries = ["一只猫", "狗", "一只猫"]
    asked = []

    def classify(texts):
        asked.append(list(texts))
        return encoder.encode_text(texts), [(text, 0.5) for text in texts]

    plain = Searcher.open(index_dir, encoder)
    with Searcher.open(index_dir, encoder, classify) as searcher, plain:
        assert plain.answers([]) == []
        found = plain.answers(queries, 3)
        assert [answer.hits for answer in found] == [plain.search(query, 3) for query in queries]
        assert [answer.category for answer in found] == [None] * 3
        told = searcher.answers(queries, 3)
        assert [answer.category for answer in told] == [(query, 0.5) for query in queries]
        assert asked == [queries]
        with pytest.raises(QueryError, match="a list of texts, got one text"):
            plain.answers("狗")
        with pytest.raises(QueryError, match="blank"):
            plain.answers(["狗", " "])


def test_an_encoder_of_fewer_rows_than_queries_is_blamed(index_dir, encoder):
    def classify(texts):
        return encoder.encode_text(texts[:1]), [None]

    told = "expected 2 rows, one for each query, got 1"
    opened = Searcher.open(index_dir, encoder, classify)
    with opened as searcher, pytest.raises(EncoderError, match=told):
        searcher.answers(["猫", "狗"])


def test_a_classifier_that_gives_no_unit_rows_is_refused(index_dir, encoder):
    def classify(texts):
        return np.zeros((1, encoder.embed_dim), np.float32), [None]

    with Searcher.open(index_dir, encoder, classify) as searcher, pytest.raises(EncoderError):
        searcher.answer("猫")


def _follow_as_nobody(index_dir: str, pipe) -> None:
    relevance._shipped()  # what comes with the package, wherever it is installed
    if os.geteuid() == 0:
        os.setuid(65534)
    with Searcher.open(Path(index_dir), FakeEncoder()) as searcher:
        pipe.send(len(searcher))
        pipe.recv()
        pipe.send((searcher.refresh(), len(searcher.search("猫", 50))))
        pipe.recv()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_who_may_only_read_takes_over_what_others_index(tmp_path, index_dir, folder, encoder):
    """A service under an account of its own, on a folder that another account writes."""
    tmp_path.chmod(0o755)
    index_dir.chmod(0o555)
    here, there = multiprocessing.Pipe()
    # Spawned, as threads of OpenMP do not survive a fork; imported, it gives up its rights.
    child = multiprocessing.get_context("spawn").Process(
        target=_follow_as_nobody, args=(str(index_dir), there)
    )
    child.start()
    try:
        assert here.poll(60)
        assert here.recv() == COUNT
        index_dir.chmod(0o755)
        save_picture(folder / "new.png", 100)
        index_folder(folder, index_dir, encoder)
        index_dir.chmod(0o555)
        here.send("indexed")
        assert here.poll(60)
        assert here.recv() == (True, COUNT + 1)
        here.send("done")
    finally:
        index_dir.chmod(0o755)
        child.join(30)
    assert child.exitcode == 0
