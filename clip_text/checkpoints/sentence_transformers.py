"""The text half as a folder that sentence-transformers loads, without this package.

Written here file by file, in the layout every version of it reads::

    modules.json                    Transformer, Pooling, Dense (none, one or two), Normalize
    config.json, model.safetensors  the backbone, as transformers reads it
    tokenizer.json, …               the tokenizer, with the contract's normalisation inside
    sentence_bert_config.json       where a text is cut
    1_Pooling/, 2_Dense/, …         one folder each
"""

import copy
import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from clip_text.checkpoints import Checkpoint
from clip_text.checkpoints.files import write_weights
from clip_text.errors import CheckpointError
from clip_text.storage import check_new, partial_folder, write_json
from clip_text.tokenizer import Tokenizer
from clip_text.tokenizer.portable import portable
from clip_text.towers import TextTower
from clip_text.vectors import check_dimensions

# our word: the library's word, in the files of all its versions
_POOLING = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
}


def save_sentence_transformers(
    checkpoint: Checkpoint, folder: Path, dimensions: int | None = None
) -> None:
    """Write the text tower and its tokenizer for ``SentenceTransformer(folder)``.

    Its rows are those of ``Encoder.encode_text``, in fp32. See
    :func:`clip_text.tokenizer.portable.portable` for the few texts whose tokens differ.

    Args:
        checkpoint: What to write; pictures stay behind.
        folder: Created with its parents; must not exist yet.
        dimensions: How many of each row's first dimensions its rows have; all if not given.

    Raises:
        CheckpointError: If the contract is open_clip's, or the backbone no plain encoder.
        DimensionsError: If rows have not so many dimensions.
        FileExistsError: If the folder exists.
    """
    tower = checkpoint.model.text
    assert isinstance(tower, TextTower)
    save_text_tower(tower, checkpoint.tokenizer, folder, dimensions)


def save_text_tower(
    tower: TextTower, own: Tokenizer, folder: Path, dimensions: int | None = None
) -> None:
    """Write a text tower that belongs to no pair, as :func:`save_sentence_transformers` does.

    Args:
        tower: What to write.
        own: Its tokenizer.
        folder: Created with its parents; must not exist yet.
        dimensions: How many of each row's first dimensions its rows have; all if not given.

    Raises:
        CheckpointError: If the contract is open_clip's, or the backbone no plain encoder.
        DimensionsError: If rows have not so many dimensions.
        FileExistsError: If the folder exists.
    """
    check_new(folder)
    layers = _layers(tower, tower.output_dim if dimensions is None else dimensions)
    try:
        tokenizer = portable(own)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    backbone, weights = _backbone(tower)
    with partial_folder(folder) as partial:
        backbone.save_pretrained(partial)
        write_weights(weights, partial / "model.safetensors")
        tokenizer.save_pretrained(str(partial))
        # the name that transformers 4 and 5 both know
        config = json.loads((partial / "tokenizer_config.json").read_text(encoding="utf-8"))
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_json(partial / "tokenizer_config.json", config)
        length = {"max_seq_length": own.context_length, "do_lower_case": False}
        write_json(partial / "sentence_bert_config.json", length)
        settings: dict[str, Any] = {
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        }
        write_json(partial / "config_sentence_transformers.json", settings)
        write_json(partial / "modules.json", _save_modules(tower, layers, partial))


def _backbone(tower: TextTower) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
    """Give configuration and weights as transformers.AutoModel reads them."""
    config = copy.deepcopy(tower.transformer.config)
    with torch.device("meta"):  # names and shapes are all that is asked
        whole = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    expected = whole.state_dict()
    weights = {name: _fp32(tensor) for name, tensor in tower.transformer.state_dict().items()}
    # Their class has BERT's tanh pooler, which nothing here reads. Left out, it would be drawn at
    # random with a warning.
    unread = {name for name in expected if name not in weights and name.startswith("pooler.")}
    weights |= {name: torch.zeros(expected[name].shape) for name in unread}
    if weights.keys() != expected.keys():
        raise CheckpointError(
            "expected a backbone that transformers.AutoModel loads as it is, got "
            f"{type(tower.transformer).__name__}, a part of {type(whole).__name__}. "
            "sentence-transformers cannot hold it."
        )
    config.architectures = [type(whole).__name__]
    config.dtype = torch.float32
    return config, weights


def _layers(tower: TextTower, dimensions: int) -> list[nn.Module]:
    """Give the layers of the projection, of which the last linear one computes what is kept."""
    check_dimensions(dimensions, tower.output_dim)
    layers = list(tower.proj) if isinstance(tower.proj, nn.Sequential) else [tower.proj]
    if dimensions == tower.output_dim:
        return layers
    linear = [at for at, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    if not linear:  # projection "none": the first of the backbone's own
        return [_linear({"weight": torch.eye(dimensions, tower.width)})]
    weights = layers[linear[-1]].state_dict()
    layers[linear[-1]] = _linear({name: value[:dimensions] for name, value in weights.items()})
    return layers


def _linear(weights: dict[str, Tensor]) -> nn.Linear:
    """Make a layer of its weights; nothing is drawn at random for it."""
    rows, columns = weights["weight"].shape
    layer = nn.Linear(columns, rows, bias="bias" in weights, device="meta")
    layer.load_state_dict(weights, assign=True)
    return layer


def _save_modules(
    tower: TextTower, layers: Sequence[nn.Module], folder: Path
) -> list[dict[str, Any]]:
    """Write pooling and projection; returns what modules.json says of all modules."""
    modules: list[tuple[str, str, dict[str, Any]]] = [("", "Transformer", {})]
    pooling: dict[str, Any] = {"word_embedding_dimension": tower.width}
    pooling |= {theirs: name == tower.pooler for name, theirs in _POOLING.items()}
    modules.append(("1_Pooling", "Pooling", pooling))
    number = count(2)
    for at, layer in enumerate(layers):
        if not isinstance(layer, nn.Linear):
            continue  # an activation, which Dense holds, or the identity of projection "none"
        after = layers[at + 1] if at + 1 < len(layers) else nn.Identity()
        name = f"{next(number)}_Dense"
        dense = {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
            "activation_function": f"{type(after).__module__}.{type(after).__name__}",
        }
        modules.append((name, "Dense", dense))
        (folder / name).mkdir()
        weights = {f"linear.{key}": _fp32(tensor) for key, tensor in layer.state_dict().items()}
        write_weights(weights, folder / name / "model.safetensors")
    modules.append((f"{next(number)}_Normalize", "Normalize", {}))
    for path, _, config in modules[1:]:
        (folder / path).mkdir(exist_ok=True)
        write_json(folder / path / "config.json", config)
    return [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind, _) in enumerate(modules)
    ]


def _fp32(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
