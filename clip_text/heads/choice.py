"""Heads of a model chosen by task and name."""

from collections.abc import Mapping
from typing import TypeVar

from clip_text.heads import answers, entities
from clip_text.heads.answers import AnswerFinder
from clip_text.heads.classification import ClassificationHead
from clip_text.heads.entities import EntityRecognizer

Reader = TypeVar("Reader", EntityRecognizer, AnswerFinder)

_TASKS = {EntityRecognizer: (entities.TASK, "ner"), AnswerFinder: (answers.TASK, "qa")}
"""What each is for, and the command that trains it."""


def choose_head(
    heads: Mapping[str, ClassificationHead], name: str | None
) -> tuple[str, ClassificationHead]:
    """Find a model's head by name; the only one if none is named.

    Raises:
        ValueError: If there is none, none of that name, or several and no name.
    """
    if not heads:
        raise ValueError(
            "expected a model with a classification head, got one without. "
            "Train one: clip-text train classifier DATA --out FOLDER."
        )
    if name is None and len(heads) == 1:
        name = next(iter(heads))
    if name is None or name not in heads:
        raise ValueError(
            f"expected one of the heads {', '.join(heads)}, got {name!r}. Name one: head=…"
        )
    return name, heads[name]


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
