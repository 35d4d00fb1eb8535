"""Every recipe refuses numbers that make no sense, and the commands say so before they begin."""

import importlib
import math
import pkgutil
from dataclasses import fields, is_dataclass
from typing import get_args

import pytest

from clip_text import training
from clip_text.training.distillation import DistillationRecipe
from clip_text.training.recipe import Range, RecipeError

REQUIRED = {"Recipe": {"epochs": 1}, "Stage": {"name": "a", "recipe": None}}


def recipes():
    found = set()
    for module in pkgutil.iter_modules(training.__path__, f"{training.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if is_dataclass(value) and getattr(value, "__name__", "").endswith(("Recipe", "Stage")):
                found.add(value)
    return sorted(found, key=lambda each: each.__name__)


RECIPES = recipes()


# words or a number, or several
CHECKED_BY_THEMSELVES = ("text", "image", "weights", "matryoshka")


def kind_of(field):
    choices = [each for each in get_args(field.type) if each is not type(None)]
    return choices[0] if type(None) in get_args(field.type) else field.type


def ranged(recipe):
    return [field for field in fields(recipe) if hasattr(kind_of(field), "__metadata__")]


def test_they_are_all_found():
    names = {each.__name__ for each in RECIPES}
    assert names >= {"Recipe", "Stage", "HeadRecipe", "DistillationRecipe", "MaskedLMRecipe"}
    assert "ClassifierRecipe" in names


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_has_a_range(recipe):
    for field in fields(recipe):
        kind = kind_of(field)
        if not {int, float} & {kind, *get_args(kind)} or field.name in CHECKED_BY_THEMSELVES:
            continue
        assert any(isinstance(each, Range) for each in get_args(kind)), field.name


@pytest.mark.parametrize("recipe", RECIPES)
def test_numbers_out_of_range_are_refused_by_name(recipe):
    given = REQUIRED.get(recipe.__name__, {})
    recipe(**given)
    for field in ranged(recipe):
        for value in (-1, math.nan, math.inf, -math.inf, "3", True):
            with pytest.raises(RecipeError, match=rf"expected {field.name} to be .*, got"):
                recipe(**{**given, field.name: value})


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_a_language_is_drawn_at_times(weight):
    with pytest.raises(RecipeError, match="expected the weight of ja to be a number above 0"):
        DistillationRecipe(weights={"zh": 1.0, "ja": weight})


@pytest.mark.parametrize(
    "arguments",
    [
        ["contrastive", "pictures.jsonl"],
        ["classifier", "texts.tsv"],
        ["ner", "names.jsonl"],
        ["pairs", "pairs.tsv"],
        ["qa", "questions.json"],
        ["distill", "pairs.tsv", "--from", "en", "--to", "zh"],
        ["mlm", "texts.txt"],
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("rate", ["-1", "0", "nan"])
def test_a_learning_rate_that_is_none_is_refused_before_data_are_read(
    arguments, rate, run, tmp_path
):
    given = [*arguments, "--learning-rate", rate, "--out", tmp_path / "out"]
    code, out, err = run("train", *given)  # the data are not there: they are not looked for yet
    assert (code, out) == (1, "")
    expected = "error: expected learning_rate to be a number above 0, got"
    assert err.startswith(expected), err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
