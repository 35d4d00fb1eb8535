"""What docs/filters.md says is so, on the gallery."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from retrieval.catalogue import Catalogue
from retrieval.errors import QueryError
from retrieval.filters import OWN_FIELDS, filter_as_json, filter_from_json
from retrieval.filters.json_form import OPS
from retrieval.filters.language import format_where, parse_where
from retrieval.filters.tree import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES
from retrieval.records import Picture

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "filters.md").read_text(encoding="utf-8")
COUNTED = re.findall(r"^\| `(.+)` \| (\d+) \|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """The gallery's pictures as the catalogue has them, without their features."""
    feature = np.array([1, 0], np.float32)
    folder = tmp_path_factory.mktemp("gallery")
    with Catalogue.create_or_open(folder, fingerprint="f", embed_dim=2) as catalogue:
        with catalogue.transaction():
            path = ROOT / "retrieval" / "gallery" / "metadata.jsonl"
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                name, caption = entry.pop("file_name"), entry.pop("caption", None)
                said = json.dumps(entry, ensure_ascii=False)
                place = (b"/g", b"/g/" + name.encode(), name)
                catalogue.add(Picture(*place, 1, 0, b"", None, None, caption, said), feature)
        yield catalogue


def test_there_are_examples():
    assert len(COUNTED) >= 9


@pytest.mark.parametrize(("text", "count"), COUNTED)
def test_an_example_holds_of_as_many_pictures_as_it_says(gallery, text, count):
    assert len(gallery.filters.rows(parse_where(text))) == int(count)


def test_python_and_json_are_as_they_say():
    (python,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(python, "docs/filters.md", "exec"), {})
    (tree,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    where = filter_from_json(json.loads(tree))
    assert filter_as_json(where) == json.loads(tree)
    assert parse_where(format_where(where)) == where


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yeers = 1", "a field that some picture has, got yeers. "),
        ("group = 2020", "texts for group, as its values are, got 2020. Compare it with a value"),
        (
            "tags = 海边",
            "expected a value at column 8 of the filter, got 海边. Put texts in quotes.",
        ),
    ],
)
def test_what_is_refused_is_refused_in_those_words(gallery, text, message):
    with pytest.raises(QueryError) as caught:
        gallery.filters.rows(parse_where(text))
    assert message in str(caught.value)


def test_the_page_names_every_field_operator_and_limit():
    for name in (*OWN_FIELDS, *OPS):
        assert f"`{name}`" in PAGE or f"`field {name} " in PAGE, name
    for limit in (MAX_DEPTH, MAX_CONDITIONS, MAX_VALUES):
        assert f"{limit:,}" in PAGE
