"""Recall of emoji names over the emoji pictures of one drawing style.

    python scripts/evaluate_emoji.py --style twitter --language zh

The starter never saw the Twitter style, so this tells whether it learned the thing or the drawing.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clip_text.evaluation import RetrievalSet, Text, retrieval_set
from clip_text.images import ImageSource
from clip_text_cli.main import run
from scripts.sources import Style, emoji_names, emoji_pictures, load_picture

if TYPE_CHECKING:
    from clip_text import Encoder
    from clip_text.evaluation import Retrieval

CACHE = Path(".cache/starter/packages")


class _Drawings(Mapping[str, ImageSource]):
    """Emoji pictures by hexcode, drawn when they are asked for."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def __getitem__(self, code: str) -> ImageSource:
        return load_picture(self._files[code])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def emoji_set(
    style: Style, languages: Sequence[str], cache: Path, *, skin_tones: bool = False
) -> RetrievalSet:
    """Emoji pictures of one style, with a name per language.

    Args:
        style: Drawing style.
        languages: Of the names, as emojibase calls them: ``zh``, ``en``, ``ja``, …; an emoji
            needs a name in each.
        cache: Folder for the npm packages.
        skin_tones: Whether the five tones of each gesture are asked for and searched among too.

    Raises:
        SourceError: If a package cannot be fetched.
        DataError: If no emoji has a name in each of the languages.
    """
    pictures, names = emoji_pictures(style, cache), emoji_names(cache)
    files = {
        code: file
        for code, file in pictures.items()
        if code in names
        and names[code].labels.keys() >= set(languages)
        and (skin_tones or not names[code].skin_tone)
    }
    texts = [
        Text(f"{code} {language}", names[code].labels[language], (code,), language)
        for language in languages
        for code in files
    ]
    return retrieval_set(f"emoji {style}", _Drawings(files), texts)


def emoji_recall(
    encoder: "Encoder", style: Style, language: str, cache: Path
) -> "dict[str, Retrieval]":
    """Ask for every emoji by its name, over all pictures of a style.

    Returns:
        ``without skin tones`` and ``with skin tones``; see :func:`emoji_set`.
    """
    from clip_text.evaluation.measure import Encoded, encode_set, measure

    everything = emoji_set(style, [language], cache, skin_tones=True)
    plain = emoji_set(style, [language], cache)
    encoded = encode_set(encoder, everything)
    # one text a picture, so both lie at the same places
    kept = [everything.image_ids.index(code) for code in plain.image_ids]
    digests = [encoded.digests[place] for place in kept]
    part = Encoded(encoded.texts[kept], encoded.images[kept], digests)
    return {
        "without skin tones": measure(plain, part).by_direction["t2i"],
        "with skin tones": measure(everything, encoded).by_direction["t2i"],
    }


def main(
    style: Annotated[str, typer.Option(help="google, twitter, fluent-3d or fluent-flat.")] = (
        "twitter"
    ),
    language: Annotated[str, typer.Option(help="Of the names: zh, en, ja, …")] = "zh",
    model: Annotated[str, typer.Option(help="Starter, a folder or a hub name.")] = "starter",
    cache: Annotated[Path, typer.Option(help="Folder for the npm packages.")] = CACHE,
) -> None:
    """Print recall@1/5/10 without and with skin tones.

    Example:
        python scripts/evaluate_emoji.py --style twitter --language zh
    """
    from clip_text import Encoder

    encoder = Encoder.from_pretrained(model, runtime="torch")
    results = emoji_recall(encoder, style, language, cache)  # type: ignore[arg-type]
    for what, result in results.items():
        recalls = "  ".join(f"recall@{k} {value:.1%}" for k, value in result.recall.items())
        print(f"{style} {language} {what}: {recalls}  ({result.candidates} pictures)")


if __name__ == "__main__":
    run(lambda: typer.run(main))
