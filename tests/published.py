"""The five published Chinese-CLIP sizes, reduced in depth and width, made by the real libraries.

What makes each size special is kept: ViT-H's heads of width 80, the 336 px model's larger grid,
RN50's attention pool and its text tower of few layers, and the vocabulary of 21,128.
"""

import torch
from transformers import ChineseCLIPConfig, ChineseCLIPModel

CONTEXT_LENGTH = 52
TEXT = {
    "vocab_size": 21128,
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1,
    "text_hidden_size": 64,
    "text_initializer_range": 0.02,
    "text_intermediate_size": 192,
    "text_max_position_embeddings": 64,
    "text_num_attention_heads": 1,
    "text_num_hidden_layers": 2,
    "text_type_vocab_size": 2,
}


def size(layers, width, patch, grid, **changes):
    vision = {
        "embed_dim": 32,
        "image_resolution": grid * (patch or 32),
        "vision_layers": layers,
        "vision_width": width,
        "vision_patch_size": patch,
    }
    return TEXT | vision | changes


SIZES = {
    "ViT-B-16": size(2, 128, 16, 2, text_hidden_size=128, text_num_attention_heads=2),
    "ViT-L-14": size(3, 192, 14, 2, embed_dim=48),
    "ViT-L-14-336": size(2, 128, 14, 3, embed_dim=48),
    "ViT-H-14": size(2, 160, 14, 2, vision_head_width=80),
    "RN50": size([1, 2, 1, 1], 8, None, 2, text_num_hidden_layers=1),
}
VITS = [name for name in SIZES if name != "RN50"]
FULL = TEXT | {
    **{"text_hidden_size": 768, "text_intermediate_size": 3072, "text_num_hidden_layers": 12},
    **{"text_num_attention_heads": 12, "text_max_position_embeddings": 512, "embed_dim": 512},
    **{"image_resolution": 224, "vision_layers": 12, "vision_width": 768, "vision_patch_size": 16},
}

# [CLS] and [SEP] of the vocabulary are 101 and 102
TOKENS = torch.zeros(3, CONTEXT_LENGTH, dtype=torch.long)
TOKENS[0, :6] = torch.tensor([101, 5273, 5682, 4638, 2552, 102])
TOKENS[1, :3] = torch.tensor([101, 4318, 102])
TOKENS[2] = torch.arange(700, 700 + CONTEXT_LENGTH)


def pictures(side, count=2):
    """Float pictures as a tower takes them, [count, 3, side, side]."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def randomise(model, seed=0):
    """Give every tensor random values that matter: no zero bias, no norm that does nothing."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * noise.abs())
        elif tensor.ndim == 1 and name.endswith("weight"):  # of a norm
            tensor.copy_(1 + 0.2 * noise)
        elif name.endswith("logit_scale"):
            tensor.fill_(3.21)
        else:
            scale = 0.1 if tensor.ndim < 2 else tensor[0].numel() ** -0.5
            tensor.copy_(noise * (2 * scale if tensor.ndim == 4 else scale))
    return model.float().eval()


def cn_clip_model(name="ViT-B-16", seed=0, **changes):
    """A real cn_clip model with random weights, in fp32."""
    from cn_clip.clip.model import CLIP

    return randomise(CLIP(**(SIZES.get(name) or FULL) | changes), seed)


def hf_model(name="ViT-B-16", seed=0):
    """A real transformers model with random weights."""
    info = SIZES.get(name) or FULL
    width = info["vision_width"]
    text = {
        key.removeprefix("text_"): value
        for key, value in info.items()
        if key.startswith("text_") or key == "vocab_size"
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": info["vision_layers"],
        "num_attention_heads": width // info.get("vision_head_width", 64),
        "image_size": info["image_resolution"],
        "patch_size": info["vision_patch_size"],
        "projection_dim": info["embed_dim"],
    }
    config = ChineseCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=info["embed_dim"]
    )
    return randomise(ChineseCLIPModel(config), seed)


@torch.inference_mode()
def features_of_cn_clip(model, images):
    return model.encode_text(TOKENS), model.encode_image(images)


@torch.inference_mode()
def features_of_hf(model, images):
    mask = (TOKENS != 0).long()
    text = model.get_text_features(input_ids=TOKENS, attention_mask=mask)
    return text.pooler_output, model.get_image_features(pixel_values=images).pooler_output


@torch.inference_mode()
def features_of_open_clip(model, images):
    """Of a real open_clip model, and of ours."""
    return model.encode_text(TOKENS), model.encode_image(images)


def save_published(model, path, *, wrapper="module.", dtype=torch.float32, extras=(), **beside):
    """Write a model's tensors as cn_clip's training does."""
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    state |= dict(extras)
    state = {wrapper + name: tensor for name, tensor in state.items()}
    torch.save({"epoch": 2, "step": 7, "name": "run", "state_dict": state, **beside}, path)
    return path
