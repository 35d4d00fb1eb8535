"""Heads over tokens, by task: read and written with a checkpoint, chosen by task and name.

========  ==========================  ====================
entities  :class:`.EntityRecognizer`  ``clip-text train ner``
answers   :class:`.AnswerFinder`      ``clip-text train qa``
========  ==========================  ====================
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from clip_text.heads import answers, entities
from clip_text.heads.answers import AnswerFinder, load_answers
from clip_text.heads.entities import EntityRecognizer, load_entities
from clip_text.heads.files import check_name, heads_in

Reader = TypeVar("Reader", EntityRecognizer, AnswerFinder)

_LOAD: dict[str, Callable[[Path], EntityRecognizer | AnswerFinder]] = {
    entities.TASK: load_entities,
    answers.TASK: load_answers,
}
_TASKS = {EntityRecognizer: (entities.TASK, "ner"), AnswerFinder: (answers.TASK, "qa")}
"""What each is for, and the command that trains it."""


def load_token_heads(folder: Path) -> dict[str, EntityRecognizer | AnswerFinder]:
    """Read the heads over tokens of a checkpoint's folder; none if it has none.

    Heads of other tasks are passed over.

    Raises:
        CheckpointError: If one is damaged.
    """
    found: dict[str, EntityRecognizer | AnswerFinder] = {}
    for place, about in heads_in(folder):
        load = _LOAD.get(str(about.get("task")))
        if load is not None:
            found[place.name] = load(place)
    return found


def save_token_heads(
    heads: Mapping[str, EntityRecognizer | AnswerFinder], folder: Path, dtype: torch.dtype
) -> None:
    """Write heads over tokens into a checkpoint's folder.

    Args:
        heads: By name.
        folder: The checkpoint's.
        dtype: Of the stored floating-point weights.

    Raises:
        CheckpointError: If a name is no name of a folder, or a weight too large for the type.
    """
    for name, head in heads.items():
        check_name(name)
        head.save(folder, name, dtype)


def choose_token_head(
    heads: Mapping[str, EntityRecognizer | AnswerFinder], kind: type[Reader], name: str | None
) -> Reader:
    """Find a model's head of a kind by name; the only one of the kind if none is named.

    Raises:
        ValueError: If there is none of the kind, none of that name, or several and no name.
    """
    fitting = {known: head for known, head in heads.items() if isinstance(head, kind)}
    task, command = _TASKS[kind]
    got = repr(name)
    if name is not None and name in heads and name not in fitting:
        got += f", a head for {_TASKS[type(heads[name])][0]}"
    if not fitting:
        raise ValueError(
            f"expected a model with a head for {task}, got "
            f"{'one without' if name is None else got}. "
            f"Train one: clip-text train {command} DATA --out FOLDER."
        )
    if name is None and len(fitting) == 1:
        name = next(iter(fitting))
    if name is None or name not in fitting:
        raise ValueError(
            f"expected one of the heads for {task} ({', '.join(fitting)}), got {got}. "
            "Name one: head=…"
        )
    return fitting[name]
