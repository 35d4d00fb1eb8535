"""What works on the texts and pictures that are to be embedded or classified."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from retrieval.protocols import Encoder, Feature
from retrieval.service.batching import Batcher
from retrieval.service.embedding import (
    Classify,
    CountTokens,
    Labelled,
    Labelling,
    TextRows,
    label_texts,
    picture_rows,
    text_rows,
)
from retrieval.service.measures import Measures
from retrieval.service.messages.embeddings import PictureInput
from retrieval.service.settings import Settings

__all__ = ["Embedder"]

Asked = TypeVar("Asked")
Given = TypeVar("Given")


class Embedder:
    """A collection's model, at work for whoever wants rows or labels.

    Args:
        name: Of the collection.
        settings: Of the service.
        measures: Of the service.
        encoder: The model; without it, nothing may be asked of texts and pictures.
        count_tokens: Says how many tokens of texts it reads.
        classify: Says what labels texts have, by its heads.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        measures: Measures,
        *,
        encoder: Encoder | None,
        count_tokens: CountTokens | None,
        classify: Classify | None,
    ) -> None:
        self.encoder = encoder
        self._count_tokens, self._classify = count_tokens, classify
        self._most_pixels = settings.pixels

        def batcher(
            stage: str,
            work: Callable[[list[Asked]], Sequence[Given | Exception]],
            weigh: Callable[[Asked], int] | None = None,
        ) -> Batcher[Asked, Given]:
            made = Batcher(
                work,
                most=settings.batch,
                waiting=settings.waiting,
                # whole lists are sent, by programs that are used to waiting
                patience_s=settings.timeout_s / 2,
                observe=measures.of_batches(stage),
                weigh=weigh,
            )
            measures.watch(stage, name, made.load)
            return made

        self.texts: Batcher[Sequence[str], TextRows] = batcher("embed_texts", self._texts, len)
        self.pictures: Batcher[PictureInput, Feature] = batcher("embed_pictures", self._pictures)
        self.labels: Batcher[Labelling, Sequence[Labelled]] = batcher(
            "classify", self._labels, lambda asked: len(asked.texts)
        )

    def close(self) -> None:
        """End its threads once they have done what was accepted."""
        for batcher in (self.texts, self.pictures, self.labels):
            batcher.close()

    def _texts(self, asked: list[Sequence[str]]) -> list[TextRows | Exception]:
        assert self.encoder is not None
        return text_rows(self.encoder, self._count_tokens, asked)

    def _pictures(self, asked: list[PictureInput]) -> list[Feature | Exception]:
        assert self.encoder is not None
        return picture_rows(self.encoder, asked, self._most_pixels)

    def _labels(self, asked: list[Labelling]) -> list[Sequence[Labelled] | Exception]:
        return label_texts(self._classify, asked)
