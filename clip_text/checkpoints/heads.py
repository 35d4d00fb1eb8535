"""Heads of a model: the table of tasks, and how they are chosen, saved, loaded and exported by it.

heads/NAME/head.json          task, labels, form, …; digest of the backbone it reads
heads/NAME/head.safetensors   weights, its own backbone's among them if it has one
heads/NAME/config.json        configuration of that backbone, as transformers.AutoConfig reads it
heads/NAME/tokenizer.json, …  a tokenizer with its contract, for heads that stand alone

A head for classification reads the towers' backbone or has one of its own; all others stand alone:
they bring the backbone they were trained with, and its tokenizer.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from clip_text.checkpoints.export import (
    question_answerer,
    sequence_classifier,
    token_classifier,
    write_exported,
)
from clip_text.checkpoints.files import read_json, read_state, write_weights
from clip_text.checkpoints.parts import BROKEN, Checkpoint, incomplete
from clip_text.checkpoints.places import resolve
from clip_text.checkpoints.weights import load_weights, stored
from clip_text.errors import CheckpointError
from clip_text.heads import ClassificationHead, Head, StandaloneHead
from clip_text.heads.answers import AnswerFinder
from clip_text.heads.entities import EntityRecognizer
from clip_text.heads.pairs import PairClassifier
from clip_text.heads.standalone import bare_tower
from clip_text.storage import check_new, partial_folder, write_json
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TextTower

AnyHead = TypeVar("AnyHead", bound=Head)
Alone = TypeVar("Alone", bound=StandaloneHead[torch.nn.Module])

FOLDER = "heads"
CONFIG, WEIGHTS = "head.json", "head.safetensors"
PARTIAL = ".partial"
"""How the name of a folder ends while it is written."""


@dataclass(frozen=True, slots=True)
class Task(Generic[AnyHead]):
    """What the house knows of a task, beside what its class says.

    Args:
        kind: Class of its heads: it knows the task's name, says what head.json is to hold, and
            builds a head of that.
        command: Of ``clip-text train``, which trains one.
        to_transformers: Gives transformers' own model for the task, of a backbone and a head.
    """

    kind: type[AnyHead]
    command: str
    to_transformers: Callable[[TextTower, AnyHead], PreTrainedModel]


TASKS: dict[str, Task[Any]] = {
    task.kind.task: task
    for task in (
        Task(ClassificationHead, "classifier", sequence_classifier),
        Task(EntityRecognizer, "ner", token_classifier),
        Task(AnswerFinder, "qa", question_answerer),
        Task(PairClassifier, "pairs", lambda tower, head: sequence_classifier(tower, head.head)),
    )
}
"""The table of tasks, by the name that head.json says."""


def heads_for(heads: Mapping[str, Head], kind: type[AnyHead]) -> dict[str, AnyHead]:
    """Give the heads of one kind, by name, in their order."""
    return {name: head for name, head in heads.items() if isinstance(head, kind)}


def choose_head(heads: Mapping[str, Head], kind: type[AnyHead], name: str | None) -> AnyHead:
    """Find a model's head of a kind by name; the only one of the kind if none is named.

    Args:
        heads: The model's, by name.
        kind: Class of the head.
        name: Its name, if given.

    Raises:
        ValueError: If there is none of the kind, none of that name, or several and no name.
    """
    fitting = heads_for(heads, kind)
    got = repr(name)
    if name is not None and name in heads and name not in fitting:
        got += f", a head for {heads[name].task}"
    if not fitting:
        raise ValueError(
            f"expected a model with a head for {kind.task}, got "
            f"{'one without' if name is None else got}. "
            f"Train one: clip-text train {TASKS[kind.task].command} DATA --out FOLDER."
        )
    if name is None and len(fitting) == 1:
        name = next(iter(fitting))
    if name is None or name not in fitting:
        raise ValueError(
            f"expected one of the heads for {kind.task} ({', '.join(fitting)}), got {got}. "
            "Name one: head=…"
        )
    return fitting[name]


def save_heads(
    heads: Mapping[str, Head],
    folder: Path,
    dtype: torch.dtype = torch.float32,
    tower: TextTower | None = None,
) -> None:
    """Write heads beside the towers of a checkpoint's folder, or into a new one.

    Each appears whole or not at all.

    Args:
        heads: By name; one of that name is replaced, whatever its task.
        folder: The checkpoint's.
        dtype: Of the stored floating-point weights, the tower's too.
        tower: That of the checkpoint, for heads that have none of their own.

    Raises:
        CheckpointError: If a name is no name of a folder, a weight is too large for the type, or
            a head reads a tower and none was given.
    """
    shared = ""
    for name, head in heads.items():
        check_name(name)
        if head.tower is None and tower is None:
            raise CheckpointError(
                f"expected a head with a backbone of its own, got {name!r}, which reads the text "
                "tower's. Save it with its checkpoint."
            )
        with partial_folder(head_folder(folder, name)) as partial:
            about = {"task": head.task, **head.about()}
            if head.tower is None:
                shared = shared or backbone_digest(cast(TextTower, tower), dtype)
                about["backbone"] = shared
            else:
                about |= {"backbone": "own", "context_length": head.tower.context_length}
                head.tower.config.save_pretrained(partial)
            if isinstance(head, StandaloneHead):
                about["context_length"] = head.tokenizer.context_length
                head.tokenizer.save(partial)
            write_json(partial / CONFIG, about)
            write_weights(stored(head.module.state_dict(), dtype), partial / WEIGHTS)


def load_heads(folder: Path, tower: TextTower) -> dict[str, Head]:
    """Read the heads of a checkpoint's folder; none if it has none.

    Heads of a task that this version does not know are passed over.

    Args:
        folder: The checkpoint's.
        tower: That of the checkpoint.

    Raises:
        CheckpointError: If one is damaged, or belongs to another backbone than ``tower``'s.
    """
    heads: dict[str, Head] = {}
    digest = ""
    for place, about in heads_in(folder):
        if str(about.get("task")) not in TASKS:
            continue
        head = read_head(place, about)
        if head.tower is None:
            digest = digest or backbone_digest(tower)
            if about["backbone"] != digest:
                raise CheckpointError(
                    f"expected a head trained on this model's backbone in {place}, got one "
                    f"of another ({about['backbone']}, not {digest}). Delete the folder, or train "
                    "the head anew."
                )
        heads[place.name] = head
    return heads


def read_head(place: Path, about: Mapping[str, Any] | None = None) -> Head:
    """Read one head, in evaluation mode.

    Args:
        place: Its folder.
        about: What its head.json says, if that was read before.

    Raises:
        CheckpointError: If something is missing or damaged, or the task unknown.
    """
    about = read_json(place / CONFIG) if about is None else about
    task = TASKS.get(str(about.get("task")))
    if task is None:
        raise CheckpointError(
            f"expected a head for {', '.join(TASKS)} in {place}, got one for "
            f"{about.get('task')!r}. Update clip-text, or name another head."
        )
    try:
        head = _build(place, task.kind, about)
    except BROKEN as error:
        raise incomplete(place, error) from error
    load_weights(head.module, read_state(place / WEIGHTS).weights, place / WEIGHTS)
    head.module.eval()
    return head


def _build(place: Path, kind: type[Head], about: Mapping[str, Any]) -> Head:
    alone = issubclass(kind, StandaloneHead)
    tower = None
    if alone or about["backbone"] == "own":
        config = cast(PreTrainedConfig, AutoConfig.from_pretrained(place, local_files_only=True))
        tower = bare_tower(config, int(about["context_length"]), about.get("pooler", "cls"))
    if not issubclass(kind, StandaloneHead):
        return kind.build(about, tower)
    assert tower is not None
    return kind.build(about, tower, Tokenizer.from_folder(place, tower.context_length))


def load_head(
    folder: str | Path,
    kind: type[Alone],
    name: str | None = None,
    device: str | torch.device = "cpu",
) -> Alone:
    """Read a head that stands alone, without the towers it lies beside.

    Args:
        folder: A checkpoint's folder, or the head's own.
        kind: Class of the head.
        name: Of the head, if the checkpoint has several of the kind.
        device: Where to compute.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    head = cast(Alone, read_head(find_head(folder, kind.task, name)))
    head.module.to(device)
    return head


def load_entities(
    folder: str | Path, name: str | None = None, device: str | torch.device = "cpu"
) -> EntityRecognizer:
    """Read a head for entities; see :func:`load_head`."""
    return load_head(folder, EntityRecognizer, name, device)


def load_answers(
    folder: str | Path, name: str | None = None, device: str | torch.device = "cpu"
) -> AnswerFinder:
    """Read a head for answers; see :func:`load_head`."""
    return load_head(folder, AnswerFinder, name, device)


def export_head(head: Head, folder: Path, checkpoint: Checkpoint | None = None) -> None:
    """Write a head and its backbone as a folder of transformers' own class for its task.

    Args:
        head: Of any task; one for classification with pooler ``cls``.
        folder: Created with its parents; must not exist yet.
        checkpoint: What the head belongs to. Heads that stand alone need none.

    Raises:
        CheckpointError: If their class has no such form (another pooler than ``cls``, a backbone
            of another family, other tensors), or the tokeniser contract is open_clip's.
        FileExistsError: If the folder exists.
        ValueError: If the head needs its checkpoint, and none was given.
    """
    check_new(folder)
    if isinstance(head, StandaloneHead):
        tower, tokenizer = head.tower, head.tokenizer
    elif checkpoint is None:
        raise ValueError(
            f"expected the checkpoint of a head for {head.task}, whose tokenizer reads its texts, "
            "got none. Give it: export_head(head, folder, checkpoint)."
        )
    else:
        tower, tokenizer = head.tower or checkpoint.model.text, checkpoint.tokenizer
    model = TASKS[head.task].to_transformers(tower, head)
    write_exported(model, tokenizer, tower.context_length, folder)


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
    fitting = [
        head for head, about in heads if about.get("task") == task and name in (None, head.name)
    ]
    if len(fitting) != 1:
        names = ", ".join(head.name for head in fitting) or "none"
        raise CheckpointError(
            f"expected one head of task {task} in {place}, got {names}. "
            + ("Name one of them." if fitting else "Train one first, or name another folder.")
        )
    return fitting[0]


def heads_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Find the heads of a checkpoint's folder: the folder of each, and what head.json says.

    Raises:
        CheckpointError: If one is damaged.
    """
    files = sorted((folder / FOLDER).glob(f"*/{CONFIG}"))
    # what a process that was killed left half written is no head
    return [(file.parent, read_json(file)) for file in files if file.parent.suffix != PARTIAL]


def head_folder(folder: Path, name: str) -> Path:
    """Where a head of a name lies in a checkpoint's folder."""
    return folder / FOLDER / name


def drop_readers_of_another(folder: Path, tower: TextTower, dtype: torch.dtype) -> None:
    """Delete heads in a checkpoint's folder that read the states of another text tower.

    They would be refused with the one that was just written there. Others stay.

    Args:
        folder: The checkpoint's.
        tower: The one that was written.
        dtype: In which its weights were stored.
    """
    shared = [
        (place, about)
        for place, about in heads_in(folder)
        if about.get("task") == ClassificationHead.task and about.get("backbone") != "own"
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
