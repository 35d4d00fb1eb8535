"""``clip-text index plan``: the arithmetic, and what docs/scaling.md quotes of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clip_text_cli.index.planning import read_count, told_bytes, told_time
from clip_text_cli.main import app
from retrieval.index.planning import USABLE, plan
from retrieval.index.recipes import Recipe, build_lists, choose_recipe

PAGE = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")


def run(*arguments):
    return CliRunner().invoke(app, ["index", "plan", *map(str, arguments)])


def sizes(pictures, dim=512, **others):
    planned = plan(pictures, dim, 100.0, **others)
    return {size.name: size for size in planned.sizes}


def test_bytes_of_a_vector_by_hand():
    """Of 4,000,000 vectors of 512: 4,000 lists' centres are 4 * 512 * 4,000 bytes."""
    found = sizes(4_000_000)
    centres = 4 * 512 * 4_000
    expected = {
        "exact, fp32": (2048, 0),
        "HNSW, M=16": (2048 + 128, 0),
        "exact, fp16": (1024, 0),
        "IVF-SQ8": (512 + 8, centres),
        "DiskANN": (256 + 204.8, 0),
        "IVF-PQ4, fp16 mapped": (128 + 8, centres),
        "IVF-PQ8": (64 + 8, centres),
    }
    assert {name: size.memory for name, size in found.items()} == pytest.approx(
        {name: 4e6 * each + once for name, (each, once) in expected.items()}
    )
    assert found["IVF-PQ4, fp16 mapped"].disk == 4e6 * 1024
    # a vector of 2,048 bytes with 57 numbers of 4 fills a sector; of 256 wide three share one
    assert found["DiskANN"].disk == 4e6 * 4096
    assert sizes(4_000_000, 256)["DiskANN"].disk == pytest.approx(4e6 * 4096 / 3)
    assert sizes(4_000_000, 1024)["DiskANN"].disk == 4e6 * 8192


def test_lists_hold_what_is_planned():
    """Against FAISS's own file of the recipe."""
    import faiss

    count, dim = 60_000, 64
    rng = np.random.default_rng(0)
    halves = rng.standard_normal((count, dim)).astype(np.float16)
    recipe = choose_recipe(count, dim)
    planned = plan(count, dim, 1.0)
    assert planned.recipe == recipe
    written = len(faiss.serialize_index(build_lists(Recipe(recipe.factory), halves)))
    ours = next(size for size in planned.sizes if size.note == "of this package")
    # blocks of 32 codes are filled up: of 489 lists half a block each, and the tables of codes
    assert ours.memory <= written < 1.2 * ours.memory


def test_times_go_through_what_was_measured():
    million = plan(1_000_000, 512, 28.3)
    assert million.build_hours * 3600 == pytest.approx(129)
    assert plan(100_000, 512, 28.3).build_hours * 3600 == pytest.approx(5.8)
    assert million.fill_hours * 3600 == pytest.approx(952)
    assert million.embed_hours * 3600 == pytest.approx(1_000_000 / 28.3)
    assert plan(1_000_000, 512, 28.3, workers=10).embed_hours == pytest.approx(
        million.embed_hours / 10
    )
    # 400 of 2,000 lists are 200,000 rows; 124,000 more rows took 5.54 ms more
    assert million.query_seconds == pytest.approx(1.35e-3 + 196e3 * 5.54e-3 / 124e3)
    assert plan(50_000, 512, 1.0).query_seconds == pytest.approx(0.195 * 0.05)
    assert plan(50_000, 512, 1.0).build_hours == 0


def test_machines_and_loading():
    found = sizes(100_000_000, machine=100e9, disk_rate=2e9)["exact, fp32"]
    assert found.machines == 3  # 204.8 GB by 70 GB
    assert found.load_seconds == pytest.approx(204.8 / 3 / 2)
    assert USABLE == 0.7


def test_what_gives_way_comes_with_size():
    assert plan(1_000_000, 512, 28.3).limits == []
    many = " ".join(plan(10**9, 512, 28.3).limits)
    for told in ("one writer takes 11.0 days", "CPU seconds by IVF63245", "136 GB", "13.6 months"):
        assert told in many


@pytest.mark.parametrize("wrong", ["pictures", "embed_dim", "rate", "workers", "machine"])
def test_numbers_that_make_no_sense(wrong):
    given = {"pictures": 1, "embed_dim": 1, "rate": 1.0, "workers": 1, "machine": 1.0}
    with pytest.raises(ValueError, match=f"expected {wrong} above 0, got 0"):
        plan(**given | {wrong: 0})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("250000", 250_000),
        ("1,000", 1000),
        ("100M", 10**8),
        ("1.5b", 1_500_000_000),
        ("3亿", 3 * 10**8),
    ],
)
def test_numbers_of_pictures(text, number):
    assert read_count(text) == number


def test_words_for_bytes_and_times():
    assert [told_bytes(number) for number in (999, 1e6, 13.6e9)] == ["999 B", "1.00 MB", "13.6 GB"]
    assert [told_time(number) for number in (0.5, 90, 86400 * 400)] == [
        "0.50 s",
        "1.50 minutes",
        "1.10 years",
    ]


@pytest.mark.parametrize("wrong", ["many", "0", "1X", ""])
def test_no_number_of_pictures(wrong):
    done = run("--pictures", wrong)
    assert done.exit_code == 2
    assert "expected a number of pictures" in done.output.replace("\n", " ")
    assert run("--pictures", "1M", "--machine", "much").exit_code == 2


def test_json_has_it_all():
    done = json.loads(run("--pictures", "100M", "--dim", 256, "--json").stdout)
    planned = plan(10**8, 256, 28.3)
    assert done["sizes"][0]["memory"] == planned.sizes[0].memory == 10**8 * 1024
    assert done["limits"] == planned.limits
    assert done["recipe"]["factory"] == "IVF20000,PQ128x4fs"


QUOTED = re.findall(r"```\nclip-text index plan (.*?)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("arguments", "printed"), QUOTED)
def test_the_page_quotes_what_is_printed(arguments, printed):
    done = run(*arguments.split())
    assert done.exit_code == 0, done.output
    assert [line.rstrip() for line in done.stdout.splitlines()] == printed.splitlines()


def test_the_page_has_four_sizes():
    assert [arguments.split()[1] for arguments, _ in QUOTED[:4]] == ["1M", "100M", "1B", "10B"]


TABLE = re.findall(r"^\| ([\d,]+) (million|billion) \|(.*)\|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("number", "unit", "cells"), TABLE)
def test_the_pages_table_is_the_calculators(number, unit, cells):
    pictures = int(number.replace(",", "")) * {"million": 10**6, "billion": 10**9}[unit]
    planned = plan(pictures, 512, 28.3)
    starter = plan(pictures, 256, 198)
    expected = [
        told_time(starter.embed_hours * 3600),
        told_time(planned.embed_hours * 3600),
        told_time(planned.fill_hours * 3600),
        told_time(planned.build_hours * 3600),
        told_bytes(planned.catalogue),
    ]
    assert [cell.strip() for cell in cells.split("|")] == expected


def test_the_pages_table_has_four_sizes():
    assert [(number, unit) for number, unit, _ in TABLE] == [
        ("1", "million"),
        ("100", "million"),
        ("1", "billion"),
        ("10", "billion"),
    ]
