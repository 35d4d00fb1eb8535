"""What this process computes on: which processor, and how many of its cores."""

import hashlib
import math
import os
import platform
from ctypes.util import find_library
from functools import cache
from pathlib import Path

__all__ = ["available_cores", "describe_processor", "has_bf16", "may_have_gpu", "saturates_int8"]

# NVIDIA's driver, the one Windows lends to Linux, AMD's
_GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))

_CPU_INFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


@cache
def available_cores() -> int:
    """Count the cores that this process may use: its affinity, its container's share.

    ``OMP_NUM_THREADS`` is obeyed, as PyTorch does; a library that starts a thread for each core of
    the machine, in a container with two of them, waits for itself.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    limits = [cores, _container_share(), int(asked) if asked.isdecimal() else None]
    return max(1, min(limit for limit in limits if limit is not None))


def _container_share() -> int | None:
    """Cores that a container is given time on, rounded up; None without a limit."""
    try:
        if _QUOTA.exists():
            quota, period = _QUOTA.read_text(encoding="ascii").split()
        else:
            quota, period = (
                file.read_text(encoding="ascii").strip() for file in (_QUOTA_V1, _PERIOD_V1)
            )
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # another system; "max" is no limit
        return None


def _cpu_info() -> dict[str, str]:
    """Model and flags of the first core, as Linux tells them; nothing elsewhere."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _flags(info: dict[str, str]) -> list[str]:
    """Instructions that a core has, as x86 or Arm names them."""
    return (info.get("flags") or info.get("Features") or "").split()


@cache
def describe_processor() -> str:
    """Say what a measurement or a compiled model is good for: model, instructions, cores."""
    info = _cpu_info()
    model = info.get("model name") or platform.processor() or platform.machine()
    flags = " ".join(sorted(_flags(info)))
    digest = hashlib.blake2b(flags.encode(), digest_size=8).hexdigest()
    return f"{platform.system()} {platform.machine()} {model} {digest} x{available_cores()}"


def has_bf16() -> bool:
    """Say whether the processor computes with bfloat16 itself, by AVX512-BF16, AMX or Arm's."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(_flags(_cpu_info()))


def saturates_int8() -> bool:
    """Say whether products of int8 may overflow: x86 without VNNI adds pairs of them in 16 bits."""
    flags = _flags(_cpu_info())
    return "avx2" in flags and {"avx512_vnni", "avx_vnni", "amx_int8"}.isdisjoint(flags)


def may_have_gpu() -> bool:
    """Say whether a GPU's driver is here, so that it is worth asking torch for the GPU."""
    return any(device.exists() for device in _GPU_DEVICES) or bool(find_library("nvcuda"))
