"""Emoji sources, offline: a tiny cache in the real packages' layout."""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from scripts import sources


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def folder(cache: Path, package: sources.Package) -> Path:
    return cache / f"{package.name.strip('@').replace('/', '-')}-{package.version}" / "package"


def emojibase(label: dict[str, str], tags: list[str]) -> list[dict]:
    return [
        {"hexcode": "1F1E6", "emoji": "🇦", "label": "A"},
        {
            "hexcode": "1F44B",
            "emoji": "👋",
            "label": label["wave"],
            "group": 1,
            "subgroup": 16,
            "order": 20,
            "tags": tags,
            "skins": [
                {"hexcode": "1F44B-1F3FB", "emoji": "👋🏻", "label": label["pale"], "tone": 1}
            ],
        },
        {
            "hexcode": "0039-FE0F-20E3",
            "emoji": "9️⃣",
            "label": "9",
            "group": 8,
            "subgroup": 94,
            "order": 10,
        },
    ]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    fluent = folder(tmp_path, sources.FLUENT_3D) / "assets"
    fluent.mkdir(parents=True)
    for name in ["1f44b", "39-fe0f-20e3", "0039-fe0f-20e3", "a9-fe0f", "1f1e6"]:
        Image.new("RGB", (4, 4), "red").save(fluent / f"{name}.webp")
    (fluent / "README.txt").write_text("no picture")
    base = folder(tmp_path, sources.EMOJIBASE)
    write_json(
        base / "meta" / "groups.json",
        {
            "groups": {"1": "people-body", "8": "symbols"},
            "subgroups": {"16": "hand-fingers-open", "94": "keycap"},
        },
    )
    write_json(
        base / "en" / "data.json", emojibase({"wave": "wave", "pale": "wave: light"}, ["hi"])
    )
    write_json(
        base / "zh" / "data.json", emojibase({"wave": "挥手", "pale": "挥手: 浅"}, ["你好", "手"])
    )
    write_json(
        folder(tmp_path, sources.CLDR) / "annotations" / "zh" / "annotations.json",
        {
            "annotations": {
                "annotations": {
                    "👋": {"tts": ["挥手"], "default": ["手", "再见"]},
                    "9⃣": {"tts": ["按键: 9"], "default": ["九"]},
                }
            }
        },
    )
    return tmp_path


@pytest.mark.parametrize(
    ("code", "key"),
    [
        ("a9-fe0f", "00A9"),
        ("00A9", "00A9"),
        ("39-fe0f-20e3", "0039-20E3"),
        ("1f9d1-1f3fb-200d-2764-fe0f-200d-1f9d1", "1F9D1-1F3FB-200D-2764-200D-1F9D1"),
    ],
)
def test_hexcodes_of_all_packages_agree(code, key):
    assert sources.normalise_hexcode(code) == key
    assert sources.normalise_hexcode(key) == key


def test_pictures_have_one_key_each(cache):
    pictures = sources.emoji_pictures("fluent-3d", cache)
    assert list(pictures) == ["0039-20E3", "00A9", "1F44B"]
    assert pictures["0039-20E3"].name == "0039-fe0f-20e3.webp"


def test_a_package_without_pictures_is_refused(cache):
    folder(cache, sources.GOOGLE).mkdir(parents=True)
    with pytest.raises(sources.SourceError, match=r"expected pictures in img/google/64"):
        sources.emoji_pictures("google", cache)


def test_names_in_every_language(cache):
    names = sources.emoji_names(cache)
    assert list(names) == ["0039-20E3", "1F44B", "1F44B-1F3FB"]
    wave, pale = names["1F44B"], names["1F44B-1F3FB"]
    assert (wave.group, wave.subgroup, wave.skin_tone) == (
        "people-body",
        "hand-fingers-open",
        False,
    )
    assert wave.labels == {"en": "wave", "zh": "挥手"}
    assert (pale.emoji, pale.group, pale.skin_tone) == ("👋🏻", "people-body", True)
    assert pale.labels == {"en": "wave: light", "zh": "挥手: 浅"}


def test_chinese_tags_join_cldr_without_repeats(cache):
    names = sources.emoji_names(cache)
    assert names["1F44B"].tags == {"en": ["hi"], "zh": ["你好", "手", "再见"]}
    # A variant inherits its base's keywords, and the base's own name with them.
    assert names["1F44B-1F3FB"].tags["zh"] == ["你好", "手", "挥手", "再见"]
    assert names["0039-20E3"].tags == {"en": [], "zh": ["按键: 9", "九"]}


def test_pictures_load_as_rgba(cache):
    picture = sources.load_picture(sources.emoji_pictures("fluent-3d", cache)["1F44B"])
    assert (picture.mode, picture.size) == ("RGBA", (4, 4))


def test_svg_is_drawn(tmp_path):
    pytest.importorskip("resvg_py")
    path = tmp_path / "red.svg"
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2">'
        '<rect width="1" height="2" fill="#f00"/></svg>'
    )
    picture = sources.load_picture(path, size=8)
    assert (picture.mode, picture.size) == ("RGBA", (8, 8))
    assert picture.getpixel((1, 4)) == (255, 0, 0, 255)
    assert picture.getpixel((6, 4)) == (0, 0, 0, 0)


def test_missing_npm_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.shutil, "which", lambda _: None)
    with pytest.raises(sources.SourceError, match=r"got none\. Install Node\.js"):
        sources.npm_package("some-package", "1.0.0", tmp_path)


def test_a_cached_package_needs_no_npm(cache, monkeypatch):
    monkeypatch.setattr(sources.shutil, "which", lambda _: None)
    package = sources.npm_package(sources.FLUENT_3D.name, sources.FLUENT_3D.version, cache)
    assert package == folder(cache, sources.FLUENT_3D)


def fake_npm(monkeypatch, *, members: dict[str, bytes], status: int = 0) -> None:
    def run(command, cwd, **options):
        assert command[1:3] == ["pack", "@scope/name@1.0.0"]
        if status == 0:
            with tarfile.open(Path(cwd) / "scope-name-1.0.0.tgz", "w:gz") as archive:
                for name, content in members.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return subprocess.CompletedProcess(command, status, stdout="", stderr="E404 no such thing")

    monkeypatch.setattr(sources.shutil, "which", lambda _: "npm")
    monkeypatch.setattr(sources.subprocess, "run", run)


def test_fetching_leaves_only_the_package(tmp_path, monkeypatch):
    fake_npm(monkeypatch, members={"package/a.txt": b"hello"})
    package = sources.npm_package("@scope/name", "1.0.0", tmp_path / "cache")
    assert (package / "a.txt").read_bytes() == b"hello"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["scope-name-1.0.0"]


def test_a_failed_fetch_repeats_what_npm_said(tmp_path, monkeypatch):
    fake_npm(monkeypatch, members={}, status=1)
    with pytest.raises(sources.SourceError, match="exit status 1: E404 no such thing"):
        sources.npm_package("@scope/name", "1.0.0", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_may_not_write_outside(tmp_path, monkeypatch):
    fake_npm(monkeypatch, members={"../../evil.txt": b"x"})
    with pytest.raises(sources.SourceError, match="expected a sound archive"):
        sources.npm_package("@scope/name", "1.0.0", tmp_path / "cache")
    assert not (tmp_path / "evil.txt").exists()
