"""Runs ``clip-text`` with a slow stand-in for the model, for tests that stop it.

    python tests/stopped_process.py ARGUMENTS

It prints a line on stdout when the second batch is about to be encoded, and then takes its time.
"""

import signal
import sys
import time

from fakes import FakeEncoder

from clip_text_cli import main, wiring

batches = 0


def _before_batch(_: int) -> None:
    global batches  # noqa: PLW0603
    batches += 1
    if batches == 2:
        sys.stdout.write("second batch\n")
        sys.stdout.flush()
        time.sleep(60)


if __name__ == "__main__":
    # a shell has its background jobs ignore it, and their children with them
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wiring.load_encoder = lambda model, **_: FakeEncoder(before_batch=_before_batch)
    main.main()
