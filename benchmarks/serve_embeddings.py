"""Texts/s of /v1/embeddings as connections grow, beside what else serves the same weights.

    python benchmarks/serve_embeddings.py --infinity PATH/TO/infinity_emb

A text tower of the size of RoBERTa-base, its weights drawn at random: ours by ``clip-text serve``;
by Infinity, installed in an environment of its own (``pip install 'infinity-emb[server,torch]'``);
and by sentence-transformers in a plain loop behind FastAPI. Each request has one text of 7 to 20
characters, no two alike; services are asked in turn, by wrk.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from encode import QUICK, read_captions
from encode_contenders import checkpoint_of
from serve import median
from serve_load import Load, Told, press, served
from train_contenders import Shape, our_model

from clip_text import Encoder
from clip_text.checkpoints.folder import save_checkpoint
from clip_text.checkpoints.sentence_transformers import save_sentence_transformers
from retrieval.ingest import IndexWriter, Item

CONNECTIONS = (1, 8, 32)
HERE = Path(__file__).parent


def prepare(folder: Path, shape: Shape) -> None:
    """Write one model in the formats of all services, and an index of a few entries for ours."""
    checkpoint = checkpoint_of(our_model(shape).eval(), shape)
    save_checkpoint(checkpoint, folder / "ours")
    save_sentence_transformers(checkpoint, folder / "sentences")
    encoder = Encoder.from_pretrained(folder / "ours", runtime="torch")
    rows = np.eye(encoder.embed_dim, dtype=np.float32)[:100]
    with IndexWriter.open(
        folder / "index", fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim
    ) as writer:
        writer.add_many(Item(str(place), feature=row) for place, row in enumerate(rows))


def ways(folder: Path, infinity: Path | None) -> dict[str, tuple[list[str], str]]:
    """Say how each service is started, and where it answers once it is ready."""
    command = "from clip_text_cli.main import main; main()"
    options = ["--index", str(folder / "index"), "--model", str(folder / "ours")]
    found = {
        "ours": (
            [sys.executable, "-c", command, "serve", *options, "--port", "{port}"],
            "/healthz",
        ),
        "plain loop": (
            [sys.executable, str(HERE / "serve_plain.py"), str(folder / "sentences"), "{port}"],
            "/health",
        ),
    }
    if infinity:
        options = ["--model-id", str(folder / "sentences"), "--port", "{port}"]
        options += ["--url-prefix", "/v1", "--engine", "torch", "--device", "cpu"]
        found["Infinity"] = ([str(infinity), "v2", *options], "/health")
    return found


def main() -> None:
    """Print a table, or with --json a flat object of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--infinity", type=Path, help="Infinity's command, in its environment.")
    parser.add_argument("--data", type=Path, help="Folder with captions (train.jsonl).")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="Of each load.")
    parser.add_argument("--quick", action="store_true", help="A small model, under a minute.")
    parser.add_argument("--json", action="store_true", help="A flat object of figures.")
    options = parser.parse_args()
    texts = read_captions(options.data, 10_000)
    told: dict[tuple[str, int], list[Told]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepare(folder, QUICK if options.quick else Shape())
        services, loads = {}, {}
        for name, way in ways(folder, options.infinity).items():
            services[name] = stack.enter_context(served(*way))
            model = {"ours": "default"}.get(name, str(folder / "sentences"))
            bodies = [{"model": model, "input": [text]} for text in texts]
            loads[name] = Load("/v1/embeddings", bodies)
            press(services[name], loads[name], 8, options.seconds / 2)
        for _ in range(1 if options.quick else options.rounds):
            for connections in CONNECTIONS:
                for name, service in services.items():
                    seconds = 1.0 if options.quick else options.seconds
                    one = press(service, loads[name], connections, seconds)
                    told.setdefault((name, connections), []).append(one)
    figures: dict[str, float] = {}
    for (name, connections), each in told.items():
        middle = median(each)
        figures |= middle.figures(f"{name.replace(' ', '_').lower()}_{connections}")
        if not options.json:
            print(
                f"{name:11s} {connections:4d} connections {middle.per_second:8.1f} texts/s  "
                f"p50 {middle.p50:7.1f}  p99 {middle.p99:7.1f} ms  CPU {middle.cpu_ms:6.2f} ms  "
                f"failed {middle.failed}"
            )
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
