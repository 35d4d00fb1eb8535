"""Where half precision pays."""

import torch


def bf16_pays(device: str | torch.device = "cpu") -> bool:
    """Say whether bfloat16 is faster than float32 on a device.

    A CPU without bfloat16 instructions emulates them: an image tower ran 20 times as slowly, a
    text tower 27 times (2 cores, AVX2 only). With AVX512-BF16 or AMX it nearly doubles the rate.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    # torch has no public question for it yet
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in asked)
