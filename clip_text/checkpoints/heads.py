"""How heads lie in a checkpoint's folder, beside the towers, and which tasks there are.

heads/NAME/head.json          task, labels, form, calibration; digest of the backbone it reads
heads/NAME/head.safetensors   weights, its own backbone's among them if it has one
heads/NAME/config.json        configuration of that backbone, as transformers.AutoConfig reads it
heads/NAME/tokenizer.json, …  a tokenizer with its contract, for heads over tokens

A head for classification reads the towers' backbone or has one of its own; one over tokens always
brings the backbone it was trained with, and its tokenizer.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from clip_text.checkpoints.files import read_json, read_state, write_weights
from clip_text.checkpoints.parts import BROKEN, incomplete, load_weights, stored
from clip_text.checkpoints.places import resolve
from clip_text.errors import CheckpointError
from clip_text.heads import answers, entities
from clip_text.heads.answers import AnswerFinder, AnswerHead
from clip_text.heads.classification import ClassificationHead, HeadConfig, own_tower
from clip_text.heads.entities import EntityHead, EntityRecognizer, bio_labels
from clip_text.heads.token_heads import TokenHead, bare_tower
from clip_text.storage import partial_folder, write_json
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TextTower

TokenReader = EntityRecognizer | AnswerFinder
"""A head over tokens, with all that it takes to read texts."""

FOLDER = "heads"
CONFIG, WEIGHTS = "head.json", "head.safetensors"
TASK = "classification"
PARTIAL = ".partial"
"""How the name of a folder ends while it is written."""


def save_heads(
    heads: Mapping[str, ClassificationHead], tower: TextTower, folder: Path, dtype: torch.dtype
) -> None:
    """Write heads into a checkpoint's folder.

    Args:
        heads: By name.
        tower: That of the checkpoint.
        folder: The checkpoint's, which exists.
        dtype: Of the stored floating-point weights, the tower's too.

    Raises:
        CheckpointError: If a name is no name of a folder.
    """
    shared = backbone_digest(tower, dtype) if heads else ""
    for name, head in heads.items():
        check_name(name)
        place = head_folder(folder, name)
        place.mkdir(parents=True)
        about = {"task": TASK, **asdict(head.config), "width": head.width}
        about |= {"backbone": "own" if head.tower else shared}
        if head.tower:
            about["context_length"] = head.tower.context_length
            head.tower.config.save_pretrained(place)
        write_json(place / CONFIG, about)
        weights = stored(head.state_dict(), dtype)
        weights["temperature"] = head.temperature.detach().cpu()
        write_weights(weights, place / WEIGHTS)


def load_heads(folder: Path, tower: TextTower) -> dict[str, ClassificationHead]:
    """Read the heads of a checkpoint's folder; none if it has none.

    Heads of a task that this version does not know are passed over.

    Raises:
        CheckpointError: If one is damaged, or belongs to another backbone than ``tower``'s.
    """
    found: dict[str, ClassificationHead] = {}
    digest = ""
    for place, about in heads_in(folder):
        if about.get("task") != TASK:
            continue
        try:
            head = _build(place, about)
        except BROKEN as error:
            raise incomplete(place, error) from error
        load_weights(head, read_state(place / WEIGHTS).weights, place / WEIGHTS)
        if head.tower is None:
            digest = digest or backbone_digest(tower)
            if about["backbone"] != digest:
                raise CheckpointError(
                    f"expected a head trained on this model's backbone in {place}, got one "
                    f"of another ({about['backbone']}, not {digest}). Delete the folder, or train "
                    "the head anew."
                )
        found[place.name] = head.eval()
    return found


def heads_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Find the heads of a checkpoint's folder: the folder of each, and what head.json says.

    Raises:
        CheckpointError: If one is damaged.
    """
    places = sorted((folder / FOLDER).glob(f"*/{CONFIG}"))
    # what a process that was killed left half written is no head
    return [(each.parent, read_json(each)) for each in places if each.parent.suffix != PARTIAL]


def head_folder(folder: Path, name: str) -> Path:
    """Where a head of a name lies in a checkpoint's folder."""
    return folder / FOLDER / name


def drop_readers_of_another(folder: Path, tower: TextTower, dtype: torch.dtype) -> None:
    """Delete heads in a checkpoint's folder that read the states of another text tower.

    They would be refused with the one that was just written there. Others stay.
    """
    shared = [
        (place, about)
        for place, about in heads_in(folder)
        if about.get("task") == TASK and about.get("backbone") != "own"
    ]
    if not shared:
        return
    ours = backbone_digest(tower, dtype)
    for place, about in shared:
        if about.get("backbone") != ours:
            shutil.rmtree(place)


def check_name(name: str) -> None:
    """Refuse a head's name that cannot name a folder.

    Raises:
        CheckpointError: If it is empty, starts with a dot, holds a separator, or names a folder
            that is being written.
    """
    wrong = name.startswith(".") or name.endswith(PARTIAL) or "\\" in name
    if not name or wrong or name != Path(name).name:
        raise CheckpointError(
            f"expected a head's name that can name a folder, got {name!r}. Use letters and digits."
        )


def backbone_digest(tower: TextTower, dtype: torch.dtype = torch.float32) -> str:
    """Digest of a backbone's weights as they will be read after being stored in ``dtype``."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(stored(tower.transformer.state_dict(), dtype).items()):
        digest.update(name.encode())
        exact = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(exact.numpy().tobytes())
    return digest.hexdigest()


def _build(place: Path, about: Mapping[str, object]) -> ClassificationHead:
    names = ("multi_label", "pooler", "form", "dropout", "threshold")
    labels = tuple(str(label) for label in cast(list[object], about["labels"]))
    config = HeadConfig(labels=labels, **{name: about[name] for name in names})  # type: ignore[arg-type]
    width, tower = int(cast(int, about["width"])), None
    if about["backbone"] == "own":
        backbone = cast(PreTrainedConfig, AutoConfig.from_pretrained(place, local_files_only=True))
        length = int(cast(int, about["context_length"]))
        tower = own_tower(backbone, width, config, length)
    return ClassificationHead(config, width, tower)


@dataclass(frozen=True, slots=True)
class TokenTask:
    """One task of heads over tokens, as files know it.

    Args:
        name: As head.json says it.
        kind: Class of what reads texts.
        about: Gives what head.json says of one, beside task, backbone and context.
        build: Makes one of an empty tower, a tokenizer and what head.json says; its weights are
            filled in afterwards. It raises TypeError where head.json does not say enough.
    """

    name: str
    kind: type[TokenReader]
    about: Callable[[Any], dict[str, Any]]
    build: Callable[[TextTower, Tokenizer, Mapping[str, Any]], TokenReader]


def _build_entities(
    tower: TextTower, tokenizer: Tokenizer, about: Mapping[str, Any]
) -> EntityRecognizer:
    types, overlap = about.get("types"), about.get("overlap")
    if not isinstance(types, list) or not isinstance(overlap, int):
        raise TypeError("types and overlap")
    head = EntityHead(tower, len(bio_labels(types)))
    return EntityRecognizer(head, tokenizer, tuple(types), overlap)


def _build_answers(
    tower: TextTower, tokenizer: Tokenizer, about: Mapping[str, Any]
) -> AnswerFinder:
    overlap, longest, threshold = (about.get(key) for key in ("overlap", "longest", "threshold"))
    if (
        not isinstance(overlap, int)
        or not isinstance(longest, int)
        or not isinstance(threshold, float | None)
    ):
        raise TypeError("overlap, longest and threshold")
    return AnswerFinder(AnswerHead(tower, 2), tokenizer, overlap, longest, threshold)


TOKEN_TASKS = {
    task.name: task
    for task in (
        TokenTask(
            entities.TASK,
            EntityRecognizer,
            lambda reader: {"types": list(reader.types), "overlap": reader.overlap},
            _build_entities,
        ),
        TokenTask(
            answers.TASK,
            AnswerFinder,
            lambda reader: {
                name: getattr(reader, name) for name in ("overlap", "longest", "threshold")
            },
            _build_answers,
        ),
    )
}
"""The table of tasks of heads over tokens, by the name that head.json says."""


def save_token_heads(
    heads: Mapping[str, TokenReader], folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write heads over tokens beside the towers of a checkpoint's folder, or into a new one.

    Args:
        heads: By name; one of that name is replaced, whatever its task.
        folder: The checkpoint's.
        dtype: Of the stored floating-point weights.

    Raises:
        CheckpointError: If a name is no name of a folder, or a weight too large for the type.
    """
    for name, reader in heads.items():
        check_name(name)
        (task,) = [each for each in TOKEN_TASKS.values() if isinstance(reader, each.kind)]
        about = {"task": task.name, **task.about(reader)}
        save_parts(reader.head, reader.tokenizer, about, head_folder(folder, name), dtype)


def load_token_heads(folder: Path) -> dict[str, TokenReader]:
    """Read the heads over tokens of a checkpoint's folder; none if it has none.

    Heads of other tasks are passed over.

    Raises:
        CheckpointError: If one is damaged.
    """
    return {
        place.name: _load_reader(place, TOKEN_TASKS[str(about["task"])])
        for place, about in heads_in(folder)
        if str(about.get("task")) in TOKEN_TASKS
    }


def load_entities(
    folder: str | Path, name: str | None = None, device: str | torch.device = "cpu"
) -> EntityRecognizer:
    """Read a head for entities.

    Args:
        folder: A checkpoint's folder, or the head's own.
        name: Of the head, if the checkpoint has several for entities.
        device: Where to compute.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    return cast(EntityRecognizer, _load_named(folder, entities.TASK, name, device))


def load_answers(
    folder: str | Path, name: str | None = None, device: str | torch.device = "cpu"
) -> AnswerFinder:
    """Read a head for answers.

    Args:
        folder: A checkpoint's folder, or the head's own.
        name: Of the head, if the checkpoint has several for answers.
        device: Where to compute.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    return cast(AnswerFinder, _load_named(folder, answers.TASK, name, device))


def _load_named(
    folder: str | Path, task: str, name: str | None, device: str | torch.device
) -> TokenReader:
    reader = _load_reader(find_head(folder, task, name), TOKEN_TASKS[task])
    reader.head.to(device)
    return reader


def _load_reader(place: Path, task: TokenTask) -> TokenReader:
    tower, weights, tokenizer, about = read_parts(place)
    try:
        reader = task.build(tower, tokenizer, about)
    except TypeError as error:
        raise CheckpointError(
            f"expected {error} in {place / CONFIG}, got {sorted(about)}. Train the head again."
        ) from error
    fill(reader.head, weights, place)
    return reader


def save_parts(
    head: TokenHead,
    tokenizer: Tokenizer,
    about: Mapping[str, Any],
    folder: Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a head with its backbone and tokenizer into a folder, whole or not at all."""
    with partial_folder(folder) as partial:
        tokenizer.save(partial)
        head.tower.config.save_pretrained(partial)
        own = {"backbone": "own", "context_length": tokenizer.context_length}
        write_json(partial / CONFIG, {**about, **own})
        write_weights(stored(head.state_dict(), dtype), partial / WEIGHTS)


def read_parts(folder: Path) -> tuple[TextTower, dict[str, Tensor], Tokenizer, dict[str, Any]]:
    """Read what :func:`save_parts` wrote: an empty tower, all weights, tokenizer and head.json.

    Raises:
        CheckpointError: If something is missing or damaged.
    """
    about = read_json(folder / CONFIG)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        length = int(about["context_length"])
        tower = bare_tower(cast(PreTrainedConfig, config), length)
        tokenizer = Tokenizer.from_folder(folder, length)
    except BROKEN as error:
        raise incomplete(folder, error) from error
    return tower, read_state(folder / WEIGHTS).weights, tokenizer, about


def fill(head: TokenHead, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Copy weights that :func:`read_parts` gave into a head.

    Raises:
        CheckpointError: If they do not fit.
    """
    load_weights(head, weights, folder / WEIGHTS)
    head.eval()


def find_head(folder: str | Path, task: str, name: str | None = None) -> Path:
    """Find a head of a task: its own folder, or one beside the towers in a checkpoint's folder.

    Args:
        folder: A checkpoint's folder, or a head's.
        task: As head.json names it.
        name: Of the head, where the checkpoint has several of the task.

    Raises:
        CheckpointError: If there is none, or several and no name.
    """
    place = resolve(folder)
    own = place / CONFIG
    heads = [(place, read_json(own))] if own.is_file() else heads_in(place)
    found = [
        each for each, about in heads if about.get("task") == task and name in (None, each.name)
    ]
    if len(found) != 1:
        names = ", ".join(each.name for each in found) or "none"
        raise CheckpointError(
            f"expected one head of task {task} in {place}, got {names}. "
            + ("Name one of them." if found else "Train one first, or name another folder.")
        )
    return found[0]
