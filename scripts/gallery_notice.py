"""The gallery's NOTICE: who made what, under which licence, and what was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.sources import CLDR, EMOJIBASE, FLUENT_3D, npm_package

__all__ = ["EMOJI_SIDE", "PHOTO_SIDE", "licence_url", "write_notice"]

EMOJI_SIDE = 120
"""Width and height of an emoji in the gallery, in pixels."""
PHOTO_SIDE = 512
"""Longest side of a photograph in the gallery, in pixels."""

_CREATIVE_COMMONS = "https://creativecommons.org/licenses/"


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
    lines = [*_emoji_lines(), *_photo_lines(table), *_licence_lines(table, cache)]
    path.write_text("\n".join(lines), encoding="utf-8")


def _emoji_lines() -> list[str]:
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
    return lines


def _photo_lines(table: dict[str, Any]) -> list[str]:
    lines = [
        "PHOTOGRAPHS (photos/*.jpg)",
        "",
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
    return lines


def _licence_lines(table: dict[str, Any], cache: Path) -> list[str]:
    mit = (npm_package(EMOJIBASE.name, EMOJIBASE.version, cache) / "LICENSE").read_text("utf-8")
    unicode = (npm_package(CLDR.name, CLDR.version, cache) / "LICENSE").read_text("utf-8")
    lines = ["LICENCES", ""]
    for licence in sorted({row["licence"] for row in table["photo"]}):
        lines.append(f"{licence}: {licence_url(licence) or 'no rights reserved'}")
    lines += ["", "Fluent Emoji:", "", mit.replace(*_holders()).strip(), ""]
    lines += ["emojibase-data:", "", mit.strip(), "", "Unicode CLDR:", "", unicode.strip(), ""]
    return lines


def _holders() -> tuple[str, str]:
    """Return emojibase's copyright line and the one Fluent Emoji needs in its place."""
    return (
        f"Copyright (c) {EMOJIBASE.copyright}",
        "Copyright (c) Microsoft Corporation\nCopyright (c) 2023 LobeHub",
    )
