"""benchmarks/encode.py: all contenders give the same rows, and the script's report."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytest.importorskip("cn_clip", reason="pip install --no-deps cn_clip six")


@pytest.fixture
def encode(monkeypatch):
    """The script as a module, of a shape that takes milliseconds."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("encode")
    monkeypatch.setattr(module, "QUICK", module.Shape(image_size=32, layers=2, width=64))
    return module


def test_figures_are_medians_ratios_and_cosines_by_hand(encode):
    turned = np.array([[0.6, 0.8], [0.0, 1.0]], np.float32)
    rows = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    raced = {
        "ours, torch": encode.Raced(encode.Times([0.4, 0.2, 0.3], [0.2, 0.2, 0.2]), rows),
        "plain OpenVINO": encode.Raced(encode.Times([0.8, 0.2, 0.6], [0.5, 0.4, 0.1]), turned),
    }
    assert encode.lowest_cosines(raced) == pytest.approx({"ours, torch": 1, "plain OpenVINO": 0.6})
    found = encode._figures_of("ours, torch", 1, raced["ours, torch"].times, raced)
    assert found == pytest.approx(
        {
            "text_ours_torch_1_per_second": 1 / 0.3,
            "text_ours_torch_1_cpu_ms": 200,
            "text_ours_torch_1_over_plain": 2,
            "text_ours_torch_1_over_plain_by_cpu": 2,
            "text_ours_torch_p_50_ms": 300,
            "text_ours_torch_p_99_ms": 398,
        }
    )
    # 12 layers of 768: 85M weights, of which each token asks twice
    assert encode.operations_of_text(encode.Shape(), 1) == pytest.approx(2 * 84.9e6, rel=1e-3)
    assert encode.operations_of_picture(encode.Shape()) == pytest.approx(197 * 2 * 84.9e6, rel=1e-3)


def test_another_starts_each_turn_and_the_first_rows_are_kept(encode):
    calls = []

    def contender(name):
        return lambda given: calls.append(name + given) or np.full((1, 1), len(calls), np.float32)

    raced = encode.race({"a": contender("a"), "b": contender("b")}, ["1", "2"], "0")
    assert calls == ["a0", "b0", "a1", "b1", "b2", "a2"]
    assert (raced["a"].rows[0, 0], raced["b"].rows[0, 0]) == (3, 4)
    assert [len(each.times.cpu) for each in raced.values()] == [2, 2]


def test_contenders_are_chosen_by_their_ends_beside_the_first(encode):
    names = dict.fromkeys(["ours, torch", "ours, int8", "plain, int8", "plain", "cn_clip"], 0)
    for arguments, chosen in (
        ([], list(names)),
        (["--contenders", "int8", "clip"], ["ours, torch", "ours, int8", "plain, int8", "cn_clip"]),
        (["--quick"], ["ours, torch", "plain", "cn_clip"]),
        (["--quick", "--contenders", "int8"], ["ours, torch"]),
    ):
        assert list(encode._chosen(names, encode.read_options(arguments))) == chosen


def test_a_device_is_raced_with_big_batches(encode):
    # meant for a GPU; the same calls on the CPU, which is named so that it is taken for a device
    options = encode.read_options(["--quick", "--device", "cpu", "--sections", "texts", "pictures"])
    options.device_texts = 9
    checkpoint = encode.checkpoint_of(encode.our_model(encode.QUICK).eval(), encode.QUICK)
    lines, figures = encode.device_section(checkpoint, encode.QUICK, options)
    for kind in ("texts", "pictures"):
        for name in ("ours_torch", "open_clip"):
            assert figures[f"{kind}_{name}_lowest_cosine"] == pytest.approx(1, abs=1e-5)
            bf16 = figures[f"{kind}_{name}_bf16_lowest_cosine"]
            assert 0.99 < bf16 < 1 - 1e-7
            rate, share = (
                figures[f"{kind}_{name}_{figure}"] for figure in ("per_second", "of_peak")
            )
            assert 0 < share < rate
        assert figures[f"{kind}_open_clip_bf16_over_open_clip"] == 1
    assert lines[0].endswith("| a second | of bf16 peak | × open_clip | lowest cosine |")
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        f"| {kind}, {name}"
        for kind in ("texts", "pictures")
        for name in ("ours, torch", "ours, torch-bf16", "open_clip", "open_clip, bf16")
    ]


@pytest.mark.slow
def test_every_contender_gives_the_same_rows(encode):
    contenders = importlib.import_module("encode_contenders")
    checkpoint = encode.checkpoint_of(encode.our_model(encode.QUICK).eval(), encode.QUICK)
    racers = contenders.text_contenders(checkpoint, encode.QUICK)
    texts = encode.read_captions(None, 20)
    cosines = encode.lowest_cosines(encode.race(racers, [texts]))
    assert {"ours, torch", "cn_clip", "open_clip", "transformers"} <= set(cosines)
    exact = {name: cosine for name, cosine in cosines.items() if name[-4:] not in ("bf16", "int8")}
    assert min(exact.values()) > 1 - 1e-5
    assert min(cosines.values()) > 0.99


@pytest.mark.slow
def test_the_quick_run_prints_flat_figures_and_tables():
    figures = json.loads(_quick("--json", "--sections", "texts").splitlines()[-1])
    assert all(isinstance(value, int | float) for value in figures.values())
    assert {"text_ours_torch_8_per_second", "text_cn_clip_p_50_ms"} <= set(figures)
    tables = [line for line in _quick().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[:9]} == {9}
    assert any(line.startswith("| starter, open_clip, PIL |") for line in tables)


def _quick(*arguments):
    done = subprocess.run(
        [sys.executable, "encode.py", "--quick", *arguments],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
