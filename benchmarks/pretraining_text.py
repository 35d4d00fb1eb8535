"""Plain text to pre-train on: what the measured sets have, without what they are measured on.

python benchmarks/pretraining_text.py DATA text/

A file a source, documents with blank lines between, for ``clip-text train mlm``: headlines of
TNEWS without the 5,000 that classification.py holds out, reviews (ChnSentiCorp's train,
ChineseNlpCorpus), sentences of MSRA NER without the 1,000 that ``clip-text train ner`` holds out,
Weibo NER's train, passages of CMRC's trial, captions of Flickr8k-CN's train. A line that any
validation set has is left out wherever it occurs. Labels, tags and answers are read for nothing.
"""

import csv
import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clip_text.data.labelled_texts import hold_out, read_labelled_texts
from clip_text.data.tagged_text import read_tagged

HELD_HEADLINES, HELD_SENTENCES = 5000, 1000
REVIEWS = ("htl", "online_shopping_10_cats", "waimai")


def passages(file: Path) -> list[str]:
    """Passages of a file in SQuAD's format."""
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    return [part["context"] for article in articles for part in article["paragraphs"]]


def reviews(folder: Path) -> Iterator[str]:
    """Reviews of ChineseNlpCorpus."""
    for name in REVIEWS:
        with (folder / f"{name}.csv").open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                yield (row["review"] or "").replace("\ufeff", "")


def captions(file: Path) -> Iterator[str]:
    """Chinese captions of each photo, one a line."""
    with file.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            yield "\n".join(row["zh"])
            yield "\n".join(row["zh_mt"])


def sources(data: Path) -> tuple[dict[str, Iterable[str]], set[str]]:
    """Documents by source, and texts that must not be among them."""
    text = data / "text"
    headlines, held = hold_out(read_labelled_texts(text / "tnews" / "train.tsv"), HELD_HEADLINES)
    sentences = [one.text for one in read_tagged(text / "msra_ner" / "sentences.txt").texts]
    random.Random(0).shuffle(sentences)  # noqa: S311  (as scripts/train_ner.py draws them)
    chn = {n: read_labelled_texts(text / "chnsenticorp" / f"{n}.tsv") for n in ("train", "dev")}
    weibo = {
        n: [one.text for one in read_tagged(text / "weibo_ner" / f"{n}.json").texts]
        for n in ("train", "dev")
    }
    forbidden = {*held.texts, *sentences[:HELD_SENTENCES], *chn["dev"].texts, *weibo["dev"]}
    forbidden.update(passages(text / "cmrc2018" / "dev.json"))
    return {
        "tnews": headlines.texts,
        "chnsenticorp": chn["train"].texts,
        "reviews": reviews(text / "reviews"),
        "msra": sentences[HELD_SENTENCES:],
        "weibo": weibo["train"],
        "cmrc": passages(text / "cmrc2018" / "trial.json"),
        "captions": captions(data / "flickr8k-cn" / "train.jsonl"),
    }, forbidden


def main(data: Path, out: Path) -> None:
    """Write the text."""
    found, forbidden = sources(data)
    lines_of = {line for text in forbidden for line in _lines(text)}
    out.mkdir(parents=True, exist_ok=True)
    for name, documents in found.items():
        kept = dropped = characters = 0
        with (out / f"{name}.txt").open("w", encoding="utf-8") as file:
            for document in documents:
                lines = [line for line in _lines(document) if line not in lines_of]
                dropped += len(lines) < len(_lines(document))
                if lines:
                    file.write("\n".join(lines) + "\n\n")
                    kept += 1
                    characters += sum(map(len, lines))
        print(
            f"{name:13s} {kept:8,d} documents {characters:10,d} characters, {dropped:5,d} "
            "documents without lines of validation texts"
        )


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    typer.run(main)
