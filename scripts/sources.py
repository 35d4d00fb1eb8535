"""Where the emoji pictures and their names come from.

The pictures and the names are ordinary npm packages with pinned versions, fetched by the npm
client into a cache folder. `build_gallery.py` and `build_starter.py` read them through the
functions below; nothing here is needed to use the finished gallery or starter.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from clip_text.errors import ClipTextError

Style = Literal["google", "twitter", "fluent-3d", "fluent-flat"]


class Package(NamedTuple):
    """One pinned npm package.

    Args:
        name: Name at npm, with its scope.
        version: Exact version.
        licence: SPDX identifier of the part used here (pictures or names).
        copyright: Who holds the rights in that part.
        homepage: The project's page, as its package.json gives it.
    """

    name: str
    version: str
    licence: str
    copyright: str
    homepage: str


GOOGLE = Package(
    "emoji-datasource-google",
    "16.0.0",
    "Apache-2.0",
    "Google Inc. (Noto Color Emoji); packaged by Cal Henderson",
    "https://github.com/iamcal/emoji-data",
)
TWITTER = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "CC-BY-4.0",
    "Twitter, Inc. and other contributors (Twemoji); packaged by Cal Henderson",
    "https://github.com/iamcal/emoji-data",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "MIT",
    "Microsoft Corporation (Fluent Emoji); packaged by LobeHub, 2023",
    "https://github.com/lobehub/fluent-emoji",
)
FLUENT_FLAT = Package(
    "@lobehub/fluent-emoji-flat",
    "1.1.0",
    "MIT",
    "Microsoft Corporation (Fluent Emoji); packaged by LobeHub, 2023",
    "https://github.com/lobehub/fluent-emoji",
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "MIT",
    "2017-2019 Miles Johnson",
    "https://github.com/milesj/emojibase",
)
CLDR = Package(
    "cldr-annotations-full",
    "48.2.0",
    "Unicode-3.0",
    "2004-2026 Unicode, Inc.",
    "https://cldr.unicode.org",
)

# style → (package, folder of the pictures inside it)
_PICTURES: dict[Style, tuple[Package, str]] = {
    "google": (GOOGLE, "img/google/64"),
    "twitter": (TWITTER, "img/twitter/64"),
    "fluent-3d": (FLUENT_3D, "assets"),
    "fluent-flat": (FLUENT_FLAT, "assets"),
}
_PICTURE_SUFFIXES = {".png", ".webp", ".svg"}
_VARIATION_SELECTOR = 0xFE0F
_REGIONAL_INDICATORS = {f"{code:04X}" for code in range(0x1F1E6, 0x1F200)}


class SourceError(ClipTextError, RuntimeError):
    """A package could not be fetched, or does not hold what is expected of it."""


@dataclass(frozen=True)
class EmojiNames:
    """What one emoji is called.

    Args:
        hexcode: Normalised code points, the key of `emoji_pictures`, such as "1F436".
        emoji: The character itself.
        group: Unicode group, such as "animals-nature".
        subgroup: Unicode subgroup, such as "animal-mammal".
        skin_tone: True for the variant of an emoji with a skin colour.
        labels: Language → short name, such as {"zh": "狗脸", "en": "dog face"}.
        tags: Language → keywords; a skin-tone variant has those of its base. May be empty.
    """

    hexcode: str
    emoji: str
    group: str
    subgroup: str
    skin_tone: bool
    labels: dict[str, str]
    tags: dict[str, list[str]]


def npm_package(name: str, version: str, cache: Path) -> Path:
    """Fetch a package with the npm client, unless the cache holds it already.

    Args:
        name: Name at npm, such as "@lobehub/fluent-emoji-3d".
        version: Exact version.
        cache: Folder for unpacked packages; made where it is missing.

    Returns:
        The unpacked package folder.

    Raises:
        SourceError: If npm is not installed, the fetch fails, or the archive is unsound.
    """
    home = cache / f"{name.removeprefix('@').replace('/', '-')}-{version}"
    package = home / "package"
    if package.is_dir():
        return package
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError(
            f"expected the npm client on PATH to fetch {name}@{version}, got none. "
            "Install Node.js, which brings npm."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        unpacked = _fetch(npm, f"{name}@{version}", Path(scratch))
        try:
            unpacked.rename(home)
        except OSError:
            # Another process was quicker; its copy is as good as ours.
            if not package.is_dir():
                raise
    if not package.is_dir():
        raise SourceError(
            f"expected a folder 'package' in the archive of {name}@{version}, got "
            f"{sorted(path.name for path in home.iterdir())}. Delete {home} and report this."
        )
    return package


def _fetch(npm: str, package: str, scratch: Path) -> Path:
    """Fetch and unpack a package named ``name@version``; gives the folder it lies in."""
    done = subprocess.run(
        [npm, "pack", package, "--ignore-scripts", "--silent"],
        cwd=scratch,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    archives = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        raise SourceError(
            f"expected npm pack to fetch {package}, got exit status "
            f"{done.returncode}: {done.stderr.strip() or 'no message'}. "
            "Check the network and npm's configuration, then run the same command again."
        )
    unpacked = scratch / "unpacked"
    try:
        with tarfile.open(archives[0]) as archive:
            archive.extractall(unpacked, filter="data")
    except tarfile.TarError as error:
        raise SourceError(
            f"expected a sound archive of {package}, got {error}. Run the same command again."
        ) from error
    return unpacked


def normalise_hexcode(code: str) -> str:
    """Bring an emoji's code points to the one form used as a key here.

    The packages disagree about case, leading zeros and the variation selector:
    "a9-fe0f", "00a9-fe0f" and "00A9" are one emoji.

    Args:
        code: Hexadecimal code points joined by "-".

    Returns:
        Upper case, at least four digits each, without FE0F, such as "0039-20E3".

    Raises:
        ValueError: If a part is no hexadecimal number.
    """
    points = (int(part, 16) for part in code.split("-"))
    return "-".join(f"{point:04X}" for point in points if point != _VARIATION_SELECTOR)


def emoji_pictures(style: Style, cache: Path) -> dict[str, Path]:
    """Find the pictures of one drawing style.

    Args:
        style: Which set of drawings.
        cache: Folder for unpacked packages.

    Returns:
        Normalised hexcode → picture file, in the order of the hexcodes.

    Raises:
        SourceError: If the package cannot be fetched or holds no picture.
    """
    package, folder = _PICTURES[style]
    root = npm_package(package.name, package.version, cache) / folder
    pictures: dict[str, Path] = {}
    # Where two files are one emoji the last in order wins: the longer name, with its zeros.
    for path in sorted(root.glob("*"), key=lambda path: (len(path.name), path.name)):
        if path.suffix in _PICTURE_SUFFIXES:
            key = normalise_hexcode(path.stem)
            if key not in _REGIONAL_INDICATORS:
                pictures[key] = path
    if not pictures:
        raise SourceError(
            f"expected pictures in {folder} of {package.name}@{package.version}, got none. "
            f"Delete {root} and run the same command again."
        )
    return dict(sorted(pictures.items()))


def load_picture(path: Path, size: int = 256) -> Image.Image:
    """Read one picture.

    Args:
        path: A PNG, WebP or SVG file.
        size: Side in pixels at which an SVG is drawn; the others keep their own size.

    Returns:
        The picture in mode RGBA.

    Raises:
        ImportError: If an SVG is asked for and resvg-py is not installed.
    """
    if path.suffix != ".svg":
        with Image.open(path) as picture:
            return picture.convert("RGBA")
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError(
            "expected resvg-py to draw SVG pictures, got no such module. "
            "Run: pip install 'clip-text[starter]'."
        ) from error
    drawn = resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size)
    with Image.open(io.BytesIO(bytes(drawn))) as picture:
        return picture.convert("RGBA")


def emoji_names(cache: Path) -> dict[str, EmojiNames]:
    """Read what every emoji is called in every language of emojibase.

    Chinese also gets the keywords of Unicode CLDR. Regional indicators (the letters flags
    are made of) are no pictures and are left out.

    Args:
        cache: Folder for unpacked packages.

    Returns:
        Normalised hexcode → names, in Unicode's order, variants after their base.

    Raises:
        SourceError: If a package cannot be fetched.
    """
    root = npm_package(EMOJIBASE.name, EMOJIBASE.version, cache)
    meta = _read_json(root / "meta" / "groups.json")
    names: dict[str, EmojiNames] = {}
    # English first: it decides the order and the groups; labels are then added by language.
    languages = sorted(
        (path.parent.name for path in root.glob("*/data.json")),
        key=lambda lang: (lang != "en", lang),
    )
    for language in languages:
        for base in sorted(_read_json(root / language / "data.json"), key=_order):
            for entry in (base, *base.get("skins", ())):
                key = normalise_hexcode(entry["hexcode"])
                if key in _REGIONAL_INDICATORS:
                    continue
                emoji = names.get(key)
                if emoji is None:
                    emoji = names[key] = EmojiNames(
                        hexcode=key,
                        emoji=entry["emoji"],
                        group=meta["groups"].get(str(base.get("group")), ""),
                        subgroup=meta["subgroups"].get(str(base.get("subgroup")), ""),
                        skin_tone=entry is not base,
                        labels={},
                        tags={},
                    )
                emoji.labels[language] = entry["label"]
                emoji.tags[language] = list(base.get("tags", ()))
    _add_cldr_tags(names, cache, "zh")
    return names


def _add_cldr_tags(names: dict[str, EmojiNames], cache: Path, language: str) -> None:
    root = npm_package(CLDR.name, CLDR.version, cache)
    content = _read_json(root / "annotations" / language / "annotations.json")
    annotations = {
        normalise_hexcode("-".join(f"{ord(char):X}" for char in text)): words
        for text, words in content["annotations"]["annotations"].items()
    }
    for emoji in names.values():
        # CLDR annotates the plain emoji only; a variant shares its base's keywords.
        base = "-".join(part for part in emoji.hexcode.split("-") if not "1F3FB" <= part <= "1F3FF")
        words = annotations.get(emoji.hexcode) or annotations.get(base) or {}
        known = emoji.tags.setdefault(language, [])
        extra = [*words.get("tts", ()), *words.get("default", ())]
        label = emoji.labels.get(language)
        known[:] = dict.fromkeys(word for word in [*known, *extra] if word != label)


def _order(entry: dict[str, Any]) -> int:
    return int(entry.get("order", 0))


def _read_json(path: Path) -> Any:  # noqa: ANN401, JSON is what the file says it is
    return json.loads(path.read_text(encoding="utf-8"))
