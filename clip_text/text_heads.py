"""What the heads of an Encoder say of texts: classes, entities, answers, sameness of pairs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np

from clip_text.lengths import check_batch_size
from clip_text.runtimes import Features
from clip_text.tokenizer.tokenizer import check_texts
from clip_text.vectors import truncate

if TYPE_CHECKING:  # an exported model runs where none of these can be imported
    from open_clip import CustomTextCLIP
    from torch import Tensor

    from clip_text.data.tags import Entity
    from clip_text.heads import Head
    from clip_text.heads.answers import Answer
    from clip_text.heads.classification import Classification
    from clip_text.heads.pairs import Pair

P = ParamSpec("P")
R = TypeVar("R")


def _on_towers(
    method: "Callable[Concatenate[TextHeads, P], R]",
) -> "Callable[Concatenate[TextHeads, P], R]":
    """Run a method that needs the towers as modules, without gradients."""

    @wraps(method)
    def call(self: "TextHeads", /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.require_weights()
        import torch

        with torch.inference_mode():
            return method(self, *args, **kwargs)

    return call


class TextHeads(ABC):
    """The half of an Encoder that reads texts by its heads; an exported model has none.

    Args:
        heads: Heads of all tasks, by name.
        has_own_rows: Whether :meth:`encode_text` gives rows that no pass of the modules gives.
    """

    heads: "Mapping[str, Head]"
    has_own_rows: bool

    @property
    @abstractmethod
    def embed_dim(self) -> int: ...  # noqa: D102  (Encoder's own)

    @property
    @abstractmethod
    def model(self) -> "CustomTextCLIP": ...  # noqa: D102

    @abstractmethod
    def require_weights(self) -> None: ...  # noqa: D102

    @abstractmethod
    def encode_text(  # noqa: D102
        self, texts: Sequence[str], batch_size: int = 256, *, dimensions: int | None = None
    ) -> Features: ...

    @abstractmethod
    def token_batches(  # noqa: D102
        self, texts: Sequence[str], batch_size: int = 256, context_length: int | None = None
    ) -> "Iterator[tuple[list[int], Tensor]]": ...

    @_on_towers
    def classify(
        self,
        texts: Sequence[str],
        head: str | None = None,
        top_k: int | None = None,
        batch_size: int = 256,
    ) -> "list[Classification]":
        """Say which labels texts have, by a classification head of the model.

        Args:
            texts: Any number of texts; read as :meth:`encode_text` does, but that a head with a
                backbone of its own cuts them where that one does.
            head: Name of the head; may be left out where the model has one.
            top_k: How many labels to give of each, the likeliest first; all if None.
            batch_size: Texts per forward pass.

        Returns:
            For each text its labels with calibrated probabilities.

        Raises:
            TypeError: If ``texts`` is one string, or holds something else than strings.
            ValueError: If there is no such head, or a number is below 1.
        """
        import torch

        from clip_text.checkpoints.heads import choose_head
        from clip_text.heads.classification import ClassificationHead, rank

        check_batch_size(batch_size)
        texts = check_texts(texts)
        chosen = choose_head(self.heads, ClassificationHead, head)
        length = chosen.tower.context_length if chosen.tower else None
        logits = torch.empty((len(texts), len(chosen.config.labels)))
        for batch, tokens in self.token_batches(texts, batch_size, length):
            logits[batch] = chosen.logits(self.model.text, tokens).float().cpu()
        return rank(chosen.probabilities(logits), chosen.config, top_k)

    @_on_towers
    def encode_and_classify(
        self,
        texts: Sequence[str],
        head: str | None = None,
        top_k: int | None = None,
        batch_size: int = 256,
    ) -> "tuple[Features, list[Classification]]":
        """Give the rows of :meth:`encode_text` and the labels of :meth:`classify` at once.

        One pass of the backbone serves both, unless the head has a backbone of its own
        (``--train copy``) or rows are computed in int8: that costs a second one.

        Args:
            texts: Any number of texts.
            head: Name of the classification head; may be left out where the model has one.
            top_k: How many labels to give of each text, the likeliest first; all if None.
            batch_size: Texts per forward pass; the rows don't depend on it.

        Returns:
            Unit rows, float32 [n, embed_dim], and for each text its labels.

        Raises:
            TypeError: As :meth:`classify`.
            ValueError: As :meth:`classify`.
        """
        import torch

        from clip_text.checkpoints.heads import choose_head
        from clip_text.heads.classification import ClassificationHead, rank
        from clip_text.runtimes.torch_runtime import unit_rows
        from clip_text.towers import POOLERS, TextTower

        check_batch_size(batch_size)
        texts = check_texts(texts)
        chosen = choose_head(self.heads, ClassificationHead, head)
        if chosen.tower is not None or self.has_own_rows:
            return self.encode_text(texts, batch_size), self.classify(
                texts, head, top_k, batch_size
            )
        tower = self.model.text
        assert isinstance(tower, TextTower)
        rows = np.empty((len(texts), self.embed_dim), np.float32)
        logits = torch.empty((len(texts), len(chosen.config.labels)))
        for batch, tokens in self.token_batches(texts, batch_size):
            states, mask = tower.states(tokens)
            whole = unit_rows(tower.proj(POOLERS[tower.pooler](states, mask)))
            rows[batch] = truncate(whole, self.embed_dim)
            logits[batch] = chosen(chosen.pool(states, mask)).float().cpu()
        return rows, rank(chosen.probabilities(logits), chosen.config, top_k)

    @_on_towers
    def entities(
        self, texts: Sequence[str], head: str | None = None, batch_size: int = 64
    ) -> "list[list[Entity]]":
        """Find the named entities of texts, by a head of the model for entities.

        Args:
            texts: Any number of texts of any length; they are read whole, by windows.
            head: Name of the head; may be left out where the model has one for entities.
            batch_size: Windows per forward pass; what is found doesn't depend on it.

        Returns:
            For each text its entities, in order.

        Raises:
            TypeError: If ``texts`` is one string, or holds something else than strings.
            ValueError: If there is no such head, or ``batch_size`` is below 1.
        """
        from clip_text.checkpoints.heads import choose_head
        from clip_text.heads.entities import EntityRecognizer

        chosen = choose_head(self.heads, EntityRecognizer, head)
        return chosen.entities(texts, batch_size)

    def answer(self, question: str, passage: str, head: str | None = None) -> "Answer | None":
        """Find the answer to a question, None if there is none; see :meth:`answers`."""
        return self.answers([question], [passage], head)[0]

    @_on_towers
    def answers(
        self,
        questions: Sequence[str],
        passages: Sequence[str],
        head: str | None = None,
        batch_size: int = 64,
    ) -> "list[Answer | None]":
        """Find the answer to each question in its passage, by a head of the model for answers.

        Args:
            questions: Any number of texts.
            passages: One for each, of any length; they are read whole, by windows.
            head: Name of the head; may be left out where the model has one for answers.
            batch_size: Windows per forward pass; the answers don't depend on it.

        Returns:
            For each question its answer, None where the passage has none.

        Raises:
            TypeError: If one of them is one string, or holds something else than strings.
            ValueError: If there is no such head, there are not as many passages as questions, or
                ``batch_size`` is below 1.
        """
        from clip_text.checkpoints.heads import choose_head
        from clip_text.heads.answers import AnswerFinder

        chosen = choose_head(self.heads, AnswerFinder, head)
        return chosen.answers(questions, passages, batch_size)

    @_on_towers
    def classify_pairs(
        self,
        pairs: "Sequence[Pair]",
        head: str | None = None,
        top_k: int | None = None,
        batch_size: int = 64,
    ) -> "list[Classification]":
        """Say which label pairs of texts have, by a head of the model for pairs.

        Args:
            pairs: Any number of pairs of texts; where both don't fit into the head's context, the
                end of the longer one is cut first.
            head: Name of the head; may be left out where the model has one for pairs.
            top_k: How many labels to give of each, the likeliest first; all if None.
            batch_size: Pairs per forward pass; the labels don't depend on it.

        Returns:
            For each pair its labels with calibrated probabilities.

        Raises:
            TypeError: If one is no pair of strings.
            ValueError: If there is no such head, or a number is below 1.
        """
        from clip_text.checkpoints.heads import choose_head
        from clip_text.heads.pairs import PairClassifier

        return choose_head(self.heads, PairClassifier, head).classify(pairs, top_k, batch_size)
