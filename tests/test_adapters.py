"""CLIP_benchmark and MTEB measure an Encoder, and find what this package finds."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_benchmark.datasets.builder import image_captions_collate_fn
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from clip_text.data.readers import read_retrieval_set
from clip_text.encoder import Encoder
from clip_text.evaluation import RetrievalSet, Text, retrieval, retrieval_set
from clip_text.evaluation.adapters import for_clip_benchmark, for_mteb

GALLERY = Path(__file__).parents[1] / "retrieval" / "gallery"
KS = (1, 5, 10)
PICTURES = 40


@pytest.fixture(scope="module")
def encoder():
    return Encoder.from_pretrained("starter", device="cpu", runtime="torch")


@pytest.fixture(scope="module")
def photos() -> RetrievalSet:
    """Photos of the bundled gallery, opened, with two captions each, none of which comes twice."""
    gallery = read_retrieval_set(GALLERY, kinds=["zh", "en"])
    images, texts, seen = {}, [], set()
    for image_id, source, its in zip(
        gallery.image_ids, gallery.images, gallery.texts_of, strict=True
    ):
        captions = {gallery.texts[at].text for at in its}
        if image_id.startswith("photos/") and len(captions - seen) == 2 and len(images) < PICTURES:
            # of a path, our reader would decode a JPEG at the smallest size that does
            images[image_id] = Image.open(source)
            texts += [gallery.texts[at] for at in its]
        seen |= captions
    return retrieval_set("photos", images, texts)


@pytest.fixture(scope="module")
def rows(encoder, photos):
    """Our rows of the texts and of the pictures."""
    texts = encoder.encode_text([text.text for text in photos.texts])
    return texts, encoder.encode_image(photos.images)


class Pictures(Dataset):
    """As CLIP_benchmark's data sets are: transformed picture, and captions or a class."""

    def __init__(self, images, targets, transform):
        self.images, self.targets, self.transform = images, targets, transform
        self.classes = targets

    def __len__(self):
        return len(self.images)

    def __getitem__(self, at):
        return self.transform(self.images[at]), self.targets[at]


def test_clip_benchmark_gets_our_rows(encoder, photos, rows):
    model, transform, tokenizer = for_clip_benchmark(encoder)
    assert not model.training
    images = torch.stack([pickle.loads(pickle.dumps(transform))(one) for one in photos.images])
    with torch.no_grad():
        texts = model.encode_text(tokenizer([text.text for text in photos.texts]))
        assert np.abs(texts.numpy() - rows[0]).max() < 1e-6
        assert np.abs(model.encode_image(images).numpy() - rows[1]).max() < 1e-6


def test_clip_benchmark_gets_rows_as_short_as_ours(encoder, photos):
    cut = encoder.truncated(16)
    model, transform, tokenizer = for_clip_benchmark(cut)
    texts, images = [text.text for text in photos.texts], photos.images
    with torch.no_grad():
        found = model.encode_text(tokenizer(texts)).numpy()
        seen = model.encode_image(torch.stack([transform(each) for each in images])).numpy()
    assert (found.shape, seen.shape) == ((2 * PICTURES, 16), (PICTURES, 16))
    assert np.abs(found - cut.encode_text(texts)).max() < 1e-6
    assert np.abs(seen - cut.encode_image(images)).max() < 1e-6


def test_clip_benchmark_retrieval(encoder, photos, rows):
    model, transform, tokenizer = for_clip_benchmark(encoder)
    captions = [[photos.texts[at].text for at in its] for its in photos.texts_of]
    loader = DataLoader(
        Pictures(photos.images, captions, transform),
        batch_size=16,
        collate_fn=image_captions_collate_fn,
    )
    measured = zeroshot_retrieval.evaluate(
        model, loader, tokenizer, "cpu", amp=False, recall_k_list=list(KS)
    )
    t2i = retrieval(*rows, photos.answers, KS).recall
    i2t = retrieval(rows[1], rows[0], photos.texts_of, KS).recall
    expected = {f"image_retrieval_recall@{k}": t2i[k] for k in KS}
    expected |= {f"text_retrieval_recall@{k}": i2t[k] for k in KS}
    assert measured == pytest.approx(expected, abs=1e-6)
    assert 3 / PICTURES < t2i[1] < t2i[10] < 1  # above chance, and not found at once


def test_clip_benchmark_classification(encoder, photos, rows):
    """Where every picture is its own class, named by its caption, it is retrieval."""
    model, transform, tokenizer = for_clip_benchmark(encoder)
    names = [photos.texts[its[0]].text for its in photos.texts_of]
    right = [[at] for at in range(PICTURES)]
    texts = encoder.encode_text(names)
    task = tokenizer, names, ["{c}"], "cpu"

    # each class has one picture: its average precision is the reciprocal of its rank
    several = Pictures(photos.images, torch.eye(PICTURES), transform)
    loader = DataLoader(several, batch_size=16)
    measured = zeroshot_classification.evaluate(model, loader, *task, amp=False)
    expected = retrieval(texts, rows[1], right).mrr
    assert measured["mean_average_precision"] == pytest.approx(expected, abs=1e-6)

    # evaluate() does these two steps, but its accuracy() fails under numpy 2.4
    classifier = zeroshot_classification.zero_shot_classifier(model, *task, amp=False)
    logits, _ = zeroshot_classification.run_classification(
        model, classifier, loader, "cpu", amp=False
    )
    recall = retrieval(rows[1], texts, right, KS).recall
    for k in KS:
        found = logits.topk(k).indices == torch.arange(PICTURES)[:, None]
        assert found.any(1).float().mean() == pytest.approx(recall[k])
    assert 3 / PICTURES < recall[1] < recall[5] < 1


# --- MTEB ---


def ndcg_at_10(scores, relevant):
    """By hand: gain 1 over log2(place + 1), divided by that of the best order."""
    gains = []
    for row, right in zip(scores, relevant, strict=True):
        order = np.argsort(-row)[:10]
        discounts = 1 / np.log2(np.arange(2, 12))
        found = sum(discounts[place] for place, at in enumerate(order) if at in right)
        gains.append(found / discounts[: min(len(right), 10)].sum())
    return np.mean(gains)


def mteb_task(photos: RetrievalSet):
    """A task as MTEB's own are, its data in memory: captions to pictures."""
    import datasets
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Photos(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="GalleryPhotos",
            description="Photos of a gallery by their captions.",
            dataset={"path": "NA", "revision": "NA"},
            type="Any2AnyRetrieval",
            category="t2i",
            modalities=["text", "image"],
            eval_splits=["test"],
            eval_langs=["zho-Hans", "eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, **kwargs):
            pictures = datasets.Dataset.from_dict(
                {"id": photos.image_ids, "image": list(photos.images)},
                features=datasets.Features(
                    {"id": datasets.Value("string"), "image": datasets.Image()}
                ),
            )
            queries = {
                "id": [text.text_id for text in photos.texts],
                "text": [text.text for text in photos.texts],
            }
            relevant = {text.text_id: dict.fromkeys(text.image_ids, 1) for text in photos.texts}
            split = {
                "corpus": pictures,
                "queries": datasets.Dataset.from_dict(queries),
                "relevant_docs": relevant,
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Photos()


def test_mteb(encoder, photos, rows):
    import mteb

    ids = photos.image_ids
    # some texts are right for a second picture, too
    texts = [
        Text(text.text_id, text.text, (*text.image_ids, ids[at % 7]) if at % 3 else text.image_ids)
        for at, text in enumerate(photos.texts)
    ]
    photos = retrieval_set("photos", dict(zip(ids, photos.images, strict=True)), texts)
    model = for_mteb(encoder, "clip-text/starter")
    assert isinstance(model, mteb.EncoderProtocol)
    assert model.mteb_model_meta.revision == encoder.fingerprint
    result = mteb.evaluate(
        model,
        mteb_task(photos),
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs={"batch_size": 7, "show_progress_bar": False},
    )
    (scores,) = result.task_results[0].scores["test"]
    expected = ndcg_at_10(rows[0] @ rows[1].T, photos.answers)
    assert scores["ndcg_at_10"] == pytest.approx(expected, abs=1e-5)  # they round to five digits
    assert 0.2 < expected < 0.9
    assert result.model_name == "clip-text/starter"


def test_mteb_rows(encoder, photos, rows):
    pytest.importorskip("mteb")
    model = for_mteb(encoder)
    texts = [text.text for text in photos.texts][:3]
    batches = [{"text": texts[:2], "id": ["a", "b"]}, {"text": texts[2:]}]
    found = model.encode(batches, task_metadata=None, hf_split="test", hf_subset="default")
    assert np.abs(found - rows[0][:3]).max() < 1e-6
    both = model.encode([{"text": texts, "image": photos.images[:3]}], batch_size=2)
    middle = rows[0][:3] + rows[1][:3]
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    assert np.abs(both - middle).max() < 1e-6
    assert model.encode([]).shape == (0, encoder.embed_dim)
    cosines = rows[0] @ rows[1].T
    assert np.abs(model.similarity(*rows).numpy() - cosines).max() < 1e-6
    pairs = model.similarity_pairwise(rows[0][:3], torch.from_numpy(rows[1][:3]))
    assert np.abs(pairs.numpy() - cosines.diagonal()[:3]).max() < 1e-6


def test_mteb_refusals(encoder, monkeypatch):
    pytest.importorskip("mteb")
    model = for_mteb(encoder)
    with pytest.raises(ValueError, match="texts or images in a batch, got audio"):
        model.encode([{"audio": [0]}])
    with pytest.raises(ValueError, match="precision float32, got int8"):
        model.encode([], precision="int8")
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", None)
    with pytest.raises(ModuleNotFoundError, match="pip install mteb"):
        for_mteb(encoder)
