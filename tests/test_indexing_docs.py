"""The Python of docs/indexing.md runs."""

import re
from pathlib import Path

from fakes import FakeEncoder, save_picture

from clip_text import Encoder

PAGE = Path(__file__).parents[1] / "docs" / "indexing.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_of_data_sets_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Encoder, "from_pretrained", lambda name: FakeEncoder())
    for number, name in enumerate(["mug.jpg", "lamp.jpg"]):
        save_picture(tmp_path / "photos" / name, number)
    exec(compile(BLOCKS[0], str(PAGE), "exec"), {})
    assert capsys.readouterr().out.startswith("2 pictures in the index: 2 added")


def test_the_example_of_items_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Encoder, "from_pretrained", lambda name: FakeEncoder())
    for number, name in enumerate(["mug.jpg", "lamp.jpg"]):
        save_picture(tmp_path / name, number)
    exec(compile(BLOCKS[1], str(PAGE), "exec"), {})
    printed = eval(capsys.readouterr().out, {"PosixPath": Path, "WindowsPath": Path})
    hits = {image_id: (path, metadata) for image_id, path, metadata in printed}
    assert hits == {
        "sku-1": (tmp_path / "mug.jpg", {"price": 35, "tags": ["杯子"]}),
        "old-0": (None, {}),
    }
