"""Models of other libraries: their own rows, one name each, and clear words where one fails."""

import json
import shutil
from itertools import pairwise

import httpx
import numpy as np
import open_clip
import pytest
import torch
import transformers as hf
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from clip_text import CheckpointError, Encoder, load_encoder
from clip_text.errors import DimensionsError
from clip_text.images import ImageError
from clip_text.libraries.encoder import LibraryEncoder
from clip_text.libraries.names import LibraryName, parse
from clip_text.libraries.sides import ImageSide, LibraryModel, pack, unpack
from clip_text.loading import library_of
from clip_text_cli.wiring import model_name
from tests.library_models import (
    TRANSFORMERS,
    quiet,
    tokenizer,
    write_open_clip,
    write_sentence_transformers,
    write_transformers,
)
from tests.models import PAD, VOCABULARY, tiny_checkpoint

TEXTS = ["一只狗", "", "红色的心和蓝色的马" * 30, "Dog running,  “好”", "一只狗"]
SIZES = ((40, 60), (33, 200), (7, 5), (300, 31), (32, 32))
KINDS = (*TRANSFORMERS, "open_clip", "sentence_transformers")


def pictures():
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for height, width in SIZES
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One tiny model of every kind, by kind."""
    root = tmp_path_factory.mktemp("libraries")
    made = {kind: quiet(lambda k=kind: write_transformers(root / k, k)) for kind in TRANSFORMERS}
    made["open_clip"] = write_open_clip(root / "open_clip")
    made |= {
        name: quiet(lambda n=name, k=kind: write_sentence_transformers(root / n, k))
        for name, kind in (("sentence_transformers", "clip"), ("texts", "text"))
    }
    return made


@pytest.fixture(scope="module")
def encoders(folders):
    """The models loaded, by kind."""
    prefix = dict.fromkeys(TRANSFORMERS, "transformers") | {"texts": "sentence_transformers"}
    return {kind: load_encoder(f"{prefix.get(kind, kind)}:{at}") for kind, at in folders.items()}


def theirs(kind, folder):
    """Rows of texts and of pictures, by the library's own calls as its documentation has them."""
    if kind == "open_clip":
        model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        model.eval()
        images = torch.stack([transform(image) for image in pictures()])
        with torch.no_grad():
            return model.encode_text(tokenizer(TEXTS)), model.encode_image(images)
    if kind == "sentence_transformers":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(folder), device="cpu")
        return (model.encode(each, convert_to_tensor=True) for each in (TEXTS, pictures()))
    model = hf.AutoModel.from_pretrained(folder)
    processor = hf.AutoProcessor.from_pretrained(folder)
    padding = "max_length" if kind.startswith("siglip") else True
    inputs = processor(
        text=TEXTS,
        images=pictures(),
        padding=padding,
        truncation=True,
        max_length=24,
        return_tensors="pt",
    )
    with torch.no_grad():
        out = model(**inputs)
    return out.text_embeds, out.image_embeds


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_library(kind, folders, encoders):
    texts, images = quiet(lambda: tuple(theirs(kind, folders[kind])))
    encoder = encoders[kind]
    assert isinstance(encoder, LibraryEncoder)
    np.testing.assert_allclose(encoder.encode_text(TEXTS), normalize(texts, dim=-1), atol=1e-5)
    rows = encoder.encode_image(pictures())
    np.testing.assert_allclose(rows, normalize(images, dim=-1), atol=1e-5)
    # so different that a mix-up would show
    assert all(np.abs(one - other).max() > 1e-3 for one, other in pairwise(rows))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_the_batch(kind, encoders):
    encoder = encoders[kind]
    whole = encoder.encode_text(TEXTS)
    np.testing.assert_allclose(encoder.encode_text(TEXTS, batch_size=1), whole, atol=1e-5)
    images = encoder.encode_image(pictures())
    np.testing.assert_allclose(encoder.encode_image(pictures(), batch_size=2), images, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    assert encoder.encode_text([]).shape == encoder.encode_image([]).shape == (0, encoder.embed_dim)
    assert encoder.encode_pixels([]).shape == (0, encoder.embed_dim)


def test_each_folder_is_told_by_its_files(folders):
    told = {kind: library_of(folder) for kind, folder in folders.items()}
    assert told.pop("chinese_clip") is None  # this package reads it itself
    assert told.pop("texts").library == "sentence_transformers"
    assert {kind: each.library for kind, each in told.items()} == {
        kind: kind if kind in {"open_clip", "sentence_transformers"} else "transformers"
        for kind in told
    }
    assert library_of("starter") is None


def test_models_of_our_own_are_read_as_before(tmp_path, folders):
    assert isinstance(load_encoder(folders["chinese_clip"]), Encoder)
    Encoder(tiny_checkpoint()).save_pretrained(tmp_path / "ours")
    ours = load_encoder(tmp_path / "ours", runtime="torch", dimensions=8)
    assert isinstance(ours, Encoder)
    assert ours.embed_dim == 8


def test_fingerprints_tell_models_apart_and_names_do_not(folders, encoders, tmp_path):
    prints = [each.fingerprint for each in encoders.values()]
    # sentence_transformers' is made of the very weights of the CLIP, in another library
    assert len(set(prints)) == len(prints)
    moved = shutil.copytree(folders["siglip"], tmp_path / "elsewhere")
    assert load_encoder(moved).fingerprint == encoders["siglip"].fingerprint
    cut = encoders["siglip"].truncated(8)
    assert cut.fingerprint not in prints
    assert cut.embed_dim == 8
    row = cut.encode_text(["狗"])
    longer = encoders["siglip"].encode_text(["狗"])[:, :8]
    np.testing.assert_allclose(row, longer / np.linalg.norm(longer), atol=1e-6)
    with pytest.raises(DimensionsError, match="from 1 to 8"):
        cut.truncated(9)


@pytest.mark.parametrize(
    "change",
    [
        ("preprocessor_config.json", "image_mean", [0.1, 0.2, 0.3]),
        ("config.json", ("text_config", "hidden_act"), "relu"),
        ("tokenizer_config.json", "model_max_length", 9),
    ],
    ids=lambda change: change[0],
)
def test_what_changes_rows_changes_the_fingerprint(change, folders, encoders, tmp_path):
    file, key, value = change
    folder = shutil.copytree(folders["clip"], tmp_path / "changed")
    at = folder / (file if (folder / file).is_file() else "processor_config.json")
    whole = json.loads(at.read_text(encoding="utf-8"))
    inner = whole.get("image_processor", whole) if file.startswith("pre") else whole
    for step in key[:-1] if isinstance(key, tuple) else ():
        inner = inner[step]
    last = key[-1] if isinstance(key, tuple) else key
    assert inner[last] != value
    inner[last] = value
    at.write_text(json.dumps(whole), encoding="utf-8")
    assert load_encoder(folder).fingerprint != encoders["clip"].fingerprint


def test_two_halves_are_one_model(folders, encoders):
    name = f"text={folders['texts']},image=open_clip:{folders['open_clip']}"
    both = load_encoder(name)
    np.testing.assert_array_equal(both.encode_text(TEXTS), encoders["texts"].encode_text(TEXTS))
    ours = encoders["open_clip"].encode_image(pictures())
    np.testing.assert_array_equal(both.encode_image(pictures()), ours)
    assert both.fingerprint not in {encoders[kind].fingerprint for kind in ("texts", "open_clip")}
    starter = load_encoder("text=starter,image=starter")
    whole = load_encoder("starter")
    np.testing.assert_allclose(starter.encode_text(["狗"]), whole.encode_text(["狗"]), atol=1e-6)
    seen = pictures()[:2]
    np.testing.assert_allclose(starter.encode_image(seen), whole.encode_image(seen), atol=1e-5)


def test_halves_of_different_spaces_are_refused(folders):
    both = load_encoder(f"text=starter,image=transformers:{folders['siglip']}")
    with pytest.raises(CheckpointError, match="texts have 256 dimensions and pictures 32"):
        both.encode_text(["狗"])


def test_one_side_alone_says_what_to_name_beside_it(encoders):
    texts = encoders["texts"]
    assert texts.encode_text(["狗"]).shape == (1, 24)
    with pytest.raises(CheckpointError, match=r"reads pictures, got .*text=sentence_transformers:"):
        texts.encode_image(pictures())
    with pytest.raises(CheckpointError, match=r"image=MODEL"):
        texts.load_pixels(pictures()[0])


def test_pictures_are_read_as_everywhere(encoders, tmp_path):
    encoder = encoders["siglip2"]
    file = tmp_path / "a.png"
    pictures()[0].save(file)
    expected = encoder.encode_image(pictures()[:1])
    for source in (file, str(file), file.read_bytes(), np.asarray(pictures()[0])):
        np.testing.assert_allclose(encoder.encode_image([source]), expected, atol=1e-6)
    with pytest.raises(ImageError):
        encoder.encode_image([b"no picture"])
    with pytest.raises(TypeError, match="expected a list of images"):
        encoder.encode_image(file)
    with pytest.raises(TypeError, match="list"):
        encoder.encode_text("狗")
    with pytest.raises(ValueError, match="batch_size"):
        encoder.encode_image([file], batch_size=0)


def test_bfloat16_is_near(folders, encoders):
    near = load_encoder(folders["clip"], runtime="torch-bf16")
    assert near.text_precision == near.image_precision == "bf16"
    cosines = (near.encode_text(TEXTS) * encoders["clip"].encode_text(TEXTS)).sum(axis=1)
    assert 0.99 < cosines.min() < 1 - 1e-7
    assert near.fingerprint == encoders["clip"].fingerprint
    assert encoders["clip"].runtime_of("text").name == "torch"


def test_other_runtimes_are_refused_where_asked_for(folders, monkeypatch):
    with pytest.raises(ValueError, match="expected runtime auto, torch or torch-bf16"):
        load_encoder(folders["clip"], runtime="openvino")
    monkeypatch.setenv("CLIP_TEXT_RUNTIME", "openvino")  # a preference, which gives way
    assert load_encoder(folders["clip"]).runtime.name == "torch"
    with pytest.raises(CheckpointError, match="expected no context_length"):
        load_encoder(folders["clip"], context_length=9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("open_clip:ViT-B-32/openai", LibraryName("open_clip", "ViT-B-32/openai")),
        ("sentence-transformers:a/b", LibraryName("sentence_transformers", "a/b")),
        ("transformers:C:/models/x", LibraryName("transformers", "C:/models/x")),
        ("text=a,b,image=c:d", LibraryName("halves", "a,b", "c:d")),
        ("image=c,text=a", LibraryName("halves", "a", "c")),
        ("starter", None),
        ("C:/models/x", None),
        ("owner/model", None),
    ],
)
def test_names(name, expected):
    assert parse(name) == expected
    if expected and expected.library != "halves":
        assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:", "expected the name of a model behind open_clip:"),
        ("text=starter", "expected text=MODEL,image=MODEL"),
        ("open_clip:ViT-B-99/openai", r"architectures, got .* near ViT-B-"),
        ("open_clip:ViT-B-32", r"one of its tags \(openai, .*Write open_clip:ViT-B-32/openai"),
        ("open_clip:ViT-B-32/nope", r"got 'nope'"),
        ("open_clip:ViT-B/32/nope", r"expected the weights of open_clip's ViT-B-32"),
        ("open_clip:ViT-B-32/openai", r"expected the model .*(network|HF_HUB_OFFLINE)"),
        ("open_clip:hf-hub:a/b", r"expected the model .*network"),
        ("transformers:a/b", r"expected the model transformers:a/b, got none .*network"),
        ("sentence_transformers:a/b", r"expected the model .*network"),
    ],
)
def test_names_of_nothing_say_what_to_do(name, message):
    with pytest.raises(CheckpointError, match=message):
        quiet(lambda: load_encoder(name))


def test_a_file_of_weights_is_read_as_a_tag_is(tmp_path, monkeypatch):
    config = dict(open_clip.get_model_config("ViT-B-32"))
    config["vision_cfg"] = config["vision_cfg"] | {"layers": 1, "width": 64, "image_size": 32}
    config["text_cfg"] = config["text_cfg"] | {"layers": 1, "width": 64, "heads": 1}
    registered = tmp_path / "tiny-library-test.json"
    registered.write_text(json.dumps(config), encoding="utf-8")
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(registered)
    model = quiet(lambda: open_clip.create_model("tiny-library-test"))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    encoder = load_encoder(f"open_clip:tiny-library-test/{tmp_path / 'weights.pt'}")
    assert encoder.encode_text(["a dog"]).shape == (1, 512)
    with pytest.raises(CheckpointError, match="a file"):
        load_encoder(f"open_clip:tiny-library-test/{tmp_path / 'none.pt'}")
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="Check the name, and that its files are whole"):
        quiet(lambda: load_encoder(f"open_clip:tiny-library-test/{tmp_path / 'other.pt'}"))


def test_missing_and_damaged_weights_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["siglip"], tmp_path / "less")
    weights = load_file(folder / "model.safetensors")
    weights.pop("vision_model.post_layernorm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"got 1 missing .*post_layernorm.weight"):
        quiet(lambda: load_encoder(folder))
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(CheckpointError, match="files are whole"):
        quiet(lambda: load_encoder(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="expected the model"):
        quiet(lambda: load_encoder(folder))


def test_a_text_encoder_alone_is_no_dual_encoder(folders):
    inner = folders["texts"].parent / "texts-inner"
    with pytest.raises(CheckpointError, match=r"got transformers:.*a BertModel"):
        quiet(lambda: load_encoder(f"transformers:{inner}"))


def test_code_beside_weights_runs_only_where_it_is_trusted(folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "odd_clip", "architectures": ["OddModel"]}
    config["auto_map"] = {"AutoConfig": "odd.OddConfig", "AutoModel": "odd.OddModel"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "odd.py").write_text(
        "from pathlib import Path\n"
        "from transformers import CLIPConfig, CLIPModel\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class OddConfig(CLIPConfig):\n    model_type = 'odd_clip'\n"
        "class OddModel(CLIPModel):\n    config_class = OddConfig\n",
        encoding="utf-8",
    )
    with pytest.raises(CheckpointError, match="--trust-remote-code"):
        quiet(lambda: load_encoder(folder))
    assert not (tmp_path / "ran").exists()
    trusted = quiet(lambda: load_encoder(folder, trust_remote_code=True))
    assert (tmp_path / "ran").exists()
    assert trusted.encode_text(["狗"]).shape == (1, 24)


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        (GatedRepoError, 403, "It is gated: ask for access"),
        (RepositoryNotFoundError, 404, "Check the name; of a private one, log in"),
        (HfHubHTTPError, 503, "Check the network"),
    ],
)
def test_what_the_hub_says_is_told(kind, status, words, monkeypatch):
    request = httpx.Request("GET", "https://hub.example/a/b")
    cause = kind("it said so", response=httpx.Response(status, request=request))

    def fail(*_, **__):
        raise OSError("We couldn't load it") from cause

    monkeypatch.setattr(hf.AutoModel, "from_pretrained", fail)
    with pytest.raises(CheckpointError, match=words):
        load_encoder("transformers:a/b")

    def refuse(*_, **__):
        raise cause

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(CheckpointError, match="gated" if kind is GatedRepoError else "network"):
        load_encoder("a/b")


def test_repositories_are_told_by_their_files(folders, monkeypatch):
    there = folders["siglip2"]

    def download(name, file):
        if not (there / file).is_file():
            raise LocalEntryNotFoundError("not in the cache")
        return str(there / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert library_of("owner/model") == LibraryName("transformers", "owner/model")
    there = folders["open_clip"]
    assert library_of("owner/model") == LibraryName("open_clip", "hf-hub:owner/model")
    there = folders["sentence_transformers"]
    assert library_of("owner/model") == LibraryName("sentence_transformers", "owner/model")
    there = folders["chinese_clip"]
    assert library_of("owner/model") is None


def test_code_of_a_tokenizer_runs_only_where_it_is_trusted(tmp_path):
    code = {"hf_tokenizer_name": "own", "tokenizer_kwargs": {"trust_remote_code": True}}
    folder = write_open_clip(tmp_path / "odd", vocab_size=len(VOCABULARY), **code)
    tokenizer(20).save_pretrained(folder)
    at = folder / "tokenizer_config.json"
    config = json.loads(at.read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": ["odd.Odd", "odd.Odd"]}}
    at.write_text(json.dumps(config), encoding="utf-8")
    (folder / "odd.py").write_text(
        "from pathlib import Path\n"
        "from transformers import BertTokenizerFast\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class Odd(BertTokenizerFast):\n    pass\n",
        encoding="utf-8",
    )
    with pytest.raises(CheckpointError, match="--trust-remote-code"):
        quiet(lambda: load_encoder(folder))
    assert not (tmp_path / "ran").exists()
    trusted = quiet(lambda: load_encoder(folder, trust_remote_code=True))
    assert trusted.encode_text(["狗"]).shape == (1, 24)


def test_weights_that_were_trained_with_quick_gelu_compute_with_it(monkeypatch):
    from clip_text.libraries import open_clip as adapter

    assert adapter._is_quick_gelu("ViT-B-32", "openai")
    assert not adapter._is_quick_gelu("ViT-B-32", "laion2b_s34b_b79k")
    assert not adapter._is_quick_gelu("ViT-B-32", None)
    asked = {}

    def create(name, **options):
        asked.update(options, name=name)
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    with pytest.raises(CheckpointError):
        load_encoder("open_clip:ViT-B-32/openai")
    assert asked["force_quick_gelu"]


def test_a_file_of_weights_is_prepared_for_as_its_architecture_is(tmp_path):
    from clip_text.libraries import open_clip as adapter

    file = tmp_path / "mine.pt"
    file.touch()
    looks = adapter._looks_of_tags("ViT-B-16-SigLIP2", str(file))
    assert looks["image_mean"] == (0.5, 0.5, 0.5)
    assert looks["image_resize_mode"] == "squash"
    assert adapter._looks_of_tags("ViT-B-16-SigLIP2", "webli") == {}


def test_texts_whose_pooler_was_not_saved_are_the_same_in_each_load(folders, encoders, tmp_path):
    folder = shutil.copytree(folders["texts"], tmp_path / "less")
    at = next(folder.rglob("model.safetensors"))
    weights = load_file(at)
    kept = {key: each for key, each in weights.items() if "pooler." not in key}
    assert len(kept) < len(weights)
    save_file(kept, at, metadata={"format": "pt"})
    first, second = (quiet(lambda: load_encoder(folder)) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    expected = encoders["texts"].encode_text(TEXTS)
    np.testing.assert_allclose(first.encode_text(TEXTS), expected, atol=1e-6)
    del kept[next(key for key in kept if "query.weight" in key)]
    save_file(kept, at, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="got 1 missing"):
        quiet(lambda: load_encoder(folder))


def test_settings_of_another_release_change_no_fingerprint(folders, encoders, monkeypatch):
    real = hf.CLIPTextConfig.to_dict
    monkeypatch.setattr(
        hf.CLIPTextConfig, "to_dict", lambda self: real(self) | {"of_a_later_release": 1}
    )
    assert load_encoder(folders["clip"]).fingerprint == encoders["clip"].fingerprint


def test_rows_cut_by_sentence_transformers_are_cut_on_both_sides(folders, encoders, tmp_path):
    folder = shutil.copytree(folders["sentence_transformers"], tmp_path / "cut")
    at = folder / "config_sentence_transformers.json"
    config = json.loads(at.read_text(encoding="utf-8")) | {"truncate_dim": 8}
    at.write_text(json.dumps(config), encoding="utf-8")
    cut = quiet(lambda: load_encoder(folder))
    assert cut.encode_text(TEXTS).shape == (len(TEXTS), 8)
    whole = encoders["sentence_transformers"]
    expected = whole.encode_image(pictures(), dimensions=8)
    np.testing.assert_allclose(cut.encode_image(pictures()), expected, atol=1e-5)
    assert cut.fingerprint != whole.fingerprint


def test_texts_without_a_mask_are_padded_alike(folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "unmasked")
    at = folder / "tokenizer_config.json"
    config = json.loads(at.read_text(encoding="utf-8"))
    at.write_text(json.dumps(config | {"model_input_names": ["input_ids"]}), encoding="utf-8")
    encoder = quiet(lambda: load_encoder(folder))
    alone = encoder.encode_text(TEXTS, batch_size=1)
    np.testing.assert_allclose(encoder.encode_text(TEXTS), alone, atol=1e-6)


def test_more_than_one_row_of_a_text_is_refused(folders, monkeypatch):
    def get_text_features(self, **_):
        return torch.zeros(1, 5, 24)

    monkeypatch.setattr(hf.CLIPModel, "get_text_features", get_text_features)
    with pytest.raises(CheckpointError, match=r"expected one row of each .* got \[1, 5, 24\]"):
        load_encoder(folders["clip"]).encode_text(["狗"])


def test_halves_say_what_each_computes_in(folders):
    both = load_encoder(
        f"text=starter,image=open_clip:{folders['open_clip']}", runtime="torch-bf16"
    )
    assert both.text_precision == "bf16"
    assert load_encoder("text=starter,image=starter", runtime="torch").text_precision == "fp32"


def test_others_are_not_told_where_a_model_is(folders, tmp_path):
    file = tmp_path / "mine.pt"
    file.touch()
    told = {
        f"open_clip:{folders['open_clip']}": "open_clip:open_clip",
        f"open_clip:ViT-B-32/{file}": "open_clip:ViT-B-32/mine.pt",
        "open_clip:ViT-B-32/openai": "open_clip:ViT-B-32/openai",
        "transformers:owner/model": "transformers:owner/model",
        f"text={folders['texts']},image=open_clip:ViT-B-32/{file}": (
            "text=texts,image=open_clip:ViT-B-32/mine.pt"
        ),
        str(folders["clip"]): "clip",
        "starter": "starter",
    }
    assert {name: model_name(name) for name in told} == told


def test_a_home_is_expanded_and_no_folder_hides_a_tag(tmp_path, monkeypatch):
    from clip_text.libraries import open_clip as adapter

    assert "~" not in parse("transformers:~/models/x").name
    (tmp_path / "ViT-B-32" / "openai").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert adapter._where("ViT-B-32/openai") == ("ViT-B-32", "openai")


def test_pictures_in_parts_of_several_numbers_are_encoded_each():
    def prepare(image):
        parts = torch.arange(float(image.width * 4)).reshape(1, image.width, 4)
        return pack({"parts": parts, "size": torch.tensor([image.size]), "none": None})

    def encode(seen):
        stacked = unpack(seen, torch.device("cpu"))
        return stacked["parts"].sum(1) + stacked["size"][:, :1]

    side = ImageSide(torch.nn.Module(), "parts", prepare, encode)
    encoder = LibraryEncoder(LibraryModel("parts", "parts", None, side), torch.device("cpu"))
    rows = encoder.encode_image(pictures())
    alone = np.concatenate([encoder.encode_image([image]) for image in pictures()])
    np.testing.assert_allclose(rows, alone, atol=1e-6)
    assert pack({"values": torch.zeros(2, 3)}) is None  # not one of one picture


REAL = {
    "ViT-B-16-SigLIP2": {"depth": 1, "embed_dim": 48, "num_heads": 3},
    "ViT-B-32": {},
    "xlm-roberta-base-ViT-B-32": {},
    "nllb-clip-base": {},
    "MobileCLIP-S1": {"layers": (1, 1, 1, 1)},
}


def shrunk(name, folder):
    """A configuration of open_clip's registry, all as it is but for depths and widths."""
    config = json.loads(json.dumps(open_clip.get_model_config(name)))
    text, vision = config["text_cfg"], config["vision_cfg"]
    if vision.get("timm_proj") == "none":  # its width is the space's
        config["embed_dim"] = REAL[name]["embed_dim"]
    if "layers" in vision:
        vision |= {"layers": 1, "width": 64}
    if hub := text.get("hf_model_name"):
        kinds = {"xlm-roberta-base": hf.XLMRobertaConfig, "facebook/nllb-200": hf.M2M100Config}
        kind = next(kind for start, kind in kinds.items() if hub.startswith(start))
        shape = {"vocab_size": len(VOCABULARY), "pad_token_id": PAD, "initializer_range": 0.2}
        if kind is hf.M2M100Config:
            shape |= {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4}
            shape |= {"decoder_layers": 1, "decoder_attention_heads": 4, "encoder_ffn_dim": 32}
        else:
            shape |= {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
        kind(**shape, max_position_embeddings=128).save_pretrained(folder)
        text |= {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    else:
        text |= {"layers": 1, "width": 64, "heads": 4}
    if "hf_tokenizer_name" in text:
        tokenizer(77).save_pretrained(folder)
    looks = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    whole = {"model_cfg": config, "preprocess_cfg": looks}
    (folder / "open_clip_config.json").write_text(json.dumps(whole), encoding="utf-8")
    return whole


@pytest.mark.parametrize("name", REAL)
def test_real_configurations_of_open_clip_load(name, tmp_path, monkeypatch):
    from open_clip import timm_model

    real = timm_model.timm.create_model
    monkeypatch.setattr(
        timm_model.timm, "create_model", lambda *args, **more: real(*args, **more, **REAL[name])
    )
    shrunk(name, tmp_path)
    torch.manual_seed(0)
    made = quiet(
        lambda: open_clip.create_model(
            f"local-dir:{tmp_path}", load_weights=False, pretrained_text=False
        )
    )
    save_file(
        {key: value.contiguous() for key, value in made.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    encoder = quiet(lambda: load_encoder(f"open_clip:{tmp_path}"))
    made.eval()
    words = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    with torch.no_grad():
        expected = normalize(made.encode_text(words), dim=-1)
    np.testing.assert_allclose(encoder.encode_text(TEXTS), expected, atol=1e-5)
    side = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    seen = torch.stack(
        [
            (torch.from_numpy(np.array(image.resize((side, side), Image.Resampling.BICUBIC))) / 255)
            for image in pictures()
        ]
    )
    with torch.no_grad():
        expected = normalize(made.encode_image((seen.permute(0, 3, 1, 2) - 0.5) / 0.5), dim=-1)
    np.testing.assert_allclose(encoder.encode_image(pictures()), expected, atol=1e-4)
    assert encoder.context_length == open_clip.get_model_config(name)["text_cfg"].get(
        "context_length", 77
    )
