"""Training in processes of its own: two under torchrun, one killed with -9."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_process
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "training_process.py"
MASKED_LM = Path(__file__).parent / "masked_lm_process.py"
ROOT = Path(__file__).parents[1]


def run(out, changes, *, processes=1, die_at=0):
    """Train in processes of their own."""
    out.mkdir(exist_ok=True)
    return launch(SCRIPT, out, json.dumps(changes), die_at, processes=processes)


def launch(script, *arguments, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else [])]
    return subprocess.run(
        [*command, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def result(out, changes):
    """Train in this process, which has loaded torch: only what is killed or many needs others."""
    out.mkdir(exist_ok=True)
    training_process.main(out, dict(changes))
    return read(out)


def written(out, done):
    assert done.returncode == 0, done.stderr[-3000:]
    return read(out)


def read(out):
    return load_file(out / "gradients.safetensors"), load_file(out / "weights.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"loss": "softmax"}, marks=pytest.mark.slow),
        pytest.param(  # which test_training_hosts.py asks of two hosts, in the default tests
            {"loss": "softmax", "local_loss": True, "micro_batch": 1, "matryoshka": [5]},
            marks=pytest.mark.slow,
        ),
        pytest.param({"loss": "sigmoid"}, marks=pytest.mark.slow),
        pytest.param(
            {"loss": "sigmoid", "local_loss": True, "micro_batch": 1}, marks=pytest.mark.slow
        ),
    ],
    ids=["softmax", "softmax-local-pieces", "sigmoid", "sigmoid-local-pieces"],
)
def test_two_processes_equal_one_with_the_whole_batch(changes, tmp_path):
    one, weights = result(tmp_path / "one", changes)
    two, others = written(tmp_path / "two", run(tmp_path / "two", changes, processes=2))
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


@pytest.mark.slow
def test_masked_lm_in_two_processes_learns_the_same_batches(tmp_path):
    """Six micro-batches a step, whichever process runs them; equal to the weights at the end."""
    ends = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        out.mkdir()
        ends.append(written(out, launch(MASKED_LM, out, processes=processes)))
    for name, gradient in ends[0][0].items():
        far = (ends[1][0][name] - gradient).norm() / gradient.norm().clamp(min=1e-5)
        assert far < 1e-4 or name.endswith("key.bias"), (name, float(far))
    for name, weight in ends[0][1].items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(ends[1][1][name], weight, rtol=1e-2, atol=2e-3)


@pytest.mark.slow
def test_the_masked_lm_command_under_torchrun(tmp_path):
    sentences = [f"{a}的{b}在{c}。" for a in "红绿蓝黄黑白" for b in "狗猫鸟鱼" for c in "水树天人"]
    (tmp_path / "a.txt").write_text("\n\n".join(sentences), encoding="utf-8")
    out = tmp_path / "two"
    given = [tmp_path / "a.txt", "--out", out, "--from-scratch", "tiny", "--batch-size", 16]
    given += ["--micro-batch", 4, "--cache", tmp_path / "cache", "--json", "--evaluations", 1]
    done = launch(ROOT / "scripts" / "pretrain_mlm.py", *given, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)  # of one process alone
    assert report["perplexity"] < report["perplexity_before"]
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == report
    assert (out / "model" / "model.safetensors").is_file()
    given[given.index("--micro-batch") + 1] = 16
    done = launch(ROOT / "scripts" / "pretrain_mlm.py", *given, "--seed", 1, processes=2)
    assert done.returncode
    assert "another seed, micro_batch" in done.stderr or "in 2 processes" in done.stderr


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
