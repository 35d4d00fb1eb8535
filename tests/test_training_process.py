"""Training in processes of its own: two under torchrun, one killed with -9."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "training_process.py"


def run(out, changes, *, processes=1, die_at=0):
    out.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else [])]
    return subprocess.run(
        [*command, str(SCRIPT), str(out), json.dumps(changes), str(die_at)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=None,
    )


def result(out, changes, **options):
    done = run(out, changes, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out / "gradients.safetensors"), load_file(out / "weights.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"loss": "softmax"}, marks=pytest.mark.slow),
        {"loss": "softmax", "local_loss": True, "micro_batch": 1},
        pytest.param({"loss": "sigmoid"}, marks=pytest.mark.slow),
        {"loss": "sigmoid", "local_loss": True, "micro_batch": 1},
    ],
    ids=["softmax", "softmax-local-pieces", "sigmoid", "sigmoid-local-pieces"],
)
def test_two_processes_equal_one_with_the_whole_batch(changes, tmp_path):
    one, weights = result(tmp_path / "one", changes)
    two, others = result(tmp_path / "two", changes, processes=2)
    assert one.keys() == two.keys()
    noise = "key.bias"  # softmax does not see it: its gradient is rounding noise
    for name, gradient in one.items():
        if name.endswith(noise):
            continue
        far = (two[name] - gradient).norm() / gradient.norm().clamp(min=1e-5)
        assert far < 1e-4, (name, float(far))
    for name, tensor in weights.items():
        if not name.endswith(noise):
            torch.testing.assert_close(others[name], tensor, rtol=1e-2, atol=2e-3)


RESUMED = {"epochs": 3, "evaluations": 2, "dropout": 0.1, "token_dropout": 0.2, "ema": 0.9}


@pytest.mark.parametrize(
    "changes",
    [{"image": 2}, pytest.param({"micro_batch": 2}, marks=pytest.mark.slow)],
    ids=["plain", "pieces"],
)
def test_a_run_killed_mid_epoch_ends_as_if_it_had_not_been(changes, tmp_path):
    changes = RESUMED | changes
    _, expected = result(tmp_path / "through", changes)
    killed = run(tmp_path / "killed", changes, die_at=5)  # of 6; the 3rd, in mid-epoch, was saved
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert not (tmp_path / "killed/weights.safetensors").exists()
    _, found = result(tmp_path / "killed", changes)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    logs = [
        [
            json.loads(line)
            for line in (tmp_path / name / "run/metrics.jsonl").read_text().split("\n")[:-1]
        ]
        for name in ("through", "killed")
    ]
    steps = [[(row["step"], row.get("loss")) for row in rows if "loss" in row] for rows in logs]
    assert steps[0] == steps[1], "no step is told twice"
