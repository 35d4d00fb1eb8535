"""Makes single words of captions questions of their own: what people type is short and broad.

    python benchmarks/caption_words.py flickr8k-cn/val.jsonl words.jsonl
    clip-text index calibrate flickr8k-cn/val.jsonl words.jsonl --report

A picture gets the nouns that at least two of its ``zh`` captions have. A noun's right pictures are
then all that have it.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

NOUNS = ("n", "s", "nz")
"""jieba's tags of nouns, places, other names."""


def nouns_of(captions: list[str], least: int = 2) -> list[str]:
    """Name the nouns that at least so many of the captions have."""
    from jieba import posseg  # noqa: PLC0415  takes seconds, and help need not wait for it

    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update({word.word for word in posseg.cut(caption) if word.flag in NOUNS})
    return sorted(word for word, count in counts.items() if count >= least)


def main() -> None:
    """Write the file of words."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("captions", type=Path, help="jsonl with image and zh, images/ beside it")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    folder = options.captions.resolve().parent / "images"
    words: Counter[str] = Counter()
    pictures = 0
    with options.out.open("w", encoding="utf-8") as out:
        for line in options.captions.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found = nouns_of(entry["zh"])
            if found:
                pictures += 1
                words.update(found)
                told = {"image": str(folder / entry["image"]), "zh": found}
                out.write(json.dumps(told, ensure_ascii=False) + "\n")
    common = ", ".join(f"{word} {count}" for word, count in words.most_common(10))
    print(f"{len(words):,} words of {pictures:,} pictures: {common}")


if __name__ == "__main__":
    main()
