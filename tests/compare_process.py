"""What stands for the work of a model's process in tests; imported there, so it imports little."""

import os
import signal


def die(job, line, may_choose):
    """End as where the memory is too small."""
    os.kill(os.getpid(), signal.SIGKILL)
