"""CLIP_benchmark, as it is installed, measures the starter through the open_clip plug-in."""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import clip_text
from clip_text import plugin
from clip_text.encoder import Encoder
from clip_text.evaluation import retrieval

GALLERY = Path(__file__).parents[1] / "retrieval" / "gallery"
KS = (1, 5, 10)
LANGUAGES = ("zh", "en")


def photos(count: int | None) -> list[tuple[Path, list[str]]]:
    """Photos of the bundled gallery with a caption per language, none of which occurs twice.

    Captions with a full-width comma stay out: open_clip's tokenizers turn it into an ASCII one.
    """
    out, seen = [], set()
    for line in (GALLERY / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        captions = [entry["names"].get(language, "") for language in LANGUAGES]
        if entry["file_name"].startswith("photos/") and all(captions):
            if "，" not in captions[0] and seen.isdisjoint(captions):
                out.append((GALLERY / entry["file_name"], captions))
            seen.update(captions)
    return out[:count]


def write_webdataset(root: Path, pairs: list[tuple[Path, list[str]]]) -> None:
    """The layout CLIP_benchmark reads: pictures as they are, a line of text per caption."""
    (root / "test").mkdir(parents=True)
    (root / "dataset_type.txt").write_text("retrieval")
    (root / "test" / "nshards.txt").write_text("1")
    with tarfile.open(root / "test" / "0.tar", "w") as tar:
        for at, (photo, captions) in enumerate(pairs):
            files = {"jpg": photo.read_bytes(), "txt": "\n".join(captions).encode()}
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{at:05}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def theirs(root: Path, batch_size: int) -> dict[str, float]:
    """Run their command line in this process and read what it wrote."""
    arguments = ["clip_benchmark.cli", "eval", "--model", plugin.STARTER_PRESET]
    arguments += ["--pretrained", "starter", "--dataset", "wds/gallery", "--dataset_root", root]
    arguments += ["--task", "zeroshot_retrieval", "--recall_k", *KS, "--batch_size", batch_size]
    arguments += ["--no_amp", "--num_workers", 0, "--output", root / "result.json"]
    with pytest.raises(SystemExit) as exit_status:
        plugin.main([str(argument) for argument in arguments])
    assert not exit_status.value.code
    result = json.loads((root / "result.json").read_text())
    assert (result["model"], result["task"]) == ("clip-text-starter", "zeroshot_retrieval")
    return result["metrics"]


def ours(pairs: list[tuple[Path, list[str]]]) -> dict[str, float]:
    """The same figures by our own evaluation, under their names."""
    encoder = Encoder.from_pretrained("starter", device="cpu", runtime="torch")
    tokenizer = open_clip.get_tokenizer(plugin.STARTER_PRESET)
    assert all(tokenizer(each).equal(encoder.tokenizer(each)) for _, each in pairs)
    # opened pictures: of a path, our reader would decode a JPEG at the smallest size that does
    images = encoder.encode_image([Image.open(photo) for photo, _ in pairs])
    texts = encoder.encode_text([caption for _, captions in pairs for caption in captions])
    owner = np.repeat(np.arange(len(pairs)), len(LANGUAGES))
    scores = texts @ images.T
    # their top k breaks ties by position, our rank by expectation: no right answer has one here
    right = owner[:, None] == np.arange(len(pairs))
    for found, answers in ((scores, right), (scores.T, right.T)):
        assert not any(
            np.isin(row[~wanted], row[wanted]).any()
            for row, wanted in zip(found, answers, strict=True)
        )
    t2i = retrieval(texts, images, [[at] for at in owner], KS)
    i2t = retrieval(images, texts, [np.flatnonzero(owner == at) for at in range(len(pairs))], KS)
    return {f"image_retrieval_recall@{k}": t2i.recall[k] for k in KS} | {
        f"text_retrieval_recall@{k}": i2t.recall[k] for k in KS
    }


@pytest.mark.filterwarnings("ignore")  # of what it imports
@pytest.mark.parametrize(
    ("count", "batch_size"), [(32, 12), pytest.param(None, 64, marks=pytest.mark.slow)]
)
def test_it_measures_what_we_measure(count, batch_size, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    clip_text.register_with_open_clip()
    pairs = photos(count)
    write_webdataset(tmp_path, pairs)
    with torch.random.fork_rng():  # they seed it
        measured = theirs(tmp_path, batch_size)
    expected = ours(pairs)
    assert measured == pytest.approx(expected, abs=1e-6)
    # they agree on something: chance is one in len(pairs), and nothing is found at once
    assert 3 / len(pairs) < measured["image_retrieval_recall@1"]
    assert measured["image_retrieval_recall@1"] < measured["image_retrieval_recall@10"] < 1
