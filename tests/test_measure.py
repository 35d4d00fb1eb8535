"""From an encoder and a data set to figures: numbers by hand, duplicates, distractors."""

import numpy as np
import pytest

from clip_text.data.duplicates import find_duplicates, merge_duplicates
from clip_text.errors import DataError
from clip_text.evaluation import RetrievalSet, Text, retrieval_set
from clip_text.evaluation.measure import Encoded, encode_set, measure

COLOURS = {"红": [1, 0, 0], "绿": [0, 1, 0], "蓝": [0, 0, 1], "紫": [0.6, 0, 0.8]}


class Colours:
    """Encodes a picture by its mean colour and a text by the colour it names."""

    def __init__(self):
        self.batches = []

    def load_pixels(self, source):
        return np.asarray(source, np.uint8)

    def encode_pixels(self, pixels):
        self.batches.append(len(pixels))
        rows = np.stack(pixels).reshape(len(pixels), -1, 3).mean(1)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def encode_text(self, texts):
        return np.array([COLOURS[text] for text in texts], np.float32)


def picture(*colour):
    return np.full((4, 4, 3), colour, np.uint8)


PICTURES = {
    "red": picture(255, 0, 0),
    "green": picture(0, 255, 0),
    "blue": picture(0, 0, 255),
    "red again": picture(255, 0, 0),
}


def colours(**changes):
    texts = [
        Text("a", "红", ("red",)),
        Text("b", "绿", ("green",)),
        Text("c", "紫", ("blue", "red again")),
        Text("d", "红", ("red again",)),
    ]
    return retrieval_set(**{"name": "colours", "images": PICTURES, "texts": texts} | changes)


def test_ids_become_positions():
    collection = colours()
    assert collection.answers == [[0], [1], [2, 3], [3]]
    assert collection.texts_of == [[0], [1], [2], [2, 3]]


def test_both_directions_by_hand():
    encoder = Colours()
    found = measure(colours(), encode_set(encoder, colours(), batch_size=3), ks=(1, 2))
    assert encoder.batches == [3, 1]
    t2i, i2t = found.by_direction["t2i"], found.by_direction["i2t"]
    # 红 finds its own red among two equal ones; 紫 is nearest to blue
    assert t2i.ranks.tolist() == [1.5, 1, 1, 1.5]
    assert t2i.pessimistic_ranks.tolist() == [2, 1, 1, 2]
    assert t2i.recall == {1: 0.5, 2: 1}
    # red: two texts 红 tie, one is its own; blue: 紫; red again: 红 (its own among two) or 紫
    assert i2t.ranks.tolist() == [1.5, 1, 1, 1.5]
    assert (t2i.queries, t2i.candidates, i2t.queries, i2t.candidates) == (4, 4, 4, 4)
    figures = found.figures("t2i")
    assert set(figures) == {"recall@1", "recall@2", "mrr", "ndcg@1", "ndcg@2"}
    assert figures["mrr"].mean() == pytest.approx((1 + 1 + 2 / 3 + 2 / 3) / 4)
    # text c joins blue and red again, so a, d and c stand and fall apart from b only
    assert len(set(found.groups["t2i"])) == 3


def test_the_intervals_are_of_the_figures():
    found = measure(colours(), encode_set(Colours(), colours()), ks=(1,))
    intervals = found.intervals("t2i", resamples=200)
    assert intervals["recall@1"].value == 0.5
    assert intervals["recall@1"].low <= 0.5 <= intervals["recall@1"].high
    assert found.compared_with(found, "i2t")["mrr"].p_value == 1


def test_twins_are_found_and_may_count():
    collection, encoded = colours(), encode_set(Colours(), colours())
    found = find_duplicates(collection, encoded.digests)
    assert found.images == [[0, 3]]
    assert found.texts == [[0, 3]]
    assert (found.extra_images, found.ambiguous_texts) == (1, 2)
    merged = merge_duplicates(collection, found)
    assert merged.answers == [[0, 3], [1], [0, 2, 3], [0, 3]]
    assert measure(merged, encoded).by_direction["t2i"].recall[1] == 1
    assert collection.answers == [[0], [1], [2, 3], [3]]  # as it was


def test_two_captions_of_one_picture_with_equal_words_are_no_ambiguity():
    texts = [Text("a", "红", ("red",)), Text("b", "红", ("red",))]
    collection = retrieval_set("one", {"red": PICTURES["red"]}, texts)
    assert find_duplicates(collection, ["x"]).texts == []


def test_distractors_are_searched_among_but_never_asked():
    texts = [Text("a", "红", ("red",))]
    with pytest.raises(DataError, match=r"text for every picture in colours, got 3 .*'green'"):
        colours(texts=texts)
    collection = colours(texts=texts, allow_distractors=True)
    found = measure(collection, encode_set(Colours(), collection))
    assert found.by_direction["t2i"].candidates == 4
    assert found.by_direction["i2t"].queries == 1


def test_one_kind_of_texts_brings_its_pictures_only():
    texts = [Text("a", "红", ("red",), "zh"), Text("b", "绿", ("green",), "en")]
    collection = colours(texts=texts, allow_distractors=True)
    part = collection.of_kind("en")
    assert part.image_ids == ["green"]
    assert [text.text for text in part.texts] == ["绿"]
    assert isinstance(part, RetrievalSet)


BAD = [
    ({"texts": []}, "pictures and texts in colours, got 4 pictures and 0 texts"),
    ({"images": {}}, "got 0 pictures"),
    ({"texts": [Text("a", "红", ("gone",))]}, "pictures that are there .* 1 without: 'a → gone'"),
    ({"texts": [Text("a", "红", ())]}, "a picture for every text .* 'a'"),
    ({"texts": [Text("a", " \t", ("red",))]}, "texts with words .* 'a'"),
    ({"texts": [Text("a", "红", ("red",))] * 2}, "ids of texts that differ .* 'a'"),
    (
        {"texts": [Text(str(n), "红", ("gone",)) for n in range(5000)]},
        "got 5,000 without: '0 → gone', '1 → gone', '2 → gone', …",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_what_does_not_hang_together_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        colours(**changes)


def test_broken_features_are_counted():
    collection, encoded = colours(), encode_set(Colours(), colours())
    images = encoded.images.copy()
    images[[1, 3], 0] = np.nan
    with pytest.raises(ValueError, match=r"finite candidate .* 2 rows .* first at 1, 3\. Encode"):
        measure(collection, Encoded(encoded.texts, images, encoded.digests))
