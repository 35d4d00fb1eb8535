"""The towers as graphs: from token ids and pixels to unit rows, for exports and other runtimes.

Projection, normalisation, mean and deviation are inside. Of BERT's family the layers are written
out over *packed rows*: a row holds texts behind one another, each of which sees itself alone; where
the pooler reads [CLS] only, the last layer computes nothing else. Padded tokens are packed rows of
one text each.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from open_clip import CustomTextCLIP
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from clip_text.images import Preprocessing
from clip_text.runtimes.torch_runtime import to_input
from clip_text.towers import TextTower

__all__ = ["ImageGraph", "PackedText", "TextGraph", "can_pack", "first_position", "traceable"]

_FAMILY = ("bert", "roberta", "xlm-roberta", "camembert")
_POOLERS = ("cls", "mean")
_TRACING = threading.RLock()


def can_pack(tower: TextTower) -> bool:
    """Say whether a text tower's layers are those that :class:`PackedText` writes out."""
    config = tower.config
    return (
        config.model_type in _FAMILY
        and tower.pooler in _POOLERS
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "add_cross_attention", False)
    )


class _Layer(Protocol):
    """What is used of a layer of transformers' BERT."""

    attention: Any
    intermediate: Any
    output: Any


class PackedText(nn.Module):
    """A text tower of BERT's family over packed rows.

    Args:
        tower: One for which :func:`can_pack` holds; its weights are shared.
    """

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        backbone: Any = tower.transformer
        self.embeddings: Any = backbone.embeddings
        self.layers: nn.ModuleList = backbone.encoder.layer
        self.proj = tower.proj
        self.pooler = tower.pooler
        self.heads = int(tower.config.num_attention_heads)

    def forward(self, ids: Tensor, positions: Tensor, owners: Tensor, firsts: Tensor) -> Tensor:
        """Encode packed rows.

        Args:
            ids: Token ids, int64 [rows, columns].
            positions: Of each token, as the backbone's table counts them, int64 [rows, columns].
            owners: Which text of its row a token is of, int64 [rows, columns]; -1 at padding.
            firsts: Column in which each text begins, int64 [rows, texts]; a row of fewer texts
                names one of them again.

        Returns:
            Unit rows, float32 [rows, texts, embed_dim].
        """
        # a text sees itself; padding sees padding, so that no row of the softmax is empty
        same = (owners.unsqueeze(2) == owners.unsqueeze(1)).unsqueeze(1)
        asked = torch.gather(owners, 1, firsts)
        of_text = asked.unsqueeze(2) == owners.unsqueeze(1)
        states = self._embed(ids, positions)
        *before, last = (cast("_Layer", layer) for layer in self.layers)
        for layer in before:
            states = self._layer(layer, states, states, same)
        if self.pooler == "cls":
            index = firsts.unsqueeze(2).expand(-1, -1, states.shape[2])
            begun = torch.gather(states, 1, index)
            pooled = self._layer(last, begun, states, of_text.unsqueeze(1))
        else:
            states = self._layer(last, states, states, same)
            weights = of_text.to(states.dtype)
            pooled = (weights @ states) / weights.sum(2, keepdim=True)
        return normalize(cast(Tensor, self.proj(pooled)), dim=-1)

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        parts = self.embeddings
        kinds = parts.token_type_embeddings.weight[0]
        states = parts.word_embeddings(ids) + parts.position_embeddings(positions) + kinds
        return cast(Tensor, parts.LayerNorm(states))

    def _layer(self, layer: _Layer, asking: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Compute one layer for some tokens of each row.

        Args:
            layer: Its weights.
            asking: States of the tokens to compute, [rows, asking, width].
            states: States of all tokens, [rows, columns, width].
            mask: True where one sees the other, [rows, 1, asking, columns].
        """
        attention = layer.attention.self
        seen = scaled_dot_product_attention(
            self._by_head(attention.query(asking)),
            self._by_head(attention.key(states)),
            self._by_head(attention.value(states)),
            mask,
        )
        joined = seen.transpose(1, 2).flatten(2)
        after = layer.attention.output
        attended = after.LayerNorm(after.dense(joined) + asking)
        wide = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(attended))
        return cast(Tensor, layer.output.LayerNorm(layer.output.dense(wide) + attended))

    def _by_head(self, projected: Tensor) -> Tensor:
        rows, tokens, _ = projected.shape
        return projected.view(rows, tokens, self.heads, -1).transpose(1, 2)


class TextGraph(nn.Module):
    """A text tower over padded token ids: int64 [n, length] → unit rows, float32 [n, embed_dim].

    Args:
        tower: Its weights are shared.
    """

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = PackedText(tower) if can_pack(tower) else tower
        self.pad_id = tower.pad_id
        self.counts_from = first_position(tower)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode token ids, padded at the end."""
        tokens = tokens.long()
        if not isinstance(self.tower, PackedText):
            return normalize(cast(Tensor, self.tower(tokens)), dim=-1)
        real = tokens != self.pad_id
        owners = real.long() - 1
        if self.counts_from is None:
            positions = torch.ones_like(tokens).cumsum(1) - 1
        else:
            positions = torch.where(real, real.long().cumsum(1) + self.counts_from - 1, self.pad_id)
        firsts = torch.zeros_like(tokens[:, :1])
        return cast(Tensor, self.tower(tokens, positions, owners, firsts)).squeeze(1)


def first_position(tower: TextTower) -> int | None:
    """Say where positions begin that count real tokens only, as RoBERTa's do; None as BERT's."""
    return None if tower.config.model_type == "bert" else tower.pad_id + 1


@contextmanager
def traceable() -> Iterator[None]:
    """Have modules computed by operations that other libraries know, without gradients.

    By one thread: an example is small, and threads that wait for each other on busy cores took
    three times the processor's time for it.

    One thread of the process at a time: what is set holds for all, and of two the second would
    take the first one's settings for those to go back to.
    """
    with _TRACING:
        fast, threads = torch.backends.mha.get_fastpath_enabled(), torch.get_num_threads()
        torch.backends.mha.set_fastpath_enabled(False)
        torch.set_num_threads(1)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # TorchScript is deprecated, and read best by all
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            torch.set_num_threads(threads)


class ImageGraph(nn.Module):
    """An image tower over pixels: uint8 [n, size, size, 3] → unit rows, float32 [n, embed_dim].

    Args:
        model: Both towers; the weights are shared.
        preprocessing: Of pictures.
    """

    def __init__(self, model: CustomTextCLIP, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.visual = model.visual
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pictures of the model's input size."""
        inputs = to_input(pixels, self.preprocessing)
        return normalize(cast(Tensor, self.visual(inputs)), dim=-1)
