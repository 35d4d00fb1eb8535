"""Checkpoint folders: where a model lives on disk.

The layout is open_clip's own, with the backbone's configuration and the tokenizer beside it as
Hugging Face saves them::

    open_clip_config.json        model_cfg (both towers) and preprocess_cfg
    open_clip_model.safetensors  weights, fp32 or fp16
    config.json                  the text backbone, as transformers.AutoConfig reads it
    tokenizer.json, …            the tokenizer, as transformers.AutoTokenizer reads it
    README.md                    the model card
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from open_clip import CustomTextCLIP
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from clip_text.errors import CheckpointError
from clip_text.tokenizer import CONTEXT_LENGTH, Tokenizer
from clip_text.towers import Pooler, Projection, TowerConfig, build_model

STARTER = "starter"
"""Name of the checkpoint that comes with the package."""

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"

# our word: open_clip's word
_POOLERS: dict[Pooler, str] = {
    "cls": "cls_last_hidden_state_pooler",
    "mean": "mean_pooler",
    "max": "max_pooler",
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the image tower's input: squash to a square, bicubic, normalise.

    Args:
        size: Side of the square in pixels.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything needed to compute features."""

    model: CustomTextCLIP
    config: TowerConfig
    tokenizer: Tokenizer
    preprocessing: Preprocessing


def resolve(name: str | Path) -> Path:
    """Find the folder of a checkpoint: ``"starter"``, a local folder, or a Hugging Face hub name.

    Only a name that is no local folder and looks like ``owner/model`` asks the hub.

    Raises:
        CheckpointError: If there is no such folder, or the hub does not give it.
    """
    if str(name) == STARTER:
        return Path(__file__).parent / "starter"
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise CheckpointError(
            "expected a checkpoint folder, a hub name (owner/model) or 'starter', "
            f"got {str(name)!r}. Check the path."
        )
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (nothing else needs the hub)
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(
            snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.txt"])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"expected a local folder or a model on the hub, got {str(name)!r} "
            f"({type(error).__name__}). Check the name and the network."
        ) from error


def load_checkpoint(name: str | Path) -> Checkpoint:
    """Read a checkpoint onto the CPU in fp32, in evaluation mode.

    Args:
        name: As :func:`resolve` takes it.

    Raises:
        CheckpointError: If a file is missing or damaged, or the weights do not fit the config.
    """
    folder = resolve(name)
    raw = _read_json(folder / CONFIG_FILE)
    try:
        backbone = AutoConfig.from_pretrained(folder, local_files_only=True)
        config = _tower_config(raw["model_cfg"], cast(PreTrainedConfig, backbone))
        preprocessing = _preprocessing(raw["preprocess_cfg"])
        tokenizer = Tokenizer.from_folder(folder, config.context_length)
        model = build_model(config)
    except (AttributeError, KeyError, TypeError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"expected a complete checkpoint in {folder}, got {type(error).__name__}: {error}. "
            "Save it again with Encoder.save_pretrained."
        ) from error
    load_weights(model, _read_weights(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
    return Checkpoint(model.eval(), config, tokenizer, preprocessing)


def save_checkpoint(
    checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a checkpoint folder; an older one there stays whole until the new one is complete.

    Args:
        checkpoint: What to write.
        folder: Created with its parents.
        dtype: Of the stored floating-point weights; float16 halves the file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    weights = {
        name: tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in checkpoint.model.state_dict().items()
    }
    save_file(weights, partial / WEIGHTS_FILE, metadata={"format": "pt"})
    (partial / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it readable by its owner only
    checkpoint.config.backbone.save_pretrained(partial)
    checkpoint.tokenizer.save(partial)
    text = json.dumps(_to_json(checkpoint), indent=2, ensure_ascii=True)
    (partial / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    if not folder.exists():
        partial.rename(folder)
        return
    folder.mkdir(exist_ok=True)
    for file in sorted(partial.iterdir()):  # each file is replaced whole; others there stay
        file.replace(folder / file.name)
    partial.rmdir()


def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Copy weights into a model, refusing to lose or invent a tensor.

    Raises:
        CheckpointError: If a tensor is missing, extra or of another shape.
    """
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in weights]
    problems += [f"unknown {name}" for name in weights if name not in expected]
    problems += [
        f"{name} is {list(weights[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"expected {len(expected)} tensors that fit {CONFIG_FILE} in {source}, "
            f"got: {'; '.join(problems[:5])}{more}. "
            "Use the weights and the config of one and the same model."
        )
    model.load_state_dict(dict(weights))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(
            f"expected {path.name} in {path.parent}, got no such file. "
            "Name a folder saved by Encoder.save_pretrained."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"expected JSON in {path}, got {error}. Save or download the checkpoint again."
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"expected {path.name} in {path.parent}, got no such file. Download it again."
        ) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"expected a safetensors file at {path}, got {error}. "
            "It may be cut short: save or download it again."
        ) from error


def _tower_config(raw: Mapping[str, Any], backbone: PreTrainedConfig) -> TowerConfig:
    text = dict(raw["text_cfg"])
    pooler = text.get("hf_pooler_type", _POOLERS["cls"])
    ours = {theirs: name for name, theirs in _POOLERS.items()}
    if pooler not in ours:
        raise ValueError(f"expected hf_pooler_type {', '.join(ours)}, got {pooler!r}")
    known = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
    return TowerConfig(
        embed_dim=int(raw["embed_dim"]),
        vision=dict(raw["vision_cfg"]),
        backbone=backbone,
        pooler=ours[pooler],
        projection=cast(Projection, text.get("hf_proj_type") or "none"),
        context_length=int(text.get("context_length", CONTEXT_LENGTH)),
        quick_gelu=bool(raw.get("quick_gelu", False)),
        extra={key: value for key, value in raw.items() if key not in known},
    )


def _preprocessing(raw: Mapping[str, Any]) -> Preprocessing:
    if raw.get("resize_mode") != "squash" or raw.get("interpolation") != "bicubic":
        raise ValueError(
            "expected resize_mode squash and interpolation bicubic, "
            f"got {raw.get('resize_mode')!r} and {raw.get('interpolation')!r}"
        )
    size = raw["size"]
    mean, std = (tuple(float(v) for v in raw[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"expected mean and std of three channels, got {mean} and {std}")
    return Preprocessing(
        size=int(size[0] if isinstance(size, list) else size),
        mean=mean,
        std=std,
    )


def _to_json(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    return {
        "model_cfg": {
            **config.extra,
            "embed_dim": config.embed_dim,
            "quick_gelu": config.quick_gelu,
            "vision_cfg": config.vision,
            "text_cfg": {
                # "." is this folder; open_clip resolves names against the working directory
                "hf_model_name": ".",
                "hf_tokenizer_name": ".",
                "hf_model_pretrained": False,
                "hf_pooler_type": _POOLERS[config.pooler],
                "hf_proj_type": None if config.projection == "none" else config.projection,
                "context_length": config.context_length,
            },
        },
        "preprocess_cfg": {
            "size": checkpoint.preprocessing.size,
            "mean": list(checkpoint.preprocessing.mean),
            "std": list(checkpoint.preprocessing.std),
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
