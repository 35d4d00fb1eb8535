"""The file of the service's keys, and the command that changes it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stub_searcher import StubSearcher

from retrieval.errors import KeyFileError
from retrieval.service import key_file
from retrieval.service.app import create_app
from retrieval.service.key_file import add_key, digest_of, read_keys, revoke_key
from retrieval.service.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return StubSearcher(tmp_path_factory.mktemp("pictures"))


# The file


def test_a_key_is_256_random_bits_and_only_its_sha_256_is_kept(tmp_path):
    path = tmp_path / "below" / "keys.toml"
    made = [add_key(path, f"k{number}", "search") for number in range(20)]
    secrets = {secret for _, secret in made}
    assert len(secrets) == 20
    assert all(re.fullmatch(r"ct_[\w-]{43}", secret) for secret in secrets)
    text = path.read_text(encoding="utf-8")
    assert not any(secret in text or secret[3:] in text for secret in secrets)
    assert read_keys(path).keys == tuple(key for key, _ in made)
    # sha256sum's own answer for "abc", FIPS 180-2
    assert digest_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert [each["sha256"] for each in tomllib.loads(text)["keys"]] == [
        digest_of(secret) for _, secret in made
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_taken_away_is_gone_and_the_rest_stays(tmp_path):
    path = tmp_path / "keys.toml"
    for name in ("one", "two", "three"):
        add_key(path, name, "write")
    before = read_keys(path)
    assert revoke_key(path, "two").name == "two"
    after = read_keys(path)
    assert after.keys == (before.keys[0], before.keys[2])
    assert after.session_secret == before.session_secret
    assert path.stat().st_mode & 0o777 == 0o600


def test_who_may_read_the_file_may_still_when_it_changes(tmp_path):
    path = tmp_path / "keys.toml"
    add_key(path, "one", "search")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    before = path.stat()
    add_key(path, "two", "search")
    revoke_key(path, "one")
    after = path.stat()
    assert [key.name for key in read_keys(path).keys] == ["two"]
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        *(before.st_uid, before.st_gid),
        before.st_mode,
    )


def test_a_link_to_the_file_is_followed(tmp_path):
    path, link = tmp_path / "real" / "keys.toml", tmp_path / "link.toml"
    add_key(path, "one", "search")
    link.symlink_to(path)
    revoke_key(link, "one")
    add_key(link, "two", "search")
    assert link.is_symlink()
    assert [key.name for key in read_keys(path).keys] == ["two"]


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "keys.toml"
    add_key(path, "one", "search")
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(key_file.os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        add_key(path, "two", "search")
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["keys.toml", "keys.toml.lock"]


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\n", 'a"', "狗", "a" * 65, "a/b", "../a"])
def test_names_that_are_none(tmp_path, name):
    with pytest.raises(KeyFileError, match="a name of up to 64 letters"):
        add_key(tmp_path / "keys.toml", name, "search")
    assert list(tmp_path.iterdir()) == []


def test_two_keys_do_not_have_one_name(tmp_path):
    add_key(tmp_path / "k", "one", "search")
    with pytest.raises(KeyFileError, match="a name that no key has, got one"):
        add_key(tmp_path / "k", "one", "admin")
    with pytest.raises(KeyFileError, match="the name of a key, got two"):
        revoke_key(tmp_path / "k", "two")


GOOD = (
    f'session_secret = "{"0" * 64}"\n[[keys]]\nname = "a"\nscope = "search"\n'
    f'sha256 = "{"0" * 64}"\ncreated = 2026-01-01T00:00:00Z\n'
)


@pytest.mark.parametrize(
    "text",
    [
        "no toml at all",
        "\udcff",
        "",
        'keys = "x"',
        GOOD.replace("search", "root"),
        GOOD.replace('sha256 = "0', 'sha256 = "g'),
        GOOD.replace("created = 2026-01-01T00:00:00Z", ""),
        GOOD.replace("00Z", "00"),  # in which zone?
        GOOD + 'expires = "tomorrow"',
        GOOD.replace('name = "a"', 'name = "a b"'),
        'session_secret = ""\n',
    ],
)
def test_a_damaged_file_lets_nobody_in(tmp_path, searcher, text):
    path = tmp_path / "keys.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(KeyFileError, match="expected a file of keys at"):
        create_app(searcher, settings=Settings(keys=path))
    path.write_text(GOOD)
    create_app(searcher, settings=Settings(keys=path))


# The command


def test_the_command_makes_lists_and_takes_away(run, tmp_path):
    file = tmp_path / "keys.toml"
    code, out, err = run("keys", "create", "page", "--file", file, "--expires", "90d")
    assert code == 0
    secret = out.strip()
    (key,) = read_keys(file).keys
    assert (key.name, key.scope, key.sha256) == ("page", "search", digest_of(secret))
    assert key.expires - key.created == timedelta(days=90)
    assert "this once" in err
    assert run("keys", "create", "importer", "--scope", "write", "--file", file)[0] == 0
    code, out, _ = run("keys", "list", "--file", file)
    assert code == 0
    assert re.search(r"^page +search .*\n^importer +write .*never *$", out, re.MULTILINE)
    code, out, _ = run("keys", "list", "--file", file, "--json")
    assert [each["name"] for each in json.loads(out)] == ["page", "importer"]
    assert "sha256" not in out
    assert run("keys", "revoke", "page", "--file", file)[0] == 0
    assert [key.name for key in read_keys(file).keys] == ["importer"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["create", "a", "--scope", "root"], 2, "one of search, write, admin"),
        (["create", "a", "--expires", "soon"], 2, "12h, 90d or 8w"),
        (["create", "a", "--expires", "0d"], 2, "12h, 90d or 8w"),
        (["create", "a b"], 1, "a name of up to 64"),
        (["revoke", "a"], 1, "a file of keys at"),
        (["list"], 1, "a file of keys at"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(run, tmp_path, args, code, words):
    got, out, err = run("keys", *args, "--file", tmp_path / "none" / "keys.toml")
    assert (got, out) == (code, "")
    assert words in re.sub(r"\s*│\s*", " ", err)
    assert list(tmp_path.iterdir()) == []


def test_keys_need_no_model():
    code = (
        "import sys; from clip_text_cli import main; sys.argv = ['clip-text', 'keys', 'list'];"
        "\ntry: main.main()\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_times_are_told_in_utc(tmp_path):
    key, _ = add_key(tmp_path / "k", "a", "search")
    assert abs((key.created - datetime.now(UTC)).total_seconds()) < 60
