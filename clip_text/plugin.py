"""The open_clip plug-in: Chinese-CLIP models under open_clip's own names and calls.

:func:`register_with_open_clip` adds rows to four tables and replaces no code:

=======================================  ==================================================
table                                    what is added
=======================================  ==================================================
open_clip's model configurations         one preset per published size, XLM-R, the starter
open_clip's pretrained tags              the starter's weights, and any file as ``pretrained``
open_clip's Hugging Face architectures   names of the layers of the two backbones below
transformers' AutoConfig and AutoModel   the two backbones: BERT and XLM-R of a type of their own
=======================================  ==================================================

Why backbones of their own: open_clip does not know where a BERT keeps its layers, so its
``lock_text_tower`` fails for one. Ours are the same networks with the same weight names, but of
a type whose layers open_clip is told, and what is saved from them says plain ``bert`` again.

``python -m clip_text.plugin MODULE [ARGUMENT]...`` registers and then runs a module, for
programs that import open_clip themselves (``open_clip_train.main``, ``clip_benchmark.cli``).
"""

import atexit
import functools
import json
import os
import runpy
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import open_clip.factory
import open_clip.hf_configs
import open_clip.pretrained
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from clip_text.checkpoints import CONFIG_FILE, WEIGHTS_FILE, load_checkpoint
from clip_text.checkpoints.files import read_json, read_names
from clip_text.checkpoints.folder import preprocess_cfg
from clip_text.errors import CheckpointError
from clip_text.towers import is_vit

__all__ = ["PRESETS", "STARTER_PRESET", "load_presets", "main", "register_with_open_clip"]

PRESETS = Path(__file__).resolve().parent / "presets"
"""One ``NAME.json`` per preset, laid out as open_clip_config.json; backbones beside them."""

STARTER_PRESET = "clip-text-starter"

_STARTER = PRESETS.parent / "starter"

_ARCHITECTURE = {
    "config_names": {
        "context_length": "max_position_embeddings",
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
        "layer_attr": "layer",
        "token_embeddings_attr": "embeddings",
    },
    "pooler": "cls_last_hidden_state_pooler",
}


class PresetBertConfig(BertConfig):  # type: ignore[no-untyped-call]
    """A BERT's configuration, told apart from a plain BERT's by its type only."""

    model_type = "clip-text-bert"

    def to_dict(self) -> dict[str, Any]:
        """Say plain ``bert``, so that what is saved loads without this package."""
        return {**super().to_dict(), "model_type": "bert", "architectures": ["BertModel"]}


class PresetXLMRobertaConfig(XLMRobertaConfig):  # type: ignore[no-untyped-call]
    """The same for XLM-R."""

    model_type = "clip-text-xlm-roberta"

    def to_dict(self) -> dict[str, Any]:
        """Say plain ``xlm-roberta``."""
        plain = {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"]}
        return {**super().to_dict(), **plain}


class _Backbone(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What the two have beside their parents: nothing that a forward pass sees."""

    def __init__(self, config: PreTrainedConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        # as transformers leaves every model that it loads: some tools around open_clip (all_clip)
        # call no eval(), and would draw dropout into the features
        self.eval()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[Any] | None,
        *model_args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> Self:
        """Load a folder's weights; a preset's folder has none, so warn and start random."""
        name = pretrained_model_name_or_path
        if name is not None and Path(name).is_relative_to(PRESETS):
            _warn_random()
            shape = {key: kwargs[key] for key in ("config", "add_pooling_layer") if key in kwargs}
            return cast(Self, cls._from_config(**shape))  # type: ignore[no-untyped-call]
        return super().from_pretrained(name, *model_args, **kwargs)


class PresetBert(_Backbone, BertModel):  # type: ignore[no-untyped-call]
    """A BERT that open_clip can lock, and build where it asks for a preset's own weights."""

    config_class = PresetBertConfig


class PresetXLMRoberta(_Backbone, XLMRobertaModel):  # type: ignore[no-untyped-call]
    """The same for XLM-R."""

    config_class = PresetXLMRobertaConfig


def _warn_random() -> None:
    warnings.warn(
        "expected weights for the text tower, got none: it starts from random ones. Pass "
        "pretrained=<file or folder>, or pretrained_text=False if random is meant; without "
        "`pretrained` also image_resize_mode='squash', which open_clip does not know otherwise.",
        stacklevel=2,
    )


def load_presets() -> dict[str, dict[str, Any]]:
    """Read the presets: name to ``{"model_cfg": …, "preprocess_cfg": …}``, paths absolute."""
    files = sorted(PRESETS.glob("*.json"))
    presets = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    starter = json.loads((_STARTER / CONFIG_FILE).read_text(encoding="utf-8"))
    starter["model_cfg"]["text_cfg"] |= {
        "hf_model_name": "backbones/starter",
        "hf_tokenizer_name": "../starter",
    }
    presets[STARTER_PRESET] = starter
    for preset in presets.values():
        text = preset["model_cfg"]["text_cfg"]
        for key in ("hf_model_name", "hf_tokenizer_name"):
            folder = (PRESETS / text[key]).resolve()
            text[key] = str(folder) if folder.is_dir() else text[key]  # else a hub name
    return presets


def register_with_open_clip() -> list[str]:
    """Make our presets known to open_clip in this process; again does no harm.

    Afterwards ``open_clip.create_model_and_transforms(name, pretrained=path)`` and
    ``open_clip.get_tokenizer(name)`` work for each name, offline. ``path``, a string, is a file
    or folder in any format that :func:`clip_text.checkpoints.load_checkpoint` reads.

    Returns:
        The names, as ``open_clip.list_models()`` now has them, too.
    """
    AutoConfig.register(PresetBertConfig.model_type, PresetBertConfig, exist_ok=True)
    AutoConfig.register(PresetXLMRobertaConfig.model_type, PresetXLMRobertaConfig, exist_ok=True)
    AutoModel.register(PresetBertConfig, PresetBert, exist_ok=True)
    AutoModel.register(PresetXLMRobertaConfig, PresetXLMRoberta, exist_ok=True)
    for config in (PresetBertConfig, PresetXLMRobertaConfig):
        open_clip.hf_configs.arch_dict[config.model_type] = _ARCHITECTURE
    presets = load_presets()
    for name, preset in presets.items():
        model = preset["model_cfg"]
        # add_model_config() would read the files again later, with their relative names
        open_clip.factory._MODEL_CONFIGS[name] = model
        settings = {**preset["preprocess_cfg"], "quick_gelu": model["quick_gelu"]}
        tags = {"starter": _STARTER / WEIGHTS_FILE} if name == STARTER_PRESET else {}
        open_clip.pretrained._PRETRAINED[name] = _Weights(settings, tags)
    return list(presets)


class _Weights(dict[str, dict[str, Any]]):
    """What may be passed as ``pretrained`` for one preset: its tags, and any file or folder.

    open_clip looks a tag up here before it tries it as a file. That is the one place where
    weights meet their preprocessing: a file it finds by itself gets the shortest side resized
    and the centre cropped, which is wrong for all our models.

    Weights bring their own preprocessing where their format has a place for it. Not so the
    activation of a ViT: when open_clip asks here, it has settled on the preset's, and would only
    warn of another one.

    Args:
        settings: The preset's preprocessing, for weights that bring none, and its ``quick_gelu``.
        tags: File of the weights, by the tag's name.
    """

    def __init__(self, settings: Mapping[str, Any], tags: Mapping[str, Path]) -> None:
        super().__init__({tag: {**settings, "file": str(file)} for tag, file in tags.items()})
        self.settings = settings

    def get(self, tag: str, default: Any = None) -> Any:  # noqa: ANN401
        """Find the entry of a tag, or make one for a file or folder that exists.

        Raises:
            CheckpointError: If it cannot be read, has another activation than the preset, or two
                files could be meant.
        """
        if tag in self:
            return self[tag]
        found = _find(tag)
        if found is None:
            return default
        weights = _as_open_clip(found)
        needs = self.settings["quick_gelu"]
        if weights.quick_gelu not in (None, needs):
            names = {True: "QuickGELU", False: "GELU"}
            raise CheckpointError(
                f"expected an image tower with {names[needs]}, the preset's activation, got one "
                f"with {names[not needs]} in {found}. "
                "Load it with clip_text.Encoder.from_pretrained, which reads it from the config."
            )
        return {**self.settings, **weights.preprocess_cfg, "file": str(weights.file)}


@dataclass(frozen=True, slots=True)
class _OpenClipWeights:
    """A file that open_clip reads, and what its source says beside it.

    Args:
        file: open_clip's names and shapes.
        preprocess_cfg: In open_clip's words; empty where the source says nothing.
        quick_gelu: None where the source says nothing, or the image tower is no ViT.
    """

    file: Path
    preprocess_cfg: Mapping[str, Any] = field(default_factory=dict)
    quick_gelu: bool | None = None


def _find(tag: str) -> Path | None:
    """Find the file or folder whose path open_clip turned into ``tag``.

    It writes a tag in small letters and with ``_`` for ``-`` before it looks it up, so
    ``Weights/clip_cn_vit-b-16.pt`` arrives as ``weights/clip_cn_vit_b_16.pt``.
    """
    path = Path(tag)
    found = [Path(path.anchor)]
    for part in path.relative_to(path.anchor).parts:
        found = [folder / name for folder in found for name in _names(folder, part)]
    found = [candidate for candidate in found if candidate.exists()]
    if len(found) > 1:
        raise CheckpointError(
            f"expected one file or folder that open_clip means by {tag!r} (to it, large letters "
            f"are small and - is _), got {', '.join(map(str, found))}. Rename all but one."
        )
    return found[0] if found else None


def _names(folder: Path, part: str) -> list[str]:
    """Names in a folder that open_clip would write as ``part``."""
    if part == "..":
        return [part]
    try:
        names = os.listdir(folder)  # noqa: PTH208  (a path to join, not one joined)
    except PermissionError:  # it may still be walked through
        return [part]
    except OSError:
        return []
    return [name for name in names if open_clip.pretrained._clean_tag(name) == part]


def _as_open_clip(source: Path) -> _OpenClipWeights:
    """Give the file of an open_clip checkpoint as it is, and convert any other into one.

    Raises:
        CheckpointError: If it cannot be read.
    """
    if (source / WEIGHTS_FILE).is_file():
        return _beside_config(source / WEIGHTS_FILE)
    if source.is_file() and any(n.startswith("text.") for n in read_names(source)):
        return _beside_config(source)
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    stats = [file.stat() for file in files if file.exists()]
    return _converted(source.resolve(), tuple((stat.st_mtime_ns, stat.st_size) for stat in stats))


def _beside_config(file: Path) -> _OpenClipWeights:
    """Read what the config beside open_clip's own weights says, if there is one."""
    config = file.parent / CONFIG_FILE
    if not config.is_file():
        return _OpenClipWeights(file)
    raw = read_json(config)
    try:
        model = raw["model_cfg"]
        vit = is_vit(model["vision_cfg"])
        quick_gelu = bool(model.get("quick_gelu", False)) if vit else None
        return _OpenClipWeights(file, dict(raw["preprocess_cfg"]), quick_gelu)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"expected model_cfg with vision_cfg, and preprocess_cfg, in {config}, got "
            f"{type(error).__name__}: {error}. Save or download the checkpoint again."
        ) from error


@functools.cache
def _converted(source: Path, stamp: tuple[tuple[int, int], ...]) -> _OpenClipWeights:  # noqa: ARG001
    """Write another format's weights where this process can read them; ``stamp`` is its state."""
    checkpoint = load_checkpoint(source)
    config, weights = checkpoint.config, checkpoint.model.state_dict()
    file = Path(tempfile.mkdtemp(dir=_scratch())) / WEIGHTS_FILE
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    quick_gelu = config.quick_gelu if is_vit(config.vision) else None
    return _OpenClipWeights(file, preprocess_cfg(checkpoint.preprocessing), quick_gelu)


@functools.cache
def _scratch() -> str:
    folder = tempfile.mkdtemp(prefix="clip-text-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Register, then run a module as ``python -m`` does.

    Args:
        arguments: The module and what it is to find in ``sys.argv``; those of this process by
            default.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0].startswith("-"):
        raise SystemExit("usage: python -m clip_text.plugin MODULE [ARGUMENT]...")
    register_with_open_clip()
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    from clip_text.plugin import main as run  # the classes belong to the module, not to __main__

    run()
