"""benchmarks/encode.py: all contenders give the same rows, and the script's report."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytest.importorskip("cn_clip", reason="pip install --no-deps cn_clip six")


@pytest.mark.slow
def test_every_contender_gives_the_same_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    encode = importlib.import_module("encode")
    contenders = importlib.import_module("encode_contenders")
    shape = encode.Shape(image_size=32, layers=2, width=64)
    checkpoint = contenders.checkpoint_of(encode.our_model(shape).eval(), shape)
    racers = contenders.text_contenders(checkpoint, shape)
    cosines = encode.lowest_cosines(racers, encode.read_captions(None, 20))
    assert {"ours, torch", "cn_clip", "open_clip", "transformers"} <= set(cosines)
    exact = {name: cosine for name, cosine in cosines.items() if name[-4:] not in ("bf16", "int8")}
    assert min(exact.values()) > 1 - 1e-5
    assert min(cosines.values()) > 0.99


@pytest.mark.slow
def test_the_quick_run_prints_flat_figures():
    done = subprocess.run(
        [sys.executable, "encode.py", "--quick", "--json", "--sections", "texts"],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert all(isinstance(value, int | float) for value in figures.values())
    assert {"text_ours_torch_8_per_second", "text_cn_clip_p_50_ms"} <= set(figures)
