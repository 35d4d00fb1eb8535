"""The open_clip plug-in, against the real open_clip and the real cn_clip."""

import json
import logging
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import open_clip
import open_clip.factory
import open_clip.hf_configs
import open_clip.hf_model
import open_clip.pretrained
import pytest
import torch
from models import IMAGE_SIZE, VISION, backbone, bert_tokenizer, tiny_checkpoint
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, BertModel, XLMRobertaModel

import clip_text
from clip_text import plugin
from clip_text.checkpoints import WEIGHTS_FILE, resolve, save_checkpoint
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TextTower

NAMES = clip_text.register_with_open_clip()

# preset: the two files that describe the same model in cn_clip
CN_CLIP = {
    "chinese-clip-RN50": ("RN50", "RBT3-chinese"),
    "chinese-clip-ViT-B-16": ("ViT-B-16", "RoBERTa-wwm-ext-base-chinese"),
    "chinese-clip-ViT-L-14": ("ViT-L-14", "RoBERTa-wwm-ext-base-chinese"),
    "chinese-clip-ViT-L-14-336": ("ViT-L-14-336", "RoBERTa-wwm-ext-base-chinese"),
    "chinese-clip-ViT-H-14": ("ViT-H-14", "RoBERTa-wwm-ext-large-chinese"),
}
# Millions of parameters, as Chinese-CLIP's own table of models gives them.
PUBLISHED = {
    "chinese-clip-RN50": 77,
    "chinese-clip-ViT-B-16": 188,
    "chinese-clip-ViT-L-14": 406,
    "chinese-clip-ViT-L-14-336": 407,
    "chinese-clip-ViT-H-14": 958,
}
PRESET = "chinese-clip-ViT-B-16"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    # open_clip logs a warning for every model without weights
    caplog.set_level(logging.ERROR)


def make_backbone(folder: Path, kind: str = "bert", **changes) -> str:
    """A folder of a tiny backbone of the presets' own type."""
    classes = {"bert": plugin.PresetBertConfig, "xlm-roberta": plugin.PresetXLMRobertaConfig}
    shape = backbone(kind, **changes).to_dict() | {"model_type": classes[kind].model_type}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape), encoding="ascii")
    return str(folder)


def tiny(name: str, folder: Path, kind: str = "bert", **changes) -> dict:
    """What makes a preset tiny: keyword arguments that overrule its configuration."""
    text = open_clip.get_model_config(name)["text_cfg"]
    text |= {"hf_model_name": make_backbone(folder / kind, kind), "hf_model_pretrained": False}
    return {"embed_dim": 24, "vision_cfg": VISION["vit"], "text_cfg": text, **changes}


def cn_clip_config(name: str) -> dict:
    folder = resources.files("cn_clip.clip") / "model_configs"
    config = {}
    for file in CN_CLIP[name]:
        config |= json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
    if isinstance(config["vision_layers"], str):
        config["vision_layers"] = json.loads(config["vision_layers"])
    return config


def cn_clip_model(**config) -> torch.nn.Module:
    from cn_clip.clip.model import CLIP

    return CLIP(**config)


def to_open_clip(weights: dict) -> dict:
    """cn_clip's names and shapes as open_clip's, by hand."""
    out = {name.replace("bert.", "text.transformer."): value for name, value in weights.items()}
    out["text.proj.weight"] = out.pop("text_projection").T.contiguous()
    return out


def close(actual, expected):
    assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_importing_the_package_stays_light():
    code = "import sys, clip_text; print({'torch', 'open_clip', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_registering_adds_and_replaces_nothing(tmp_path):
    modules = (open_clip, open_clip.factory, open_clip.hf_model, open_clip.pretrained)
    tables = {"_MODEL_CONFIGS", "_PRETRAINED"}
    code = [{k: v for k, v in vars(module).items() if k not in tables} for module in modules]
    others = open_clip.get_model_config("xlm-roberta-base-ViT-B-32")
    assert clip_text.register_with_open_clip() == NAMES
    for module, before in zip(modules, code, strict=True):
        assert all(vars(module)[name] is value for name, value in before.items())
    assert open_clip.get_model_config("xlm-roberta-base-ViT-B-32") == others
    assert "layer_attr" not in open_clip.hf_configs.arch_dict["bert"]["config_names"]
    assert open_clip.pretrained.get_pretrained_cfg("ViT-B-32", str(tmp_path)) == {}
    assert type(AutoModel.from_config(backbone("bert"))) is BertModel
    # ours stay when another set of configurations is added
    (tmp_path / "another.json").write_text('{"embed_dim": 1, "vision_cfg": {}, "text_cfg": {}}')
    open_clip.add_model_config(tmp_path)
    assert {*NAMES, "another"} <= set(open_clip.list_models())
    del open_clip.factory._MODEL_CONFIGS["another"]
    open_clip.factory._MODEL_CONFIG_PATHS.remove(tmp_path)
    assert {*CN_CLIP, "clip-text-xlm-roberta-base-ViT-B-16", "clip-text-starter"} == set(NAMES)
    assert ("clip-text-starter", "starter") in open_clip.list_pretrained()


@pytest.mark.parametrize("name", CN_CLIP)
def test_published_presets_have_cn_clips_tensors(name):
    """Full size, on the meta device: every name and shape as the real cn_clip builds them."""
    with torch.device("meta"):
        ours = open_clip.create_model(name, pretrained_text=False, device="meta")
        theirs = cn_clip_model(**cn_clip_config(name))
    expected = {k: v.shape for k, v in to_open_clip(theirs.state_dict()).items()}
    assert {k: v.shape for k, v in ours.state_dict().items()} == expected
    parameters = sum(parameter.numel() for parameter in ours.parameters())
    assert parameters == sum(parameter.numel() for parameter in theirs.parameters())
    assert round(parameters / 1e6) == PUBLISHED[name]


def test_xlm_roberta_preset():
    with torch.device("meta"):
        model = open_clip.create_model(
            "clip-text-xlm-roberta-base-ViT-B-16", pretrained_text=False, device="meta"
        )
        reference = XLMRobertaModel(
            AutoConfig.for_model("xlm-roberta", vocab_size=250002, max_position_embeddings=514,
                                 type_vocab_size=1, layer_norm_eps=1e-5),
            add_pooling_layer=False,
        )  # fmt: skip
    shapes = {k: v.shape for k, v in reference.state_dict().items()}
    assert {k: v.shape for k, v in model.text.transformer.state_dict().items()} == shapes
    assert model.text.transformer.config.layer_norm_eps == 1e-5
    assert model.text.config.pad_token_id == 1
    assert model.visual.output_dim == model.text.proj.out_features == 512


def reduced(name: str, tmp_path: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """One layer per tower at the preset's own widths, with equal random weights."""
    config = cn_clip_config(name)
    deep = isinstance(config["vision_layers"], list)
    config |= {
        "vision_layers": [1, 1, 1, 1] if deep else 1,
        "text_num_hidden_layers": 1,
        "vocab_size": 300,
        "text_initializer_range": 0.2,
    }
    torch.manual_seed(0)
    theirs = cn_clip_model(**config).eval()
    preset = open_clip.get_model_config(name)
    shape = json.loads((Path(preset["text_cfg"]["hf_model_name"]) / "config.json").read_text())
    shape |= {"num_hidden_layers": 1, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    weights = {k: v.detach() for k, v in to_open_clip(theirs.state_dict()).items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "w.safetensors")
    ours, _, _ = open_clip.create_model_and_transforms(
        name,
        pretrained=str(tmp_path / "w.safetensors"),
        vision_cfg=preset["vision_cfg"] | {"layers": config["vision_layers"]},
        text_cfg=preset["text_cfg"]
        | {"hf_model_name": str(tmp_path), "hf_model_pretrained": False},
    )
    return ours.eval(), theirs


@pytest.mark.parametrize("name", CN_CLIP)
@torch.inference_mode()
def test_features_equal_cn_clips(name, tmp_path):
    ours, theirs = reduced(name, tmp_path)
    size = ours.visual.preprocess_cfg["size"]
    pictures = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
    tokens = torch.randint(105, 300, (3, 52))
    tokens[:, 0], tokens[1, 9:], tokens[2, 1:] = 101, 0, 0
    close(ours.encode_image(pictures), theirs.encode_image(pictures))
    texts = ours.encode_text(tokens)
    close(texts, theirs.encode_text(tokens))
    assert torch.pdist(texts).min() > 1e-2
    close(ours.encode_text(tokens[1:2, :9]), texts[1:2])


@pytest.mark.slow
@torch.inference_mode()
def test_features_equal_cn_clips_at_full_size(tmp_path):
    torch.manual_seed(0)
    theirs = cn_clip_model(**cn_clip_config(PRESET)).eval()
    weights = to_open_clip(theirs.state_dict())
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "w.safetensors")
    ours = open_clip.create_model(PRESET, pretrained=str(tmp_path / "w.safetensors")).eval()
    pictures = torch.randn(2, 3, 224, 224)
    tokens = open_clip.get_tokenizer(PRESET)(["红色的心", "一只狗在草地上跑"])
    close(ours.encode_image(pictures), theirs.encode_image(pictures))
    close(ours.encode_text(tokens), theirs.encode_text(tokens))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_every_preset_runs_at_full_size(name):
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, pretrained_text=False, image_resize_mode="squash"
    )
    model.eval()
    picture = preprocess(Image.new("RGB", (40, 60), "red"))[None]
    tokens = torch.tensor([[101, 5273, 102, 1, 1], [101, 5273, 5682, 4638, 102]])
    image, text, scale = model(picture, tokens)
    assert image.shape == (1, open_clip.get_model_config(name)["embed_dim"])
    assert text.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert float(scale) == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_transforms_squash(name, tmp_path):
    """A wide picture comes out whole: what our own preprocessing gives, not a centre crop."""
    kwargs = tiny(name, tmp_path)
    model = open_clip.create_model(name, **kwargs)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, pretrained=str(tmp_path / "weights.pt"), **kwargs
    )
    expected = plugin.load_presets()[name]["preprocess_cfg"]
    assert model.visual.preprocess_cfg["resize_mode"] == "squash"
    assert model.visual.preprocess_cfg["interpolation"] == "bicubic"
    if name != "clip-text-starter":
        assert (tuple(expected["mean"]), tuple(expected["std"])) == (MEAN, STD)
    noise = np.random.default_rng(0).integers(0, 256, (20, 90, 3), np.uint8)
    squashed = Image.fromarray(noise).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    by_hand = (np.asarray(squashed) / 255 - expected["mean"]) / expected["std"]
    close(preprocess(Image.fromarray(noise)), torch.from_numpy(by_hand.transpose(2, 0, 1)).float())


def test_activations():
    """QuickGELU in the Vision Transformers, the exact GELU in the BERTs."""
    for name in NAMES:
        with torch.device("meta"):
            model = open_clip.create_model(name, pretrained_text=False, device="meta")
        quick = any("QuickGELU" in str(type(module)) for module in model.visual.modules())
        assert quick == ("ViT" in name)
        assert model.text.transformer.config.hidden_act == "gelu"
        starter = name == "clip-text-starter"
        pooler = "MeanPooler" if starter else "ClsLastHiddenStatePooler"
        assert type(model.text.pooler).__name__ == pooler
        assert isinstance(model.text.proj, torch.nn.Linear)
        assert model.text.proj.bias is None


@pytest.mark.parametrize("name", [name for name in NAMES if "xlm" not in name])
def test_tokenizer(name):
    tokens = open_clip.get_tokenizer(name)(["红色的心", "狗" * 99])
    assert tokens.shape == (2, 52)
    assert tokens[0].tolist() == [101, 5273, 5682, 4638, 2552, 102, *[0] * 46]
    assert tokens[1].tolist() == [101, *[4318] * 50, 102]
    texts = ["“红”，ＡＢＣ", "", "  a\u3000[MASK]\n", "你好……￥"]
    contract = Tokenizer.from_folder(resolve("starter"), compat="open_clip")
    assert open_clip.get_tokenizer(name)(texts).equal(contract(texts))


def test_tokenizer_of_xlm_roberta_is_the_hubs():
    config = open_clip.get_model_config("clip-text-xlm-roberta-base-ViT-B-16")
    assert config["text_cfg"]["hf_tokenizer_name"] == "FacebookAI/xlm-roberta-base"
    assert config["text_cfg"]["context_length"] == 52


def test_tokenizer_of_xlm_roberta_without_the_hub(tmp_path, monkeypatch):
    """Of a folder of the hub's name, and of a model of ours; see docs/open_clip.md."""
    name = "clip-text-xlm-roberta-base-ViT-B-16"
    monkeypatch.chdir(tmp_path)
    expected = Tokenizer(bert_tokenizer(), 52, "open_clip")
    expected.save(tmp_path / "FacebookAI" / "xlm-roberta-base")
    texts = ["红色的心", "dog", "“一只狗”"]
    assert open_clip.get_tokenizer(name)(texts).equal(expected(texts))
    save_checkpoint(tiny_checkpoint(kind="xlm-roberta", context_length=9), tmp_path / "my-model")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'my-model'}")(texts)
    assert tokens.equal(expected(texts, 9))


@torch.inference_mode()
def test_the_starter_is_the_starter():
    encoder = Encoder.from_pretrained("starter", device="cpu")
    model, _, preprocess = open_clip.create_model_and_transforms(
        "clip-text-starter", pretrained="starter"
    )
    model.eval()
    tokenizer = open_clip.get_tokenizer("clip-text-starter")
    texts = ["红色的心", "一只狗在草地上跑", "cat"]
    rows = model.encode_text(tokenizer(texts), normalize=True)
    close(rows, torch.from_numpy(encoder.encode_text(texts)))
    noise = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    rows = model.encode_image(preprocess(Image.fromarray(noise))[None], normalize=True)
    close(rows, torch.from_numpy(encoder.encode_image([noise])))


def test_the_starters_backbone_is_its_own():
    """The presets' copy differs from the checkpoint's config.json by its type alone."""
    folder = Path(plugin.__file__).parent
    copy = json.loads((folder / "presets/backbones/starter/config.json").read_text())
    original = json.loads((folder / "starter/config.json").read_text())
    assert copy == original | {"model_type": "clip-text-bert"}


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("freeze_layer_norm", [True, False])
@pytest.mark.parametrize("unlocked", [0, 1, 2])
def test_locking(unlocked, freeze_layer_norm, kind, tmp_path):
    model = open_clip.create_model(PRESET, **tiny(PRESET, tmp_path, kind))
    model.lock_text_tower(unlocked_layers=unlocked, freeze_layer_norm=freeze_layer_norm)
    ours = TextTower(backbone(kind), 24)
    ours.lock(unlocked, freeze_layer_norm)
    learning = {name for name, p in model.text.named_parameters() if p.requires_grad}
    assert learning == {name for name, p in ours.named_parameters() if p.requires_grad}
    assert "proj.weight" in learning
    unlocked_layers = {name.split(".")[3] for name in learning if name.endswith("query.weight")}
    assert unlocked_layers == {"0", "1"} - {"0", "1"}.difference(sorted("01")[2 - unlocked :])


def test_open_clips_own_bert_cannot_be_unlocked(tmp_path):
    """Why the presets' backbones are of a type of their own."""
    kwargs = tiny(PRESET, tmp_path)
    backbone("bert").save_pretrained(tmp_path / "plain")
    kwargs["text_cfg"]["hf_model_name"] = str(tmp_path / "plain")
    model = open_clip.create_model(PRESET, **kwargs)
    with pytest.raises(KeyError, match="layer_attr"):
        model.lock_text_tower(unlocked_layers=1)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_without_weights_it_starts_random_and_says_so(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(plugin, "PRESETS", tmp_path)
    kwargs = tiny(PRESET, tmp_path, kind)
    kwargs["text_cfg"]["hf_model_pretrained"] = True
    with pytest.warns(UserWarning, match=r"expected weights for the text tower, got none"):
        model = open_clip.create_model(PRESET, **kwargs)
    assert model.text.transformer.pooler is None
    with pytest.raises(RuntimeError, match="Required pretrained weights"):
        open_clip.create_model(PRESET, require_pretrained=True, pretrained_text=False, **kwargs | {
            "text_cfg": kwargs["text_cfg"] | {"hf_model_pretrained": False}})  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@torch.inference_mode()
def test_features_without_a_call_of_eval(kind, tmp_path):
    """all_clip, and clip-retrieval over it, make none: dropout must wait for a call of train."""
    model = open_clip.create_model(PRESET, **tiny(PRESET, tmp_path, kind))
    tokens = torch.tensor([[2, 7, 9, 3]])
    pictures = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    texts, images = model.encode_text(tokens), model.encode_image(pictures)
    assert not model.train().encode_text(tokens).equal(texts)
    close(model.eval().encode_text(tokens), texts)
    close(model.encode_image(pictures), images)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@torch.inference_mode()
def test_what_is_saved_loads_without_the_plug_in(kind, tmp_path):
    model = open_clip.create_model(PRESET, **tiny(PRESET, tmp_path, kind)).eval()
    model.text.transformer.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/config.json").read_text())
    assert saved["model_type"] == kind
    plain = AutoModel.from_pretrained(tmp_path / "saved", add_pooling_layer=False).eval()
    classes = {"bert": BertModel, "xlm-roberta": XLMRobertaModel}
    assert type(plain) is classes[kind]
    assert saved["architectures"] == [classes[kind].__name__]
    tokens = torch.tensor([[2, 7, 9, 3]])
    close(plain(tokens).last_hidden_state, model.text.transformer(tokens).last_hidden_state)
    # and the other way round
    again = type(model.text.transformer).from_pretrained(
        tmp_path / "saved", config=model.text.config, add_pooling_layer=False
    )
    close(again.eval()(tokens).last_hidden_state, plain(tokens).last_hidden_state)


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def published(tmp_path: Path) -> tuple[torch.nn.Module, dict]:
    """``clip_cn-tiny.pt`` and the same in ``HF``; their model, and what makes the preset it."""
    from transformers import ChineseCLIPModel

    from clip_text.checkpoints import load_checkpoint, save_as

    config = cn_clip_config(PRESET) | {
        "embed_dim": 24,
        "image_resolution": 32,
        "vision_layers": 1,
        "vision_width": 64,
        "text_hidden_size": 64,
        "text_num_attention_heads": 1,
        "text_num_hidden_layers": 1,
        "text_intermediate_size": 48,
        "text_max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    theirs = cn_clip_model(**config)
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "clip_cn-tiny.pt")
    save_as(load_checkpoint(tmp_path / "clip_cn-tiny.pt"), tmp_path / "HF", "hf")
    ChineseCLIPModel.from_pretrained(tmp_path / "HF")  # it is one
    shape = open_clip.get_model_config(PRESET)
    text = shape["text_cfg"] | {
        "hf_model_pretrained": False,
        "hf_model_name": make_backbone(
            tmp_path / "text",
            vocab_size=21128,
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
        ),
    }
    vision = shape["vision_cfg"] | {"image_size": 32, "layers": 1, "width": 64}
    return theirs, {"text_cfg": text, "vision_cfg": vision}


class TestPretrainedPath:
    """``pretrained=path``, which reaches the plug-in in small letters with - turned into _."""

    @pytest.fixture
    def model(self, tmp_path):
        torch.manual_seed(1)
        return open_clip.create_model(PRESET, **tiny(PRESET, tmp_path))

    def load(self, path, tmp_path, **kwargs):
        model, _, _ = open_clip.create_model_and_transforms(
            PRESET, pretrained=path, **tiny(PRESET, tmp_path) | kwargs
        )
        assert model.visual.preprocess_cfg["resize_mode"] == "squash"
        return model

    def same(self, model, other):
        assert_close(dict(model.state_dict()), dict(other.state_dict()), atol=0, rtol=0)

    def test_names_open_clip_does_not_keep(self, model, tmp_path, monkeypatch):
        folder = tmp_path / "Step-1_Of" / "A-b"
        folder.mkdir(parents=True)
        torch.save(model.state_dict(), folder / "Clip_cn-ViT.PT")
        self.same(self.load(str(folder / "Clip_cn-ViT.PT"), tmp_path), model)
        monkeypatch.chdir(folder)
        self.same(self.load("Clip_cn-ViT.PT", tmp_path), model)
        self.same(self.load("./../A-b/Clip_cn-ViT.PT", tmp_path), model)

    def test_two_files_it_could_be(self, model, tmp_path):
        for name in ("w-1.pt", "W_1.pt"):
            torch.save(model.state_dict(), tmp_path / name)
        with pytest.raises(CheckpointError, match=r"expected one file .* Rename all but one\."):
            self.load(str(tmp_path / "w-1.pt"), tmp_path)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(RuntimeError, match="not a known tag or valid file path"):
            self.load(str(tmp_path / "none.pt"), tmp_path)

    def test_a_checkpoint_of_open_clips_own_training(self, model, tmp_path):
        weights = {f"module.{name}": value for name, value in model.state_dict().items()}
        torch.save({"epoch": 1, "state_dict": weights}, tmp_path / "epoch_1.pt")
        self.same(self.load(str(tmp_path / "epoch_1.pt"), tmp_path), model)

    def test_safetensors_and_a_folder_of_ours(self, model, tmp_path):
        save_file(model.state_dict(), tmp_path / WEIGHTS_FILE)
        self.same(self.load(str(tmp_path / WEIGHTS_FILE), tmp_path), model)
        self.same(self.load(str(tmp_path), tmp_path), model)

    def test_only_the_names_of_safetensors_are_read(self, model, tmp_path, monkeypatch):
        weights = {f"module.{name}": value for name, value in model.state_dict().items()}
        save_file(weights, tmp_path / "epoch_1.safetensors")

        def whole(_):
            raise AssertionError("read whole")

        monkeypatch.setattr("clip_text.checkpoints.files.load_file", whole)
        self.same(self.load(str(tmp_path / "epoch_1.safetensors"), tmp_path), model)
        (tmp_path / "cut.safetensors").write_bytes(
            (tmp_path / "epoch_1.safetensors").read_bytes()[:99]
        )
        with pytest.raises(CheckpointError, match=r"safetensors file at .*cut\.safetensors"):
            self.load(str(tmp_path / "cut.safetensors"), tmp_path)

    def test_cn_clips_and_hugging_faces_formats(self, tmp_path):
        """Read as they are, into what ``clip-text convert`` would have written first."""
        theirs, kwargs = published(tmp_path)
        expected = {k: v.contiguous() for k, v in to_open_clip(theirs.state_dict()).items()}
        for source in ("clip_cn-tiny.pt", "HF"):
            model = self.load(str(tmp_path / source), tmp_path, **kwargs)
            assert_close(dict(model.state_dict()), expected, atol=0, rtol=0)
            settings = model.visual.preprocess_cfg
            assert (tuple(settings["mean"]), tuple(settings["std"])) == (MEAN, STD)

    @staticmethod
    def our_folder(model, folder, **changes):
        """A folder of ours: weights, and a config with a mean and deviation of its own."""
        config = {
            "model_cfg": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION["vit"]},
            "preprocess_cfg": {
                **{"size": IMAGE_SIZE, "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.3, 0.35]},
                **{"interpolation": "bicubic", "resize_mode": "squash"},
            },
        }
        config["model_cfg"] |= changes
        folder.mkdir()
        save_file(model.state_dict(), folder / WEIGHTS_FILE)
        (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="ascii")
        return folder

    def test_preprocessing_of_our_folder(self, model, tmp_path):
        folder = self.our_folder(model, tmp_path / "own")
        torch.save(model.state_dict(), folder / "epoch_1.pt")
        for path in (folder, folder / WEIGHTS_FILE, folder / "epoch_1.pt"):
            settings = self.load(str(path), tmp_path).visual.preprocess_cfg
            assert (settings["mean"], settings["std"]) == ([0.5, 0.4, 0.3], [0.25, 0.3, 0.35])
            assert settings["interpolation"] == "bicubic"

    def test_another_activation_is_refused(self, model, tmp_path):
        folder = self.our_folder(model, tmp_path / "own", quick_gelu=False)
        with pytest.raises(CheckpointError, match=r"with QuickGELU, .* got one with GELU in .*own"):
            self.load(str(folder), tmp_path)
        # where there is none, nothing can differ
        resnet = {"quick_gelu": False, "vision_cfg": {"layers": [3, 4, 6, 3], "width": 64}}
        self.load(str(self.our_folder(model, tmp_path / "resnet", **resnet)), tmp_path)

    @pytest.mark.parametrize("broken", ["[]", "{}", '{"model_cfg": {"vision_cfg": []}}', "{"])
    def test_a_config_that_is_wrong(self, broken, model, tmp_path):
        folder = self.our_folder(model, tmp_path / "own")
        (folder / "open_clip_config.json").write_text(broken, encoding="ascii")
        with pytest.raises(CheckpointError, match=r"open_clip_config\.json"):
            self.load(str(folder), tmp_path)

    def test_what_a_hugging_face_folder_says(self, tmp_path):
        """Its mean and deviation are used; a GELU that the preset has not is no silent mistake."""
        from clip_text.checkpoints import load_checkpoint, save_as

        _, kwargs = published(tmp_path)
        folder = tmp_path / "HF"
        own = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.3, 0.35]}
        edit_json(folder / "preprocessor_config.json", lambda settings: settings.update(own))
        settings = self.load(str(folder), tmp_path, **kwargs).visual.preprocess_cfg
        assert (settings["mean"], settings["std"]) == ([0.5, 0.4, 0.3], [0.25, 0.3, 0.35])
        # the same folder in another state, which a cache must not hide
        gelu = {"hidden_act": "gelu"}
        edit_json(folder / "config.json", lambda config: config["vision_config"].update(gelu))
        save_as(load_checkpoint(folder), tmp_path / "converted", "open_clip")
        for path in (folder, tmp_path / "converted"):
            with pytest.raises(CheckpointError, match=r"with QuickGELU, .* got one with GELU in"):
                self.load(str(path), tmp_path, **kwargs)

    def test_the_wrong_size(self, model, tmp_path):
        torch.save(model.state_dict(), tmp_path / "w.pt")
        with pytest.raises(RuntimeError, match="size mismatch"):
            self.load(str(tmp_path / "w.pt"), tmp_path, embed_dim=16)

    def test_no_checkpoint(self, tmp_path):
        (tmp_path / "w.pt").write_bytes(b"PK\x03\x04 cut short")
        with pytest.raises(CheckpointError, match=r"w\.pt"):
            self.load(str(tmp_path / "w.pt"), tmp_path)


def test_running_another_program(tmp_path, monkeypatch, capsys):
    (tmp_path / "their_program.py").write_text(
        "import sys, open_clip\n"
        "if __name__ == '__main__':\n"
        "    print(sys.argv[1:], 'chinese-clip-RN50' in open_clip.list_models())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    plugin.main(["their_program", "--model", "chinese-clip-RN50"])
    assert capsys.readouterr().out == "['--model', 'chinese-clip-RN50'] True\n"
    for arguments in ([], ["--help"]):
        with pytest.raises(SystemExit, match=r"usage: python -m clip_text\.plugin MODULE"):
            plugin.main(arguments)
