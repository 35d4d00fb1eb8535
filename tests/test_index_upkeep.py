"""``clip-text index info``, ``verify`` and ``remove``."""

import hashlib
import json
import os
import shutil
import sqlite3
import sys

import numpy as np
import pytest
from fakes import FakeEncoder, save_picture
from older_catalogues import as_schema_1

from retrieval.catalogue import CATALOGUE_NAME, Catalogue, IndexLock, soundness
from retrieval.catalogue.segmentation import Settings
from retrieval.catalogue.words import store_settings
from retrieval.errors import CorruptIndexError, IndexLockedError
from retrieval.filters.language import parse_where
from retrieval.index import compact, describe, verify
from retrieval.index.sealed import current
from retrieval.ingest import IndexWriter, index_folder
from retrieval.search import Searcher

ENCODER = FakeEncoder()


@pytest.fixture
def photos(tmp_path):
    for folder, count in (("p", 3), ("q", 2)):
        for i in range(count):
            save_picture(tmp_path / folder / "in" / f"{folder}{i}.png", i + 10 * count)
        save_picture(tmp_path / folder / "same.png", count)
    (tmp_path / "q" / "broken.png").write_bytes(b"broken")
    return tmp_path


@pytest.fixture
def index_dir(photos):
    for folder in ("p", "q"):
        index_folder(photos / folder, photos / "index", ENCODER)
    with IndexWriter.open(photos / "index") as writer:
        writer.add("an item", feature=np.eye(16, dtype=np.float32)[0])
    compact(photos / "index")
    return photos / "index"


def features_of(index_dir):
    """The file of the sealed segment that holds features."""
    return index_dir / "vectors" / current(index_dir) / "features.npy"


def ids(index_dir):
    with Catalogue.open(index_dir) as catalogue:
        return [record.picture.image_id for record in catalogue]


def database(index_dir):
    return sqlite3.connect(index_dir / CATALOGUE_NAME, isolation_level=None)


def alter(index_dir, *statements):
    connection = database(index_dir)
    for statement in statements:
        connection.execute(*statement) if isinstance(statement, tuple) else connection.execute(
            statement
        )
    connection.close()


def check_searchable(index_dir, count):
    with Searcher.open(index_dir, ENCODER) as searcher:
        assert len(searcher.search("猫", 99)) == count


# info


def test_info_tells_what_there_is(run, index_dir, photos):
    code, out, _ = run("index", "info", "--index", index_dir, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["pictures"], told["items"], told["failures"]) == (8, 1, 1)
    assert told["roots"] == {str(photos / "p"): 4, str(photos / "q"): 3}
    assert (told["schema_version"], told["embed_dim"], told["fingerprint"]) == (2, 16, "fake-1")
    assert (told["generation"], told["precisions"]) == (3, [])
    vectors = told["vectors"]
    assert vectors.pop("bytes") == sum(
        f.stat().st_size for f in features_of(index_dir).parent.glob("*.npy")
    )
    assert vectors == {
        **{"state": "up to date", "generation": 3, "recipe": "exact"},
        **{"sealed": 8, "tail": 0, "tombstones": 0},
    }
    sizes = {
        path.relative_to(index_dir).as_posix(): path.stat().st_size
        for path in index_dir.rglob("*")
        if path.is_file()
    }
    assert told["files"] == sizes
    assert told["total_bytes"] == sum(sizes.values())
    code, out, _ = run("index", "info", "--index", index_dir)
    assert code == 0
    for word in ("8, of which 1", f"{photos}/p (4)", "1 files", "fake-1", CATALOGUE_NAME):
        assert "".join(word.split()) in "".join(out.split())  # a long path goes over lines


@pytest.mark.parametrize(
    ("state", "spoil"),
    [
        ("damaged", lambda file, _: file.write_bytes(b"x")),
        ("of another catalogue", lambda _, folder: alter(folder, "UPDATE meta SET value = 'x' "
                                                         "WHERE key = 'uid'")),
    ],
)  # fmt: skip
def test_info_tells_the_state_of_the_vectors(run, index_dir, state, spoil):
    spoil(features_of(index_dir), index_dir)
    _, out, _ = run("index", "info", "--index", index_dir, "--json")
    assert json.loads(out)["vectors"] == {"state": state}


def test_info_tells_how_far_the_vectors_are_behind(run, index_dir):
    with Catalogue.open_for_writing(index_dir) as catalogue, catalogue.transaction():
        catalogue.remove([1])
    _, out, _ = run("index", "info", "--index", index_dir, "--json")
    vectors = json.loads(out)["vectors"]
    assert (vectors["state"], vectors["generation"], vectors["tombstones"]) == ("behind", 3, 1)


def test_info_passes_over_files_that_go_meanwhile(index_dir, monkeypatch):
    """Those of a segment that a sealing elsewhere has replaced."""
    real, swept = os.scandir, []

    def scan(folder):
        if not swept and "sealed-" in str(folder):
            swept.append(shutil.rmtree(folder))
        return real(folder)

    monkeypatch.setattr("os.scandir", scan)
    files = describe(index_dir).files
    assert swept
    assert sorted(files) == [
        *(CATALOGUE_NAME, f"{CATALOGUE_NAME}-shm", f"{CATALOGUE_NAME}-wal"),
        *("vectors/CURRENT", "vectors/sealing.lock", "writer.lock"),
    ]


def test_info_tells_that_nothing_is_sealed(run, photos):
    index_folder(photos / "p", photos / "small", ENCODER)
    _, out, _ = run("index", "info", "--index", photos / "small", "--json")
    vectors = json.loads(out)["vectors"]
    assert vectors == {"state": "not sealed", "sealed": 0, "tail": 4, "tombstones": 0}


# verify


def test_a_sound_index_is_called_so(run, index_dir):
    assert run("index", "verify", "--index", index_dir)[:2] == (0, "sound\n")
    code, out, _ = run("index", "verify", "--repair", "--index", index_dir, "--json")
    assert (code, json.loads(out)) == (0, {"sound": True, "problems": [], "repaired": []})


def test_an_index_of_schema_1_is_checked_as_it_is(photos, run):
    index_folder(photos / "p", photos / "old", ENCODER)
    as_schema_1(photos / "old")
    assert run("index", "verify", "--index", photos / "old")[:2] == (0, "sound\n")
    _, out, _ = run("index", "info", "--index", photos / "old", "--json")
    assert json.loads(out)["schema_version"] == 1


def rewrite(index_dir, file, change):
    """Give a sealed segment another array that its manifest calls sound."""
    folder = index_dir / "vectors" / current(index_dir)
    array = np.load(folder / file)
    change(array)
    np.save(folder / file, array)
    content = (folder / file).read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = [len(content), hashlib.blake2b(content, digest_size=16).hexdigest()]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def spoil_vectors(index_dir):
    rewrite(index_dir, "features.npy", lambda features: np.negative(features[1:2], features[1:2]))


def lose_a_vector(index_dir):
    rewrite(index_dir, "rows.npy", lambda rows: np.add(rows[-1:], 1, rows[-1:]))


def flip_a_bit(index_dir):
    file = features_of(index_dir)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


DERIVED = {
    "another feature for row 2": spoil_vectors,
    "other rows": lose_a_vector,
    "digest": flip_a_bit,
    "manifest.json (it is missing)": lambda folder: (
        features_of(folder).with_name("manifest.json").unlink()
    ),
    "of another catalogue": lambda folder: alter(
        folder, "UPDATE meta SET value = 'x' WHERE key = 'uid'"
    ),
    "features belong to no picture (row 99)": lambda folder: alter(
        folder, "INSERT INTO features SELECT 99, feature, 1 FROM features LIMIT 1"
    ),
}


@pytest.mark.parametrize("told", DERIVED)
def test_what_is_derived_is_repaired_and_nothing_lost(run, index_dir, told):
    DERIVED[told](index_dir)
    code, out, _ = run("index", "verify", "--index", index_dir)
    assert (code, told in out) == (1, True), out
    code, out, _ = run("index", "verify", "--index", index_dir, "--repair")
    assert (code, out.splitlines()[-1]) == (0, "sound")
    assert run("index", "verify", "--index", index_dir)[:2] == (0, "sound\n")
    assert len(ids(index_dir)) == 8
    check_searchable(index_dir, 8)


KEEP = "CREATE TEMP TABLE kept AS SELECT c0 FROM words_content WHERE id = 8"
PUT_BACK = "UPDATE words_content SET c0 = (SELECT c0 FROM kept) WHERE id = 8"
SAID = {
    "the table of fields is wrong about 1 pictures (row 2)": "UPDATE fields SET value = 'x' "
    "WHERE row = 2 AND value = '海边'",
    "fields is wrong about 2 pictures (row 2, 8)": "DELETE FROM fields",
    "fields is wrong about 1 pictures (row 77)": "INSERT INTO fields VALUES (1, 2, 5, 77)",
    "words is wrong about 1 pictures (row 8)": "UPDATE words SET caption = '' WHERE rowid = 8",
    "words is wrong about 1 pictures (row 3)": "DELETE FROM words WHERE rowid = 3",
    "words is wrong about 1 pictures (row 78)": "INSERT INTO words (rowid, name) VALUES (78, 'x')",
    "the table of words is damaged": "UPDATE words_data SET block = x'00' WHERE id > 10",
    "table of words is damaged": "DROP TABLE words",
    # FTS5's own index knows fewer words than its lines have, or has one more often
    "of words is damaged": (KEEP, "UPDATE words SET caption = '' WHERE rowid = 8", PUT_BACK),
    "words is damaged": (
        KEEP,
        "UPDATE words SET caption = caption || ' ' || caption WHERE rowid = 8",
        PUT_BACK,
    ),
    "the table of fields is damaged": "DROP TABLE fields",
    "the table of sources is damaged": "DROP TABLE sources",
    "table of sources is damaged": "DROP TABLE source_items",
}


@pytest.fixture
def described(index_dir, photos):
    """The same index with words and fields, of a folder's picture and of an item."""
    line = {"file_name": "in/p1.png", "text": "沙滩上的狗", "tags": ["海边", 3, None, 2.5]}
    (photos / "p" / "metadata.jsonl").write_text(json.dumps(line), encoding="utf-8")
    index_folder(photos / "p", index_dir, ENCODER)
    with IndexWriter.open(index_dir) as writer:
        writer.update("an item", caption="一只猫", metadata={"标签": {"年": 2024}, "big": 10**30})
    compact(index_dir)
    return index_dir


@pytest.mark.parametrize("told", SAID)
def test_what_searches_in_words_and_fields_look_into_is_made_again(run, described, told):
    assert run("index", "verify", "--index", described)[:2] == (0, "sound\n")
    change = SAID[told]
    alter(described, *([change] if isinstance(change, str) else change))
    code, out, _ = run("index", "verify", "--index", described)
    assert (code, told in out) == (1, True), out
    code, out, err = run("index", "verify", "--index", described, "--repair")
    assert (code, out.splitlines()[-1]) == (0, "sound"), (out, err)
    assert len(ids(described)) == 8
    with Catalogue.open(described) as catalogue:
        rows = catalogue.filters.rows(parse_where('标签.年 = 2024 or tags = "海边"'))
        assert rows.tolist() == [2, 8]
        assert catalogue.words.rank("猫", 9).rows.tolist() == [8]


# Without these FTS5 finds nothing, too little, or cannot even open the text index to drop it.
LOST_BY_FTS5 = [
    *(f"DELETE FROM words_{own}" for own in ("data", "docsize", "config")),
    *(f"DROP TABLE words_{own}" for own in ("data", "idx", "content", "docsize", "config")),
    "DELETE FROM words_data WHERE id = 1",
    "UPDATE words_data SET block = x'0102030405' WHERE id = 1",
    "UPDATE words_docsize SET sz = NULL WHERE id = 8",
    "UPDATE words_docsize SET sz = x'05000000' WHERE id = 8",
    "UPDATE words_config SET v = 0",
    "DROP TABLE words_known",
]
SETTINGS = ("{}", "not json", "[]", '{"simplify": 1}', '{"simplify": true, "user_words": 5}')
LOST = [
    *LOST_BY_FTS5,
    *(f"UPDATE meta SET value = '{text}' WHERE key = 'words_settings'" for text in SETTINGS),
]


@pytest.mark.parametrize("change", LOST)
def test_a_text_index_that_lost_what_is_its_own_is_told_and_made_again(run, described, change):
    alter(described, change)
    code, out, err = run("index", "verify", "--index", described)
    assert (code, "the table of words is damaged" in out) == (1, True), (out, err)
    code, out, err = run("index", "verify", "--index", described, "--repair")
    assert (code, out.splitlines()[-1]) == (0, "sound"), (out, err)
    with Catalogue.open(described) as catalogue:
        assert catalogue.words.rank("猫", 9).rows.tolist() == [8]
        assert catalogue.words.rank("沙滩", 9).rows.tolist() == [2]


def test_pages_of_the_text_index_that_nothing_leads_to_are_missed(run, described):
    """Of a text index of several pages: one alone is found without being led to."""
    with IndexWriter.open(described) as writer:
        for number in range(900):
            feature = np.eye(16, dtype=np.float32)[1]
            writer.add(f"{number}", feature=feature, caption=f"word{number}")
    assert run("index", "verify", "--index", described)[:2] == (0, "sound\n")
    alter(described, "DELETE FROM words_idx")
    assert "words is damaged" in run("index", "verify", "--index", described)[1]
    assert verify(described, repair=True).problems == []


@pytest.mark.parametrize("change", ["DROP TABLE words_data", "UPDATE words_config SET v = 0"])
def test_who_meets_a_damaged_text_index_says_how_to_mend_it(run, described, photos, change):
    alter(described, change)
    (photos / "p" / "metadata.jsonl").unlink()
    remedy = f"verify --repair --index {described}( |$)"
    with pytest.raises(CorruptIndexError, match=remedy):
        index_folder(photos / "p", described, ENCODER)
    with Catalogue.open(described) as catalogue, pytest.raises(CorruptIndexError, match=remedy):
        catalogue.words.rank("猫", 9)
    assert run("index", "text", "--index", described)[0] == 0
    assert run("index", "verify", "--index", described)[:2] == (0, "sound\n")


def test_a_text_index_of_nothing_is_sound(described):
    with Catalogue.open_for_writing(described) as catalogue, catalogue.transaction():
        catalogue.connection.write("DELETE FROM images", ())
        catalogue.connection.write("DELETE FROM features", ())
    with Catalogue.open(described) as catalogue:
        assert soundness.check_catalogue(catalogue) == []


def test_words_that_were_cut_with_opencc_are_not_called_wrong_where_there_is_none(
    described, monkeypatch
):
    with Catalogue.open_for_writing(described) as catalogue, catalogue.transaction():
        store_settings(catalogue.connection.db, Settings(simplify=True))
        catalogue.connection.write("UPDATE words SET caption = '猫' WHERE rowid = 8", ())
    monkeypatch.setitem(sys.modules, "opencc", None)
    monkeypatch.setattr("retrieval.catalogue.words.can_simplify", lambda: False)
    assert verify(described).problems == []
    alter(described, "DELETE FROM words WHERE rowid = 3")
    assert len(verify(described).problems) == 1


def test_an_index_is_checked_and_told_of_while_it_is_written_and_sealed(index_dir, monkeypatch):
    """What is sealed after the check has begun is of a later generation than what it reads."""

    def meanwhile():
        with IndexWriter.open(index_dir) as writer:
            writer.add("another", feature=np.eye(16, dtype=np.float32)[1])
        compact(index_dir)

    real = Catalogue.__len__

    def counted(catalogue):  # in the middle of describe, within its snapshot
        count = real(catalogue)
        if calls:
            calls.pop()()
        return count

    calls = [meanwhile]
    monkeypatch.setattr(Catalogue, "__len__", counted)
    told = describe(index_dir)
    assert (told.pictures, told.vectors["state"]) == (8, "up to date")
    checked = soundness.check_catalogue

    def check(catalogue):
        problems = checked(catalogue)
        meanwhile()
        return problems

    monkeypatch.setattr("retrieval.index.upkeep.check_catalogue", check)
    assert verify(index_dir).problems == []


BROKEN = {
    "1 pictures have no feature (row 2)": "DELETE FROM features WHERE row = 2",
    "no unit rows of width 16 (row 2)": "UPDATE features SET feature = x'0000' WHERE row = 2",
    "1 features are no unit": "UPDATE features SET feature = zeroblob(32) WHERE row = 2",
}


@pytest.mark.parametrize("told", BROKEN)
def test_a_picture_without_a_sound_feature_is_forgotten_and_comes_back(
    run, index_dir, photos, told
):
    alter(index_dir, BROKEN[told])
    code, out, _ = run("index", "verify", "--index", index_dir)
    assert (code, told in out) == (1, True), out
    code, out, _ = run("index", "verify", "--index", index_dir, "--repair", "--json")
    report = json.loads(out)
    assert (code, report["sound"]) == (0, True)
    assert "forgot in/p1.png" in report["repaired"]
    check_searchable(index_dir, 7)
    assert index_folder(photos / "p", index_dir, ENCODER).added == 1
    check_searchable(index_dir, 8)


def test_an_index_of_sqlite_that_does_not_fit_is_rebuilt(run, index_dir):
    connection = database(index_dir)
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'images_by_hash'"
    ).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with (index_dir / CATALOGUE_NAME).open("r+b") as file:
        file.seek((page - 1) * size + size - 8)  # in the last key, a content hash
        file.write(b"\x55\x55")
    code, out, _ = run("index", "verify", "--index", index_dir)
    assert (code, "SQLite finds damage" in out) == (1, True), out
    code, out, _ = run("index", "verify", "--index", index_dir, "--repair")
    assert (code, "rebuilt SQLite's own indexes" in out) == (0, True), out
    assert len(ids(index_dir)) == 8


def test_repairing_waits_for_no_other_writer(index_dir):
    flip_a_bit(index_dir)
    with IndexLock(index_dir):
        assert len(verify(index_dir).problems) == 1
        with pytest.raises(IndexLockedError):
            verify(index_dir, repair=True)


# remove


def test_pictures_are_removed_by_id_by_folder_and_by_root(run, index_dir, photos):
    code, out, _ = run("index", "remove", "an item", "in/p1.png", "--index", index_dir)
    assert (code, out) == (0, "2 pictures removed\n")
    code, out, _ = run("index", "remove", "--folder", photos / "q" / "in", "--index", index_dir,
                       "--json")  # fmt: skip
    assert (code, json.loads(out)) == (0, {"removed": 2})
    assert ids(index_dir) == ["in/p0.png", "in/p2.png", "same.png", "same.png"]
    code, out, _ = run("index", "remove", "--root", photos / "p", "same.png", "--index", index_dir)
    assert code == 1  # two folders have one, and so nothing is removed
    code, out, _ = run("index", "remove", "--root", photos / "p", "--index", index_dir)
    assert out == "3 pictures removed\n"
    assert ids(index_dir) == ["same.png"]
    check_searchable(index_dir, 1)
    with Catalogue.open(index_dir) as catalogue:
        assert len(catalogue.failures()) == 1
    run("index", "remove", "--root", photos / "q", "--index", index_dir)
    with Catalogue.open(index_dir) as catalogue:
        assert (len(catalogue), catalogue.failures()) == (0, [])
    assert all(file.exists() for file in (photos / "p").rglob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "expected ids of pictures in the index, got 'nowhere'"),
        (["an item", "nowhere"], "got 'nowhere'. Nothing was changed"),
        (["same.png"], "which is that of"),
        (["--root", "p/in"], "expected a folder that was indexed"),
        (["--folder", "elsewhere"], "expected a folder with pictures in the index"),
    ],
)
def test_what_is_not_there_is_not_removed(run, index_dir, monkeypatch, arguments, told):
    monkeypatch.chdir(index_dir.parent)
    code, _, err = run("index", "remove", *arguments, "--index", index_dir)
    assert (code, told in err) == (1, True), err
    assert len(ids(index_dir)) == 8


def test_nothing_to_remove_is_a_wrong_option(run, index_dir):
    code, _, err = run("index", "remove", "--index", index_dir)
    assert (code, "Name what is to go" in err) == (2, True)


@pytest.mark.parametrize("command", [["info"], ["verify"], ["remove", "x"]])
def test_without_an_index_there_is_nothing_to_look_after(run, tmp_path, command):
    code, _, err = run("index", *command, "--index", tmp_path / "none")
    assert (code, "expected an index in" in err) == (1, True)
    assert not (tmp_path / "none").exists()
