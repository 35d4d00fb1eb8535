"""The allocator's settings, seen from outside: freed memory stays, and is not cleared anew."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from clip_text.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(20):
    b"x" * (64 << 20)  # freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def page_faults(mode):
    command = [sys.executable, "-c", SCRIPT, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is set")
def test_large_arrays_reuse_their_pages():
    # 64 MiB are 16,384 pages: twenty times as many when they are given back every time
    without, kept = page_faults("as it is"), page_faults("keep")
    assert without > 300_000
    assert kept < without / 5
