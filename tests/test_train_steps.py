"""benchmarks/train_steps.py: every contender computes the same loss, and the script's report."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytest.importorskip("cn_clip", reason="pip install --no-deps cn_clip six")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("train_steps"), importlib.import_module("train_contenders")


@pytest.mark.parametrize("frozen", [False, True], ids=["unfrozen", "frozen"])
def test_every_contender_computes_cn_clips_loss_on_the_same_weights(benchmark, frozen):
    steps, contenders = benchmark
    shape = contenders.Shape(image_size=32, layers=2, width=64)
    model = contenders.our_model(shape)
    batches = steps.read_batches(None, 1, 6, shape.image_size)
    if frozen:
        steps.cache_features(model, batches)
    racers = [
        contenders.cn_clip_contender(shape, model.state_dict(), frozen),
        *contenders.open_clip_contenders(shape, model.state_dict(), frozen),
        *contenders.our_contenders(model, frozen),
    ]
    differences = steps.loss_differences(racers, batches[0])
    assert {"cn_clip", "open_clip", "ours", "ours, padded"} == set(differences)
    assert max(differences.values()) < 1e-4
    # and not because all rows are alike
    with torch.no_grad():
        assert abs(float(racers[0].loss(batches[0])) - math.log(6)) > 0.05


def test_a_turn_moves_what_is_open_and_nothing_else(benchmark):
    steps, contenders = benchmark
    shape = contenders.Shape(image_size=32, layers=2, width=64)
    model = contenders.our_model(shape)
    batches = steps.read_batches(None, 1, 4, shape.image_size)
    steps.cache_features(model, batches)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    times = steps.race(contenders.our_contenders(model, frozen=True)[:1], batches, rounds=1)
    after = model.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {name.split(".")[0] for name in moved} >= {"text"}
    assert not any(name.startswith("visual.") for name in moved)
    (only,) = times.values()
    assert only.against(only) == [1.0]


def test_help(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_steps.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        benchmark[0].main()
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--quick" in shown
    assert "--json" in shown


@pytest.mark.slow
def test_quick_json_is_a_flat_object_of_figures():
    command = [sys.executable, str(BENCHMARKS / "train_steps.py"), "--quick", "--json"]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert all(isinstance(value, int | float) for value in figures.values())
    assert figures["unfrozen_cn_clip_over_cn_clip"] == 1
    assert figures["frozen_ours_over_cn_clip"] > 0
    assert figures["unfrozen_largest_loss_difference"] < 1e-4
