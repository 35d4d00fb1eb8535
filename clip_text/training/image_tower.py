"""How the image side of a training step runs: on cached features, or on pixels.

What is frozen is computed once and cached. A tower cut in two has a frozen *stem*, cached, and a
*tail* that runs: with the whole trunk in the stem only the projection is left of the image side,
and an epoch costs no more than the texts; with the last blocks in the tail they learn too, at a
fraction of the cost of the whole tower.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from clip_text.checkpoints import Preprocessing
from clip_text.training.recipe import Learn


class ImageTower(Protocol):
    """The image side of a step: what the batches hold, to features."""

    cached: bool
    """Whether batches hold what :meth:`stem` made, or uint8 pixels."""

    def stem(self, images: Tensor) -> Tensor:
        """Run the frozen part on normalised pictures, [n, 3, H, W]."""

    def augment(self, inputs: Tensor) -> Tensor:
        """Vary inputs [n, …] in training; what cannot be varied comes back as it is."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Turn a batch's inputs into features, [n, embed_dim], not normalised."""


def image_tower(visual: nn.Module, learn: Learn, preprocessing: Preprocessing) -> ImageTower:
    """Choose how the image side runs, given what of it learns.

    Args:
        visual: The image tower.
        learn: Which parts of the tower learn; see :class:`clip_text.training.recipe.Recipe`.
        preprocessing: Mean and standard deviation of the pixels.
    """
    if learn == "none":
        return FrozenImageTower(visual)
    if isinstance(learn, int):
        if hasattr(visual, "trunk") and (learn == 0 or _comes_apart(visual.trunk)):
            return SplitImageTower(visual, learn)
        if learn == 0 and isinstance(getattr(visual, "proj", None), nn.Parameter):
            return ProjectedImageTower(visual)
    return PixelImageTower(visual, preprocessing)


class FrozenImageTower:
    """Nothing of the image tower runs in training: its features are cached."""

    cached = True

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual

    def stem(self, images: Tensor) -> Tensor:
        """Run the whole tower; [n, 3, H, W] → [n, embed_dim]."""
        return cast(Tensor, self.visual(images))

    def augment(self, inputs: Tensor) -> Tensor:
        """Features, [n, width], are not varied."""
        return inputs

    def __call__(self, inputs: Tensor) -> Tensor:
        """Features, [n, embed_dim], are what the cache holds."""
        return inputs


class ProjectedImageTower:
    """All of an open_clip ViT but its projection is cached."""

    cached = True

    def __init__(self, visual: nn.Module) -> None:
        self.visual: Any = visual

    def stem(self, images: Tensor) -> Tensor:
        """Run the tower without its projection; [n, 3, H, W] → [n, width]."""
        projection, self.visual.proj = self.visual.proj, None
        try:
            return cast(Tensor, self.visual(images))
        finally:
            self.visual.proj = projection

    def augment(self, inputs: Tensor) -> Tensor:
        """Features, [n, width], are not varied."""
        return inputs

    def __call__(self, inputs: Tensor) -> Tensor:
        """Project pooled features; [n, width] → [n, embed_dim]."""
        return cast(Tensor, inputs @ self.visual.proj)


class PixelImageTower:
    """The whole tower runs, on the pixels themselves."""

    cached = False

    def __init__(self, visual: nn.Module, preprocessing: Preprocessing) -> None:
        self.visual = visual
        self.mean = torch.tensor(preprocessing.mean) * 255
        self.std = torch.tensor(preprocessing.std) * 255

    def stem(self, images: Tensor) -> Tensor:
        """Nothing is frozen below: pictures [n, 3, H, W] come back as they are."""
        return images

    def augment(self, inputs: Tensor) -> Tensor:
        """Pictures, uint8 [n, H, W, 3], are varied as they are read."""
        return inputs

    def __call__(self, inputs: Tensor) -> Tensor:
        """Normalise and encode uint8 [n, H, W, 3]; → [n, embed_dim]."""
        mean, std = self.mean.to(inputs.device), self.std.to(inputs.device)
        # [n, H, W, C] seen as [n, C, H, W] already is the channels_last layout
        return cast(Tensor, self.visual(((inputs.float() - mean) / std).permute(0, 3, 1, 2)))


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

    cached = True

    def __init__(self, visual: nn.Module, tail_blocks: int = 0) -> None:
        trunk: Any = visual.trunk if hasattr(visual, "trunk") else None
        if trunk is None or (tail_blocks and not _comes_apart(trunk)):
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

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run tail and projection on cached stems; [n, ...] → [n, embed_dim], not normalised."""
        return cast(Tensor, self.head(self.tail(inputs)))

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

    def augment(self, inputs: Tensor) -> Tensor:
        """Crop and mirror cached maps [n, C, H, W]; pooled features come back as they are."""
        return cropped_and_mirrored(inputs) if self.tail_blocks else inputs

    def _tail_blocks(self) -> list[nn.Module]:
        return list(self.trunk.blocks[self._first :]) if self.tail_blocks else []


def _comes_apart(trunk: object) -> bool:
    needed = ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "global_pool")
    return all(hasattr(trunk, name) for name in needed)


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
