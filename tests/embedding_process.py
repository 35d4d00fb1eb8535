"""Embeds pictures in a process of its own, with a stand-in for the model, for tests that kill it.

    python tests/embedding_process.py SOURCE OUT WORKERS PAUSE [local | RAY'S ADDRESS]

It prints a line after each shard. Each batch takes PAUSE seconds.
"""

import sys
import time
from functools import partial
from pathlib import Path

from fakes import FakeEncoder

from clip_text.embedding import Settings, embed
from clip_text.embedding.local import Local

SHARD_SIZE, BATCH_SIZE = 4, 2


def load_fake(pause, fingerprint, runtime):
    """Load the stand-in; importable, so that workers can be sent it."""
    return FakeEncoder(fingerprint=fingerprint, before_batch=lambda _: time.sleep(pause))


def embed_fake(source, out, runner, pause=0.0, **options):
    """Embed with the stand-in, in shards of 4 pictures."""
    options.setdefault("settings", Settings(SHARD_SIZE, BATCH_SIZE))
    return embed(str(source), Path(out), partial(load_fake, pause, "fake-1"), runner, **options)


def main(source, out, workers, pause, engine="local"):
    def tell(standing):
        sys.stdout.write(f"{standing.shards} of {standing.total}\n")
        sys.stdout.flush()

    if engine == "local":
        runner = Local(int(workers))
    else:
        from clip_text.embedding.ray import RayActors

        runner = RayActors(int(workers), engine)
    report = embed_fake(source, out, runner, float(pause), on_progress=tell)
    sys.stdout.write(f"end {report.encoded} {report.done_before}\n")


if __name__ == "__main__":
    from embedding_process import main as run  # workers know it by that name

    run(*sys.argv[1:])
