"""PyTorch: the towers as they are, on whatever device; the runtime that others are held against."""

from contextlib import AbstractContextManager, nullcontext

import torch
from open_clip import CustomTextCLIP
from torch import Tensor
from torch.nn.functional import normalize

from clip_text.images import Preprocessing
from clip_text.runtimes import Features, Pixels, TokenIds


class TorchRuntime:
    """Runs the modules themselves, so that rows follow weights that change, as in training.

    Args:
        model: Both towers, on the device.
        preprocessing: Of pictures.
        device: Where the model is.
        dtype: What matrix products are computed in: float32, or bfloat16 by autocast.
    """

    def __init__(
        self,
        model: CustomTextCLIP,
        preprocessing: Preprocessing,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name = "torch" if dtype == torch.float32 else "torch-bf16"
        self._model, self._device, self._dtype = model, device, dtype
        self._preprocessing = preprocessing

    def text(self, tokens: TokenIds) -> Features:
        """Encode token ids; see :class:`clip_text.runtimes.Runtime`."""
        with torch.inference_mode(), self._precision():
            return unit_rows(self._model.encode_text(torch.from_numpy(tokens).to(self._device)))

    def image(self, pixels: Pixels) -> Features:
        """Encode pictures; see :class:`clip_text.runtimes.Runtime`."""
        with torch.inference_mode(), self._precision():
            batch = torch.from_numpy(pixels).to(self._device)
            return unit_rows(self._model.encode_image(to_input(batch, self._preprocessing)))

    def _precision(self) -> AbstractContextManager[None]:
        if self._dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, self._dtype)


def to_input(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise uint8 [n, size, size, 3] into the image tower's input, float32 [n, 3, size, size].

    Args:
        pixels: On any device.
        preprocessing: Of the model.
    """
    mean, std = (
        torch.tensor(values, device=pixels.device) * 255
        for values in (preprocessing.mean, preprocessing.std)
    )
    # [n, H, W, C] seen as [n, C, H, W] already is the channels_last layout, on which a CPU's
    # convolutions are about twice as fast
    return ((pixels.to(torch.float32) - mean) / std).permute(0, 3, 1, 2)


def unit_rows(features: Tensor) -> Features:
    """Make rows [n, embed_dim] of any floating type unit rows in NumPy's float32."""
    rows: Features = normalize(features.float(), dim=-1).cpu().numpy()
    return rows
