"""Training on several hosts: two ``torchrun`` nodes on loopback, ranks that die, folders apart."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import training_process
from pictures_data import coloured
from safetensors.torch import load_file

from clip_text.checkpoints import save_checkpoint

ROOT = Path(__file__).parents[1]
SMALL = ROOT / "tests" / "training_process.py"
SCRIPT = ROOT / "scripts" / "train_contrastive.py"
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # docs/training.md says why: without it some restarts wait for ever
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}
NOISE = "key.bias"  # softmax does not see it: its gradient is rounding noise


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(command):
    """Start one host's ``torchrun``."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
        start_new_session=True,
    )


@contextmanager
def nodes(script, arguments, *, restarts=0, number=2):
    """Start ``torchrun`` once per host, as an operator would; ``arguments`` of each by its rank."""
    address = f"127.0.0.1:{free_port()}"
    started = []
    try:
        for rank in range(number):
            command = [sys.executable, "-m", "torch.distributed.run"]
            command += ["--nnodes", str(number), "--node-rank", str(rank)]
            command += ["--nproc-per-node", "1", "--max-restarts", str(restarts)]
            command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", address, "--rdzv-id", "1"]
            # on loopback each takes itself for the host of the address; here the first is
            command += ["--rdzv-conf", f"is_host={str(rank == 0).lower()}"]
            command += ["--local-addr", "127.0.0.1", str(script), *map(str, arguments(rank))]
            started.append(start(command))
        yield started
    finally:
        for node in started:
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)  # which ends its workers, too
                try:
                    node.communicate(timeout=60)
                except subprocess.TimeoutExpired:
                    os.killpg(node.pid, signal.SIGKILL)
                    node.communicate()


def ended(started):
    """Wait for all nodes; their (exit code, stdout, stderr)."""
    told = [node.communicate(timeout=280) for node in started]
    return [(node.returncode, *lines) for node, lines in zip(started, told, strict=True)]


def both(script, *arguments, restarts=0):
    with nodes(script, lambda rank: arguments, restarts=restarts) as started:
        return ended(started)


def well(done):
    assert [code for code, _, _ in done] == [0, 0], "\n".join(err[-3000:] for _, _, err in done)
    return done


def equals_one_process(tmp_path, changes, trained):
    """Hold the first gradients and the last weights against those of one process."""
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        out.mkdir()
    training_process.main(one, dict(changes))
    well(trained(two, json.dumps(changes)))
    expected, ours = (load_file(out / "gradients.safetensors") for out in (one, two))
    for name, gradient in expected.items():
        far = (ours[name] - gradient).norm() / gradient.norm().clamp(min=1e-5)
        assert far < 1e-4 or name.endswith(NOISE), (name, float(far))
    # Adam divides by the size of gradients, which makes much of what is nearly none
    expected, ours = (load_file(out / "weights.safetensors") for out in (one, two))
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith(NOISE):
            torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=2e-3, msg=name)


def test_two_nodes_equal_one_process_with_the_whole_batch(tmp_path):
    changes = {"loss": "softmax", "local_loss": True, "micro_batch": 1, "matryoshka": [5]}
    equals_one_process(
        tmp_path, changes | {"shard_optimizer": True}, lambda *given: both(SMALL, *given)
    )


@pytest.mark.slow
def test_two_machines_of_accelerate_equal_one_process(tmp_path):
    port = free_port()

    def trained(*given):
        started = []
        for rank in range(2):
            command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
            command += ["--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)]
            command += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
            started.append(start([*command, str(SMALL), *map(str, given)]))
        return ended(started)

    equals_one_process(tmp_path, {"loss": "sigmoid"}, trained)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    for dropout in (0.0, 0.1):
        save_checkpoint(training_process.checkpoint(dropout), folder / f"model-{dropout}")
    coloured(folder, "train", 4, 0)
    coloured(folder, "val", 2, 1)
    in_tars(folder, shards=4)
    return folder


def in_tars(folder, shards):
    """Write the pictures of ``train.jsonl`` as webdataset's tars, too."""
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard:04d}.tar", "w") as tar:
            for number, line in enumerate(lines[shard::shards]):
                said = json.loads(line)
                picture = (folder / "images" / said["image"]).read_bytes()
                text = "\n".join(said["zh"]).encode()
                for ending, data in (("png", picture), ("txt", text)):
                    member = tarfile.TarInfo(f"{shard}-{number}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def command(files, out, dropout, *others, data="train.jsonl"):
    given = [files / data, "--val", files / "val.jsonl", "-m", files / f"model-{dropout}"]
    given += ["--preset", "both", "--out", out, "--batch-size", "6", "--lr", "1e-3", "--json"]
    for change in ("bf16=false", "warmup_steps=2", "patch_dropout=0", "micro_batch=2"):
        given += ["--set", change]
    return [*given, *others]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["files", "shards"])
def test_the_command_on_two_nodes_writes_the_model_of_one_process(data, files, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    changes, source = ["--epochs", "4", "--set", "evaluations=2"], "train.jsonl"
    if data == "shards":  # each node reads its part of a batch from two of the four
        changes += ["--set", "shard_ranks=2"]
        source = "train-{0000..0003}.tar"
    alone = subprocess.run(
        [sys.executable, SCRIPT, *command(files, one, 0.0, *changes, data=source)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert alone.returncode == 0, alone.stderr
    done = well(both(SCRIPT, *command(files, two, 0.0, *changes, data=source)))
    assert done[1][1] == "", "the second host's process prints nothing"
    expected, ours = json.loads(alone.stdout), json.loads(done[0][1])
    expected.pop("minutes"), ours.pop("minutes")
    assert expected["rose"]
    assert ours == pytest.approx(expected, abs=1e-6)
    ends = [
        load_file(tmp_path / f"{name}.run" / "both" / "finished.safetensors")
        for name in ("two", "one")
    ]
    start = load_file(files / "model-0.0" / "open_clip_model.safetensors")
    moved = max(
        float((ends[1][name].float() - start[name].float()).abs().max()) for name in ends[1]
    )
    apart = max(
        float((ends[0][name] - weight).abs().max())
        for name, weight in ends[1].items()
        if not name.endswith(NOISE)
    )
    assert apart < 0.02 * moved, (apart, moved)


def metrics_lines(out):
    return [
        json.loads(line)
        for line in (Path(f"{out}.run") / "both" / "metrics.jsonl").read_text().splitlines()
    ]


def steps_until(out, wanted, seconds=120):
    """Wait until a complete checkpoint of at least so many steps is there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        there = Path(f"{out}.run/both").glob("checkpoint-*/trainer_state.json")
        steps = [int(state.parent.name.rpartition("-")[2]) for state in there]
        if max(steps, default=0) >= wanted:
            return max(steps)
        time.sleep(0.02)
    pytest.fail(f"no checkpoint of {wanted} steps within {seconds} s")


def workers_of(node):
    return [
        int(pid) for pid in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["rank", "host"])
def test_a_run_goes_on_from_the_last_checkpoint_when_a_rank_is_killed(lost, files, tmp_path):
    """With dropout and a running mean: to the bit what nobody disturbed.

    Where the host is lost AdamW's means are divided, and those of the undisturbed run are not.
    """
    changes = ["--epochs", "30", "--set", "evaluations=10", "--set", "ema=0.9"]
    through, killed = tmp_path / "through", tmp_path / "killed"
    well(both(SCRIPT, *command(files, through, 0.1, *changes)))

    def arguments(rank):
        divided = ["--shard-optimizer"] * (lost == "host")
        return command(files, killed, 0.1, *changes, *divided)

    with nodes(SCRIPT, arguments, restarts=3) as started:
        at = steps_until(killed, 24)
        victims = [started[1].pid] * (lost == "host") + workers_of(started[1])
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if lost == "host":
            started[1].communicate()
            started[1] = start(started[1].args)  # as whoever looks after hosts would
        done = well(ended(started))
    if lost == "rank":
        assert "-9" in done[1][2], done[1][2][-3000:]
    assert at < 120 == metrics_lines(killed)[-1]["step"]
    expected, ours = (
        load_file(Path(f"{out}.run") / "both" / "finished.safetensors") for out in (through, killed)
    )
    assert [key for key in expected if not torch.equal(ours[key], expected[key])] == []
    losses = [
        [(line["step"], line["loss"]) for line in metrics_lines(out) if "loss" in line]
        for out in (through, killed)
    ]
    assert losses[0] == losses[1], "no step is told twice"


@pytest.mark.slow
def test_hosts_with_folders_of_their_own_are_refused_together(files, tmp_path):
    def arguments(rank):
        return command(files, tmp_path / "out", 0.0, "--run-dir", tmp_path / f"host-{rank}" / "run")

    with nodes(SCRIPT, arguments) as started:
        done = ended(started)
    for code, _, told in done:
        assert code
        assert "expected one folder of the run in all 2 processes" in told


@pytest.mark.slow
def test_hosts_with_other_data_are_refused_together(files, tmp_path):
    coloured(tmp_path, "train", 5, 0)

    def arguments(rank):
        given = command(files, tmp_path / "out", 0.0)
        return [tmp_path / "train.jsonl", *given[1:]] if rank else given

    with nodes(SCRIPT, arguments) as started:
        done = ended(started)
    for code, _, told in done:
        assert code
        assert "expected all 2 processes to be asked for the same run" in told
