"""What the heads over token states share: a backbone of their own and a layer over each state."""

from typing import cast

from torch import Tensor, nn

from clip_text.heads.pair_frame import typed_states
from clip_text.towers import TextTower

_INIT_STD = 0.02  # BERT's


class TokenHead(nn.Module):
    """A backbone, dropout and one linear layer over each token's state.

    Args:
        tower: Its backbone is read; it has no projection.
        outputs: Size of the output for each token.
        dropout: Share of a state dropped in training.
    """

    def __init__(self, tower: TextTower, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.tower = tower
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(tower.width, outputs)
        nn.init.normal_(self.out.weight, std=_INIT_STD)
        nn.init.zeros_(self.out.bias)

    def logits(self, tokens: Tensor, kinds: Tensor | None = None) -> Tensor:
        """Compute [n, length, outputs] of token ids [n, length].

        Args:
            tokens: Token ids, padded at the end, [n, length].
            kinds: Which of two texts a token is of, 0 or 1, [n, length]; backbones without such
                embeddings pass over it.
        """
        states, _ = typed_states(self.tower, tokens, kinds)
        return cast(Tensor, self.out(self.dropout(states)))
