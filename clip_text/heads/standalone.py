"""Heads that stand alone: each with a backbone of its own, and the tokenizer that it reads by."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from torch import nn
from transformers import PreTrainedConfig

from clip_text.tokenizer import Tokenizer
from clip_text.towers import TextTower

Module_co = TypeVar("Module_co", bound=nn.Module, covariant=True)


@dataclass(frozen=True, slots=True)
class StandaloneHead(ABC, Generic[Module_co]):
    """A head with all that it takes to read texts, with or without the towers it lies beside.

    Args:
        head: Backbone and head, whose ``tower`` is the backbone.
        tokenizer: Gives the tokens that the backbone was trained on; its context_length is that
            of a window, or of a pair.
    """

    task: ClassVar[str]
    """As head.json says it."""

    head: Module_co
    tokenizer: Tokenizer

    @property
    def module(self) -> nn.Module:
        """Hold all weights."""
        return self.head

    @property
    def tower(self) -> TextTower:
        """Hold the backbone."""
        return cast(TextTower, self.head.tower)

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Say what it takes to build the head, but for task, backbone and context: JSON."""

    @classmethod
    @abstractmethod
    def build(cls, about: Mapping[str, Any], tower: TextTower, tokenizer: Tokenizer) -> Self:
        """Make a head of random weights.

        Args:
            about: Settings of the head, as :meth:`about` wrote them.
            tower: Text tower that is the head's own backbone.
            tokenizer: Tokenizer that the backbone reads with.

        Raises:
            KeyError: If something is missing from ``about``.
            TypeError: If something is of another type.
            ValueError: If something is out of range.
        """


def bare_tower(config: PreTrainedConfig, context_length: int, pooler: str = "cls") -> TextTower:
    """Make a text tower of random weights without projection, for a head of its own.

    Args:
        config: Settings of the backbone, as its ``config.json`` has them.
        context_length: Longest row of tokens, special ones included.
        pooler: How a head reads token states: ``cls``, ``mean`` or ``max``.
    """
    return TextTower(config, int(config.hidden_size), pooler, "none", context_length)
