"""Tables that follow the pictures: made and filled late, told of each write, undone with it."""

import dataclasses
import json

import numpy as np
import pytest

from retrieval.catalogue import Catalogue
from retrieval.catalogue.followers import FOLLOWERS, Follower, has_follower
from retrieval.records import Picture


def picture(name: str, **changes: object) -> Picture:
    path = f"/p/{name}".encode()
    return Picture(b"/p", path, name, 1, 2, path, 3, 4, None, "{}")._replace(**changes)


FEATURE = np.array([1, 0], np.float32)


def store_tags(db, row, stored):
    db.execute("DELETE FROM tags WHERE row = ?", (row,))
    for tag in json.loads(stored.metadata).get("tags", []):
        db.execute("INSERT INTO tags VALUES (?, ?)", (tag, row))


TAGS = Follower(
    name="tags",
    version=1,
    create=(
        "CREATE TABLE tags (tag TEXT, row INTEGER)",
        "CREATE TRIGGER tags_removed AFTER DELETE ON images BEGIN "
        "DELETE FROM tags WHERE row = old.row; END",
    ),
    drop=("DROP TABLE IF EXISTS tags", "DROP TRIGGER IF EXISTS tags_removed"),
    written=store_tags,
)


@pytest.fixture
def index_dir(tmp_path):
    """Two pictures, stored before there was the follower."""
    with (
        Catalogue.create_or_open(tmp_path, fingerprint="f", embed_dim=2) as catalogue,
        catalogue.transaction(),
    ):
        catalogue.add(picture("a", metadata='{"tags": ["猫", "狗"]}'), FEATURE)
        catalogue.add(picture("b"), FEATURE)
    return tmp_path


@pytest.fixture
def follower(index_dir, monkeypatch):
    monkeypatch.setattr("retrieval.catalogue.followers.FOLLOWERS", [TAGS])
    return TAGS


def opened(index_dir):
    return Catalogue.create_or_open(index_dir, fingerprint="f", embed_dim=2)


def tags(catalogue):
    return catalogue.connection.read("SELECT tag, row FROM tags ORDER BY row, tag")


def test_pictures_from_before_are_taken_in_when_somebody_writes(index_dir, follower):
    with Catalogue.open(index_dir) as reader:
        assert not has_follower(reader.connection.db, follower)
        with opened(index_dir) as writer:
            assert tags(writer) == [("狗", 1), ("猫", 1)]
        assert has_follower(reader.connection.db, follower)
        with opened(index_dir) as again:  # not twice
            assert tags(again) == [("狗", 1), ("猫", 1)]


def test_each_write_is_told_in_its_transaction(index_dir, follower):
    with opened(index_dir) as catalogue:
        with catalogue.transaction():
            catalogue.add(picture("c", metadata='{"tags": ["x"]}'), FEATURE)
            catalogue.describe(1, picture("a", metadata='{"tags": ["y"]}'))
            catalogue.replace(2, picture("b", metadata='{"tags": ["z"]}'), FEATURE)
        assert tags(catalogue) == [("y", 1), ("z", 2), ("x", 3)]
        with catalogue.transaction():
            catalogue.remove([1])
        assert tags(catalogue) == [("z", 2), ("x", 3)]

        def half() -> None:
            with catalogue.transaction():
                catalogue.describe(2, picture("b", metadata='{"tags": ["w"]}'))
                catalogue.remove([3])
                raise KeyError

        with pytest.raises(KeyError):
            half()
        assert tags(catalogue) == [("z", 2), ("x", 3)]
        with catalogue.transaction():
            catalogue.forget_under(b"/p")
        assert tags(catalogue) == []


def test_another_version_is_made_anew(index_dir, follower, monkeypatch):
    opened(index_dir).close()

    def store_upper(db, row, stored):
        for tag in json.loads(stored.metadata).get("tags", []):
            db.execute("INSERT INTO tags VALUES (?, ?)", (f"{tag}!", row))

    newer = dataclasses.replace(follower, version=2, written=store_upper)
    monkeypatch.setattr("retrieval.catalogue.followers.FOLLOWERS", [newer])
    with opened(index_dir) as catalogue:
        assert tags(catalogue) == [("狗!", 1), ("猫!", 1)]


def test_one_that_fails_to_be_made_leaves_the_catalogue_as_it_was(index_dir, monkeypatch):
    def fail(db, row, stored):
        raise OSError("full")

    broken = dataclasses.replace(TAGS, written=fail)
    monkeypatch.setattr("retrieval.catalogue.followers.FOLLOWERS", [broken])
    with pytest.raises(OSError, match="full"):
        opened(index_dir)
    with Catalogue.open(index_dir) as reader:
        assert len(reader) == 2
        names = reader.connection.read("SELECT name FROM sqlite_master WHERE name LIKE 'tags%'")
        assert names == []


def test_every_follower_learns_of_removals_by_itself():
    for follower in FOLLOWERS:
        assert any("AFTER DELETE ON images" in statement for statement in follower.create)
        assert follower.drop
