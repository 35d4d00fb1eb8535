"""The bundled gallery, and the parts of its build script that need no network."""

import io
import json
import struct
import tarfile
import tomllib
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from scripts import archives, build_gallery, gallery_notice, sources

GALLERY = Path(build_gallery.__file__).resolve().parent.parent / "retrieval" / "gallery"
LIMIT = 12_000_000  # bytes


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    lines = (GALLERY / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def notice() -> str:
    return (GALLERY / "NOTICE").read_text(encoding="utf-8")


def find(entries: list[dict], hexcode: str) -> dict:
    return next(entry for entry in entries if entry["file_name"] == f"emoji/{hexcode}.webp")


def test_metadata_and_files_agree(entries):
    listed = [entry["file_name"] for entry in entries]
    present = {
        path.relative_to(GALLERY).as_posix() for path in GALLERY.rglob("*") if path.is_file()
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == present - {"metadata.jsonl", "NOTICE"}


def test_every_picture_opens(entries):
    for entry in entries:
        with Image.open(GALLERY / entry["file_name"]) as picture:
            picture.load()
            longest = max(picture.size)
            assert longest <= build_gallery.PHOTO_SIDE
            assert longest >= 100, entry["file_name"]
            assert "exif" not in picture.info


def test_small_enough_to_bundle():
    size = sum(path.stat().st_size for path in GALLERY.rglob("*") if path.is_file())
    assert size <= LIMIT


def test_enough_of_both_kinds(entries):
    photos = sum(entry["file_name"].startswith("photos/") for entry in entries)
    assert photos >= 60
    assert len(entries) - photos >= 1500


def test_every_entry_says_what_and_whose_it_is(entries):
    for entry in entries:
        assert set(entry) == {
            *("author", "caption", "emoji", "file_name", "group"),
            *("licence", "names", "source", "tags"),
        }
        for field in ("author", "caption", "group", "licence", "source"):
            assert entry[field].strip(), (entry["file_name"], field)
        assert entry["names"]["zh"] == entry["caption"]
        assert {"zh", "en", "ja"} <= set(entry["names"])
        assert all(entry["names"].values())


def test_every_emoji_is_named_in_28_languages(entries):
    languages = {frozenset(entry["names"]) for entry in entries if entry["emoji"]}
    assert len(languages) == 1
    assert len(*languages) == 28
    assert {"zh", "zh-hant", "en", "ja", "hi", "uk"} <= set(*languages)


def test_describing_anew_leaves_the_pictures_alone(tmp_path, monkeypatch):
    dog = sources.EmojiNames(
        "1F436", "🐶", "animals-nature", "", False, {"zh": "狗脸", "uk": "морда собаки"}, {"zh": []}
    )
    monkeypatch.setattr(build_gallery, "emoji_pictures", lambda *_: {"1F436": Path("none.webp")})
    monkeypatch.setattr(build_gallery, "emoji_names", lambda _: {"1F436": dog})
    monkeypatch.setattr(build_gallery, "write_notice", lambda path, *_: path.write_text("!"))
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "1F436.webp").write_bytes(b"as it was")
    build_gallery.build(tmp_path, tmp_path, pictures=False)
    assert (tmp_path / "emoji" / "1F436.webp").read_bytes() == b"as it was"
    first, *photos = (tmp_path / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(first)["names"] == {"uk": "морда собаки", "zh": "狗脸"}
    assert len(photos) == 221


def test_licences_allow_passing_on(entries):
    allowed = {"MIT", "Public domain", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"}
    assert {entry["licence"] for entry in entries} <= allowed | {"CC-BY-SA-3.0", "CC-BY-SA-4.0"}


def test_notice_names_every_source_and_photograph(entries, notice):
    for source in {entry["source"] for entry in entries}:
        assert source in notice
    for entry in entries:
        if entry["file_name"].startswith("photos/"):
            assert f"{Path(entry['file_name']).name}: {entry['names']['en']}" in notice
            assert f"by {entry['author']}; {entry['licence']}" in notice
    assert "Copyright (c) Microsoft Corporation" in notice
    assert "Permission is hereby granted, free of charge" in notice
    assert "UNICODE LICENSE V3" in notice


def test_what_the_examples_search_for_is_there(entries):
    assert (find(entries, "1F436")["emoji"], find(entries, "1F436")["caption"]) == ("🐶", "狗脸")
    assert "蛋糕" in find(entries, "1F370")["caption"]
    assert find(entries, "1F353")["caption"] == "草莓"
    assert "伞" in find(entries, "2614")["caption"]


def test_no_skin_tone_variants(entries):
    tones = {f"{code:X}" for code in range(0x1F3FB, 0x1F400)}
    for entry in entries:
        name = Path(entry["file_name"]).stem
        assert "-" not in name or not tones & set(name.split("-")), name


def test_table_and_gallery_agree(entries):
    table = tomllib.loads(build_gallery.TABLE.read_text(encoding="utf-8"))
    described = [
        build_gallery.asdict(build_gallery.photo_entry(row, table["package"]))
        for row in table["photo"]
    ]
    bundled = [entry for entry in entries if entry["file_name"].startswith("photos/")]
    assert bundled == described


@pytest.mark.parametrize(
    ("licence", "url"),
    [
        ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC-BY-2.0", "https://creativecommons.org/licenses/by/2.0/"),
        ("CC-BY-SA-4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
        ("Public domain", ""),
    ],
)
def test_licence_url(licence, url):
    assert gallery_notice.licence_url(licence) == url


def qt_resource(flags: int, body: bytes) -> bytes:
    """A resource with one file, a/b.txt, laid out by hand."""

    def name(text: str) -> bytes:
        return struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")

    names = name("a") + name("b.txt")
    data = struct.pack(">I", len(body)) + body
    nodes = [
        struct.pack(">IHIIQ", 0, 2, 1, 1, 0),  # the root: one child, node 1
        struct.pack(">IHIIQ", 0, 2, 1, 2, 0),  # a: one child, node 2
        struct.pack(">IHHHIQ", len(name("a")), flags, 0, 0, 0, 0),  # b.txt, data at 0
    ]
    start = 20
    header = struct.pack(
        ">4sIIII",
        b"qres",
        2,
        start + len(data) + len(names),
        start,
        start + len(data),
    )
    return header + data + names + b"".join(nodes)


def test_qt_resource_plain_and_packed():
    assert archives.read_qt_resource(qt_resource(0, b"hello")) == {"a/b.txt": b"hello"}
    packed = struct.pack(">I", 5) + zlib.compress(b"hello")
    assert archives.read_qt_resource(qt_resource(1, packed)) == {"a/b.txt": b"hello"}


def test_qt_resource_refuses_what_it_cannot_read():
    with pytest.raises(sources.SourceError, match="got zstd"):
        archives.read_qt_resource(qt_resource(4, b"?"))
    with pytest.raises(sources.SourceError, match="expected a Qt resource of version 2 or 3"):
        archives.read_qt_resource(b"PK" + bytes(40))


def test_members_of_a_wheel(tmp_path):
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/x.png", b"x")
    assert archives.read_members(wheel, {"a/x.png"}) == {"a/x.png": b"x"}
    with pytest.raises(sources.SourceError, match=r"expected a/y\.png in a-1-py3"):
        archives.read_members(wheel, {"a/y.png"})


def test_members_of_a_debian_package(tmp_path, monkeypatch):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        member = tarfile.TarInfo("./usr/share/x.jpg")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))

    class Done:
        stdout = content.getvalue()

    monkeypatch.setattr(archives.shutil, "which", lambda _: "dpkg-deb")
    monkeypatch.setattr(archives.subprocess, "run", lambda *_, **__: Done)
    package = tmp_path / "x_1_all.deb"
    assert archives.read_members(package, {"usr/share/x.jpg"}) == {"usr/share/x.jpg": b"x"}


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, "which", lambda _: None)
    with pytest.raises(sources.SourceError, match="expected the client apt-get"):
        archives.fetch_archive("scratch", {"client": "apt", "version": "1:2"}, tmp_path)
    with pytest.raises(sources.SourceError, match="expected dpkg-deb"):
        archives.read_members(tmp_path / "x.deb", {"x"})


def test_photos_are_shrunk_and_flattened(tmp_path):
    content = io.BytesIO()
    Image.new("RGBA", (1024, 512), (0, 0, 0, 0)).save(content, "PNG")
    build_gallery.save_photo(content.getvalue(), tmp_path / "a.jpg", "white")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size == (512, 256)
        assert picture.getpixel((9, 9)) == (255, 255, 255)
