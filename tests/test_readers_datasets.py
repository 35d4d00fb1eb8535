"""Reading Hugging Face's datasets: what save_to_disk wrote, and names of the hub."""

import io
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from clip_text.data.hub import HubRows
from clip_text.data.readers import read_retrieval_set
from clip_text.data.rows import read_rows
from clip_text.errors import DataError
from clip_text.images import ImageError, load_image

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def shade(source):
    return load_image(source).getpixel((0, 0))[0]


def made(number=3, **columns):
    """Pictures as the library keeps them: the Image feature, decoded when they are asked for."""
    data = {
        "image": [{"bytes": png(n), "path": f"{n}.png"} for n in range(number)],
        "caption": [[f"第{n}", f"{n}"] for n in range(number)],
        **columns,
    }
    return datasets.Dataset.from_dict(data).cast_column("image", datasets.Image())


def refused(match, path, **options):
    with pytest.raises(DataError, match=match):
        read_retrieval_set(path, **options)


def test_one_saved_split(tmp_path):
    made(negatives=[["x"], [], ["y", "z"]]).save_to_disk(tmp_path / "pets")
    found = read_retrieval_set(tmp_path / "pets")
    assert found.name == "pets"
    assert found.image_ids == ["0.png", "1.png", "2.png"]
    assert [text.text for text in found.texts] == ["第0", "0", "第1", "1", "第2", "2"]
    assert found.answers == [[0], [0], [1], [1], [2], [2]]
    assert found.negatives == [["x"], [], ["y", "z"]]
    assert isinstance(found.images[1], bytes)  # not decoded
    assert [shade(image) for image in found.images] == [0, 1, 2]
    refused("expected no split for .*pets", tmp_path / "pets", split="train")


def test_several_saved_splits(tmp_path):
    datasets.DatasetDict({"train": made(4), "test": made(2)}).save_to_disk(tmp_path / "pets")
    found = read_retrieval_set(tmp_path / "pets", split="test")
    assert (found.name, len(found.image_ids)) == ("pets test", 2)
    refused("splits of .*pets, got none. There are: train, test", tmp_path / "pets")
    refused("splits of .*pets, got val. There are", tmp_path / "pets", split="val")
    assert len(read_retrieval_set(tmp_path / "pets" / "train").image_ids) == 4


def test_rows_that_were_chosen_and_shuffled(tmp_path, monkeypatch):
    """An index over the rows, as shuffle and select leave one, is kept."""
    monkeypatch.setattr(HubRows.batches, "__defaults__", (7,))
    made(50).shuffle(seed=1).select(range(20)).save_to_disk(tmp_path / "a")
    rows = HubRows(made(50).shuffle(seed=1).select(range(20)), "mine")
    for records, images in (
        read_rows(rows, tmp_path, None, None),
        read_rows(HubRows(datasets.load_from_disk(tmp_path / "a"), "a"), tmp_path, None, None),
    ):
        assert len({record.image for record in records}) == 20
        for record in records:
            assert record.captions[""][1] == str(shade(images[record.image]))


def test_pictures_of_other_forms(tmp_path):
    Image.new("RGB", (4, 4), (9, 0, 0)).save(tmp_path / "a.png")
    for images in (
        [str(tmp_path / "a.png")],
        [png(9)],
        [{"bytes": None, "path": str(tmp_path / "a.png")}],
    ):
        data = datasets.Dataset.from_dict({"image": images, "text": ["一"]})
        data.save_to_disk(tmp_path / "d")
        found = read_retrieval_set(tmp_path / "d")
        assert [shade(image) for image in found.images] == [9]
    data = datasets.Dataset.from_dict({"path": ["a.png"], "text": ["一"]})
    data.save_to_disk(tmp_path / "e")
    assert shade(read_retrieval_set(tmp_path / "e", images=tmp_path).images[0]) == 9


def test_names_that_do_not_tell_pictures_apart(tmp_path):
    images = [{"bytes": png(n), "path": None} for n in range(2)]
    made(2, image=images).save_to_disk(tmp_path / "d")
    assert read_retrieval_set(tmp_path / "d").image_ids == ["#0", "#1"]


def test_threads_and_workers(tmp_path):
    made(30).save_to_disk(tmp_path / "d")
    found = read_retrieval_set(tmp_path / "d")
    again = pickle.loads(pickle.dumps(found.images))
    order = [(7 * at) % 30 for at in range(120)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda at: shade(again[at]), order)) == order


# --- the hub ---


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """In the hub's place: a folder laid out as its repositories are, read by the real builder."""
    for split, number in (("train", 4), ("validation", 2)):
        (tmp_path / "repo/data").mkdir(parents=True, exist_ok=True)
        made(number).to_parquet(tmp_path / f"repo/data/{split}-00000-of-00001.parquet")
    calls, real = [], datasets.load_dataset

    def load(path, **options):
        calls.append((path, options))
        return real(str(tmp_path / "repo"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def test_a_name_of_the_hub(hub, tmp_path):
    found = read_retrieval_set("hf://owner/pets", split="validation")
    assert (found.name, found.image_ids) == ("owner/pets validation", ["0.png", "1.png"])
    assert [shade(image) for image in found.images] == [0, 1]
    assert isinstance(found.images[0], bytes)
    refused("splits of hf://owner/pets, got none. There are: train, val", "hf://owner/pets")
    read_retrieval_set("hf://datasets/owner/pets@v1/small", split="train")
    assert hub[0] == ("owner/pets", {"name": None, "revision": None})
    assert hub[-1] == ("owner/pets", {"name": "small", "revision": "v1"})
    refused("name like hf://owner/name, got hf://pets", "hf://pets")


def test_the_same_repository_as_a_folder(hub, tmp_path):
    theirs = read_retrieval_set("hf://owner/pets", split="train")
    ours = read_retrieval_set(tmp_path / "repo", split="train")
    assert ours.texts == theirs.texts
    assert list(ours.images) == list(theirs.images)


def test_a_hub_that_does_not_answer(tmp_path):
    match = r"can load at hf://owner/nothing, got \w+: .*Check the name, or"
    refused(match, "hf://owner/nothing")  # the tests are offline


# --- bad input ---


def test_columns_that_are_not_there(tmp_path):
    made(label=[1, 2, 3]).save_to_disk(tmp_path / "d")
    refused(
        "column en in .*The columns there are: image, caption, label", tmp_path / "d", kinds=["en"]
    )
    refused("texts .* in column 'label' of .*got the type int", tmp_path / "d", kinds=["label"])
    refused("expected pictures .* in column 'label'", tmp_path / "d", image_field="label")


def test_a_damaged_folder(tmp_path):
    made().save_to_disk(tmp_path / "d")
    (data,) = (tmp_path / "d").glob("*.arrow")
    data.write_bytes(data.read_bytes()[:100])
    refused(r"can load at .*d, got \w+: .*download or save it again", tmp_path / "d")
    (tmp_path / "d" / "state.json").write_text(json.dumps({}))
    refused(r"can load at .*d, got \w+: ", tmp_path / "d")


def test_rows_without_caption_or_picture(tmp_path):
    made(caption=[["a"], [], ["c"]]).save_to_disk(tmp_path / "d")
    refused(r"caption for every picture in .*got 1 without: '1.png \(.*d, row 1\)'", tmp_path / "d")
    images = [{"bytes": png(1), "path": "a"}, None, {"bytes": b"", "path": "c"}]
    made(image=images).save_to_disk(tmp_path / "e")
    found = read_retrieval_set(tmp_path / "e")
    with pytest.raises(DataError, match=r"picture in column 'image' of .*e, row 1, got none"):
        found.images[1]
    with pytest.raises(ImageError, match="0 bytes"):
        load_image(found.images[2])


def test_without_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'clip-text\[data\]'"):
        read_retrieval_set("hf://owner/pets")
