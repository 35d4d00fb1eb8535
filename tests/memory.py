"""How much memory this process has held at most, since it began."""

import re
import resource
import sys
from pathlib import Path


def peak_kilobytes() -> float:
    """Most resident memory so far, in KiB.

    ``ru_maxrss`` of a child begins with what the process had that forked it, pytest after heavy
    tests say; VmHWM begins anew at exec.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.M)
        return float(peak)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024 if sys.platform == "darwin" else float(most)  # bytes there
