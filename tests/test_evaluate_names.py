"""The photos of things that nothing is trained on, and how many of them a model names."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.evaluate_names import Named, held_out, measure_names, named_photos

COLOURS = {"红苹果": "red", "黄瓜": "green", "蓝莓": "blue"}


def photos_of(**counts):
    return [
        Named(Path(f"{kind}-{number}.jpg"), kind, kind)
        for kind, count in counts.items()
        for number in range(count)
    ]


def test_a_fifth_of_each_class_is_held_out_whatever_is_beside_it():
    photos = photos_of(many=50, few=7, two=2, one=1)
    is_out = dict(zip([photo.path.name for photo in photos], held_out(photos), strict=True))
    for kind, expected in {"many": 10, "few": 1, "two": 1, "one": 0}.items():
        assert sum(out for name, out in is_out.items() if name.startswith(kind)) == expected
    turned = photos_of(few=7, other=30, many=50)[::-1]
    again = dict(zip([photo.path.name for photo in turned], held_out(turned), strict=True))
    assert {name: again[name] for name in again if name in is_out} == {
        name: is_out[name] for name in again if name in is_out
    }
    # as they were when figures were written down
    assert [name for name, out in is_out.items() if out and name.startswith("f")] == ["few-5.jpg"]


class ByColour:
    """Knows colours: by the mean of a picture, and by what a name says."""

    fingerprint = "by colour"

    def __init__(self, *, knows):
        self.knows = knows

    def encode_text(self, texts):
        return np.stack([self._row(text) for text in texts])

    def _row(self, text):
        for place, name in enumerate(COLOURS):
            if name in text and name in self.knows:
                return np.eye(4, dtype=np.float32)[place]
        return np.eye(4, dtype=np.float32)[3]

    def encode_image(self, images):
        return self.encode_pixels([self.load_pixels(image) for image in images])

    def load_pixels(self, image):
        return np.asarray(Image.open(image).convert("RGB"))

    def encode_pixels(self, pixels):
        means = np.stack([picture.astype(float).mean((0, 1)) for picture in pixels])
        wide = np.pad(means, ((0, 0), (0, 1))) + 1e-3
        return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def data(tmp_path):
    for folder in ("grocery", "howtocook"):
        lines = []
        (tmp_path / folder / "images").mkdir(parents=True)
        for name, colour in COLOURS.items():
            for number in range(5):
                file = f"{colour}-{number}.png"
                dish = folder == "howtocook"
                labels = ["素菜"] if dish else [name]
                zh = [name] if dish and number else []  # not every photo of dishes has a name
                shown = "grey" if dish and not number else colour
                Image.new("RGB", (32, 32), shown).save(tmp_path / folder / "images" / file)
                lines.append({"image": file, "labels": labels, "zh": zh})
        text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        (tmp_path / folder / "train.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_who_knows_the_names_finds_the_things(data):
    found = measure_names(ByColour(knows=COLOURS), data, every=True)
    assert found["grocery top-1"].value == 1
    assert found["dishes recall@1"].value == 1
    blind = measure_names(ByColour(knows={"红苹果"}), data, every=True)
    assert blind["grocery top-1"].value == pytest.approx((1 + 2 / 3) / 3)  # two drawn of three
    assert blind["dishes recall@1"].value < 1
    assert measure_names(ByColour(knows=COLOURS), data)["grocery top-1"].value == 1
    assert len(named_photos(data / "howtocook")) == 15
