"""Recall of emoji names over the emoji pictures of one drawing style.

    python scripts/evaluate_emoji.py --style twitter --language zh

The starter never saw the Twitter style, so this tells whether it learned the thing or the drawing.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clip_text import Encoder
from clip_text.evaluation import Retrieval, retrieval
from scripts.sources import Style, emoji_names, emoji_pictures, load_picture


def emoji_recall(
    encoder: Encoder, style: Style, language: str, cache: Path
) -> dict[str, Retrieval]:
    """Ask for every emoji by its name, over all pictures of a style.

    Args:
        encoder: The model.
        style: Drawing style.
        language: Of the names, as emojibase calls it: ``zh``, ``en``, ``ja``, …
        cache: Folder for the npm packages.

    Returns:
        ``without skin tones``, and ``with skin tones``, where the five tones of each gesture are
        asked for and searched among too.
    """
    pictures, names = emoji_pictures(style, cache), emoji_names(cache)
    codes = [code for code in pictures if code in names and language in names[code].labels]
    images = encoder.encode_image([load_picture(pictures[code]) for code in codes])
    texts = encoder.encode_text([names[code].labels[language] for code in codes])
    plain = [at for at, code in enumerate(codes) if not names[code].skin_tone]
    return {
        "without skin tones": retrieval(
            texts[plain], images[plain], [[at] for at in range(len(plain))]
        ),
        "with skin tones": retrieval(texts, images, [[at] for at in range(len(codes))]),
    }


def main(
    style: Annotated[str, typer.Option(help="google, twitter, fluent-3d or fluent-flat.")] = (
        "twitter"
    ),
    language: Annotated[str, typer.Option(help="Of the names: zh, en, ja, …")] = "zh",
    model: Annotated[str, typer.Option(help="Starter, a folder or a hub name.")] = "starter",
    cache: Annotated[Path, typer.Option(help="Folder for the npm packages.")] = Path(
        ".cache/starter/packages"
    ),
) -> None:
    """Print recall@1/5/10 without and with skin tones."""
    encoder = Encoder.from_pretrained(model)
    results = emoji_recall(encoder, style, language, cache)  # type: ignore[arg-type]
    for what, result in results.items():
        recalls = "  ".join(f"recall@{k} {value:.1%}" for k, value in result.recall.items())
        print(f"{style} {language} {what}: {recalls}  ({result.candidates} pictures)")


if __name__ == "__main__":
    typer.run(main)
