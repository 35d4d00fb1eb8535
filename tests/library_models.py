"""Tiny random-weight dual encoders of other libraries, written by these libraries themselves."""

import contextlib
import io
import json
import logging

import open_clip
import torch
import transformers as hf
from safetensors.torch import save_file

from tests.models import PAD, SEP, VOCABULARY, backbone, bert_tokenizer

TEXT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "pad_token_id": PAD,
    "bos_token_id": SEP,
    "eos_token_id": SEP,
    "initializer_range": 0.2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
    "initializer_range": 0.2,
}
TRANSFORMERS = ("clip", "siglip", "siglip2", "altclip", "chinese_clip", "metaclip_2", "two_towers")


def tokenizer(context_length=24, inputs=("input_ids", "attention_mask")):
    """A fast tokenizer of transformers whose vocabulary is that of the tiny models."""
    made = bert_tokenizer()
    made.model_max_length = context_length
    made.model_input_names = list(inputs)
    return made


def write_transformers(folder, kind, seed=0):
    """Save a model of a kind with its processor, as transformers does; gives the folder."""
    torch.manual_seed(seed)
    processor = hf.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    words = tokenizer()
    if kind == "clip":
        config = hf.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
        model, both = hf.CLIPModel(config), hf.CLIPProcessor
    elif kind == "metaclip_2":
        config = hf.MetaClip2Config(text_config=TEXT, vision_config=VISION, projection_dim=24)
        model, both = hf.MetaClip2Model(config), hf.CLIPProcessor
    elif kind == "siglip":
        config = hf.SiglipConfig(text_config=TEXT, vision_config=VISION)
        model, both = hf.SiglipModel(config), hf.SiglipProcessor
        processor = hf.SiglipImageProcessor(size={"height": 32, "width": 32})
        words = tokenizer(inputs=["input_ids"])
    elif kind == "siglip2":
        vision = {key: value for key, value in VISION.items() if key != "image_size"}
        config = hf.Siglip2Config(text_config=TEXT, vision_config=vision | {"num_patches": 16})
        model, both = hf.Siglip2Model(config), hf.Siglip2Processor
        processor = hf.Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
        words = tokenizer(inputs=["input_ids"])
    elif kind == "altclip":
        text = TEXT | {"project_dim": 24, "max_position_embeddings": 26}
        config = hf.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
        model, both = hf.AltCLIPModel(config), hf.AltCLIPProcessor
    elif kind == "chinese_clip":
        config = hf.ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
        model, both = hf.ChineseCLIPModel(config), hf.ChineseCLIPProcessor
        size = {"height": 32, "width": 32}
        processor = hf.ChineseCLIPImageProcessor(size=size, do_center_crop=False)
    else:
        config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(
            hf.CLIPVisionConfig(**VISION), backbone("bert"), projection_dim=24
        )
        model, both = hf.VisionTextDualEncoderModel(config), hf.VisionTextDualEncoderProcessor
    model.eval().save_pretrained(folder)
    both(image_processor=processor, tokenizer=words).save_pretrained(folder)
    return folder


def write_open_clip(folder, seed=0, **text):
    """Save a model of open_clip's own text tower, as open_clip's push_to_hub writes it."""
    folder.mkdir(parents=True)
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 20,
            "vocab_size": 49408,
            "width": 32,
            "heads": 4,
            "layers": 2,
        }
        | text,
    }
    looks = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.3, 0.3], "interpolation": "bilinear"}
    torch.manual_seed(seed)
    model = quiet(lambda: open_clip.model.CLIP(**json.loads(json.dumps(config))))
    whole = {"model_cfg": config, "preprocess_cfg": looks | {"resize_mode": "shortest"}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole), encoding="utf-8")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_sentence_transformers(folder, kind, seed=0):
    """Save a model of sentence-transformers: ``clip`` of both, ``text`` of texts alone."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    inner = folder.parent / f"{folder.name}-inner"
    if kind == "clip":
        write_transformers(inner, "clip", seed)
        model = SentenceTransformer(str(inner), device="cpu")
    else:
        torch.manual_seed(seed)
        hf.BertModel(backbone("bert")).save_pretrained(inner)
        tokenizer().save_pretrained(inner)
        words = modules.Transformer(str(inner))
        dense = modules.Dense(32, 24, bias=False)
        pooling = modules.Pooling(32, pooling_mode="mean")
        model = SentenceTransformer(modules=[words, pooling, dense], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


def quiet(call):
    """Call what prints and logs more than a test wants to see."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return call()
    finally:
        logging.disable(logging.NOTSET)
