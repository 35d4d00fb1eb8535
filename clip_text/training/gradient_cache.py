"""Gradients of a large batch from small pieces of it, exactly.

A contrastive loss needs all features of a batch, but not all activations: features are computed
piece by piece without a graph, the loss gives their gradients, and each piece then runs once more
with a graph and hands its share of these down. The random state of the first pass is replayed in
the second, so dropout drops the same. Gao et al. 2021 (arXiv:2101.06983), for two towers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from clip_text.training.gather import largest

Features = Mapping[str, Tensor]


def cached_backward(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    loss: Callable[[Features], Tensor],
    micro_batch: int,
    *,
    pad_id: int = 0,
    backward: Callable[[Tensor], None] = Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
    check: Callable[[Tensor], None] = lambda _: None,
) -> Tensor:
    """Add the gradients of the whole batch's loss to the parameters.

    Args:
        model: Called with a piece's tokens and images, gives features by name, [rows, ...], and
            scalars, which every piece gives alike.
        batch: Tokens [texts, length], padded on the right, and images [images, ...].
        loss: Loss of the whole batch's features, in their order.
        micro_batch: How many texts or images at most run at a time, 1 or more.
        pad_id: What tokens are padded with.
        backward: Runs a backward pass.
        no_sync: Context in which DDP does not exchange gradients; all pieces but the last.
        check: Looks at the loss before anything runs backward.

    Returns:
        The loss, detached.
    """
    pieces = split(batch, micro_batch, pad_id)
    states, parts = [], []
    with torch.no_grad():
        for tokens, images in pieces:
            states.append(_random_state(tokens.device))
            parts.append(model(tokens, images))
    leaves = {
        name: (first if first.ndim == 0 else torch.cat([part[name] for part in parts]))
        .detach()
        .requires_grad_()
        for name, first in parts[0].items()
    }
    whole = loss(leaves)
    check(whole)
    torch.autograd.backward(whole)
    starts = dict.fromkeys(leaves, 0)
    for number, ((tokens, images), state) in enumerate(zip(pieces, states, strict=True)):
        last = number == len(pieces) - 1
        with nullcontext() if last else no_sync():
            with replayed(state, tokens.device):
                again = model(tokens, images)
            share = _share(again, leaves, starts, last)
            if share is not None:
                backward(share)
    return whole.detach()


def split(
    batch: tuple[Tensor, Tensor], micro_batch: int, pad_id: int
) -> Sequence[tuple[Tensor, Tensor]]:
    """Cut a batch into as many pieces of texts as of images, the same number in every process.

    The batch is tokens [texts, length] and images [images, …]. No text is padded more than its
    piece needs.
    """
    tokens, images = batch
    number = largest(-(-max(len(tokens), len(images)) // micro_batch), tokens.device)
    some_of_both = -largest(-min(len(tokens), len(images)), tokens.device)
    number = min(number, some_of_both)  # in every piece
    texts = _bounds(len(tokens), number)
    pictures = _bounds(len(images), number)
    return [
        (_trimmed(tokens[a:b], pad_id), images[c:d])
        for (a, b), (c, d) in zip(pairwise(texts), pairwise(pictures), strict=True)
    ]


def _bounds(rows: int, pieces: int) -> list[int]:
    return [rows * at // pieces for at in range(pieces + 1)]


def _trimmed(tokens: Tensor, pad_id: int) -> Tensor:
    return tokens[:, : int((tokens != pad_id).any(0).nonzero().max()) + 1]


def _share(again: Features, leaves: Features, starts: dict[str, int], last: bool) -> Tensor | None:
    """The scalar whose gradient is this piece's share of the whole batch's."""
    terms = []
    for name, rows in again.items():
        gradient = leaves[name].grad
        if rows.ndim:
            start = starts[name]
            starts[name] += len(rows)
            gradient = None if gradient is None else gradient[start : starts[name]]
        elif not last:  # scalars count once
            gradient = None
        if rows.requires_grad and gradient is not None:
            terms.append((rows * gradient).sum())
    return torch.stack(terms).sum() if terms else None


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


@contextmanager
def replayed(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Set the random state back while the context lasts."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], device)
        yield
