"""The image tower cut in two: a frozen stem, computed once and cached, and a tail that runs.

With the whole trunk in the stem only the projection is left of the image side, and an epoch costs
no more than the texts. With the last blocks in the tail they learn too, at a fraction of the cost
of the whole tower.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn


class SplitImageTower:
    """A view of open_clip's timm image tower: a frozen stem and a tail. It owns no weights.

    Args:
        visual: The image tower.
        tail_blocks: How many of the trunk's last blocks (stages, in timm's words) are in the
            tail. 0: all of the trunk is in the stem, which then gives pooled features.

    Raises:
        ValueError: If blocks are asked of a trunk that doesn't come apart this way, or more than
            it has.
    """

    def __init__(self, visual: nn.Module, tail_blocks: int = 0) -> None:
        trunk: Any = visual.trunk if hasattr(visual, "trunk") else None
        needed = ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "global_pool")
        if trunk is None or (tail_blocks and not all(hasattr(trunk, name) for name in needed)):
            raise ValueError(
                f"expected a timm trunk of the EfficientNet family to cut, got "
                f"{type(trunk or visual).__name__}. Use tail_blocks=0 with a timm tower."
            )
        most = len(trunk.blocks) if tail_blocks else 0
        if not 0 <= tail_blocks <= most:
            raise ValueError(
                f"expected tail_blocks in 0..{most} (the trunk's blocks), got {tail_blocks}. "
                "Lower it."
            )
        self.trunk, self.head, self.tail_blocks = trunk, cast(nn.Module, visual.head), tail_blocks
        # a trunk that cannot be cut need not have blocks
        self._first = len(trunk.blocks) - tail_blocks if tail_blocks else 0

    def stem(self, images: Tensor) -> Tensor:
        """Run the frozen part; [n, 3, H, W] → what a call takes."""
        if not self.tail_blocks:
            return cast(Tensor, self.trunk(images))
        hidden = self.trunk.bn1(self.trunk.conv_stem(images))
        return cast(Tensor, self.trunk.blocks[: self._first](hidden))

    def tail(self, cached: Tensor) -> Tensor:
        """Run the rest of the trunk on cached stems; [n, ...] → pooled [n, width]."""
        if not self.tail_blocks:
            return cached
        hidden = cached.contiguous(memory_format=torch.channels_last)
        hidden = self.trunk.blocks[self._first :](hidden)
        return cast(Tensor, self.trunk.global_pool(self.trunk.bn2(self.trunk.conv_head(hidden))))

    def __call__(self, cached: Tensor) -> Tensor:
        """Run tail and projection on cached stems; [n, ...] → [n, embed_dim], not normalised."""
        return cast(Tensor, self.head(self.tail(cached)))

    @contextmanager
    def depthwise_in_fp32(self) -> Iterator[None]:
        """Keep the tail's depthwise convolutions out of bf16 autocast while the context lasts.

        On a CPU they run backward so slowly in bf16 that the whole tail is slower than in fp32;
        with them in fp32 and the rest in bf16 it is 2.2 times as fast (128 pictures: 0.77 s,
        against 1.66 s in fp32 and 1.81 s in bf16; 2 cores with AVX512-BF16).
        """
        convolutions = [
            module
            for block in self._tail_blocks()
            for module in block.modules()
            if isinstance(module, nn.Conv2d) and module.groups > 1
        ]
        for convolution in convolutions:
            convolution.forward = _without_autocast(convolution.forward)  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            for convolution in convolutions:
                del convolution.forward  # uncovers the class's own

    def tail_parameters(self) -> list[nn.Parameter]:
        """Parameters of the trunk that learn: those of the tail."""
        if not self.tail_blocks:
            return []
        parts = [*self._tail_blocks(), self.trunk.conv_head, self.trunk.bn2]
        return [parameter for part in parts for parameter in part.parameters()]

    def _tail_blocks(self) -> list[nn.Module]:
        return list(self.trunk.blocks[self._first :]) if self.tail_blocks else []


def _without_autocast(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden.float())

    return run


def cropped_and_mirrored(stems: Tensor) -> Tensor:
    """Vary cached feature maps: one window of the batch, each picture mirrored or not.

    What a convolution makes of a mirrored or shifted picture is nearly the mirrored or shifted
    map, so this stands in for views that were never cached; [n, channels, H, W] → smaller H, W.
    """
    height, width = stems.shape[-2:]
    rows, columns = (int(torch.randint(side - side // 6, side + 1, ())) for side in (height, width))
    top = int(torch.randint(height - rows + 1, ()))
    left = int(torch.randint(width - columns + 1, ()))
    window = stems[..., top : top + rows, left : left + columns]
    mirrored = torch.rand(len(stems), 1, 1, 1, device=stems.device) < 0.5
    return torch.where(mirrored, window.flip(-1), window)


