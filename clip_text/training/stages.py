"""Stages of training: what each is, and the presets they are read from."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from clip_text.data.collection import RetrievalSet, shards_of
from clip_text.data.lanes import Lanes
from clip_text.data.text_files import read_text
from clip_text.training.recipe import Count, Factor, Recipe, RecipeError, Whole, check_fields

PRESETS = "presets"
FEATURES = "features"
"""Folder of a run's cached features, beside those of its stages."""

RATES = ("learning_rate", "image_learning_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of fine-tuning.

    Args:
        name: Name of its folder in the run.
        recipe: Rates, epochs and batch sizes to train by; rates that are to be suggested are
            ignored.
        batch_size: Pictures in a batch, over all processes.
        captions_per_image: Captions of each of them, at most.
        keep_apart: Pictures with a caption in common never meet in a batch.
        views: Number of views of a cached picture: one as it is, the others random crops.
        crop: Smallest share of a picture's area a random crop shows; 1 for no crops.
        suggest: Which of the two learning rates are to be suggested from batch and data.
        shard_ranks: Processes that the data's shards are dealt to, anew in every epoch: each reads
            its part of a batch from its own shards. 0: each part is drawn from all of them.
        shard_workers: Workers of each of these, which read the shards of a process in turn.

    Raises:
        RecipeError: If a number is out of its range, or the name is none of a folder.
    """

    name: str
    recipe: Recipe
    batch_size: Count = 128
    captions_per_image: Count = 2
    keep_apart: bool = False
    views: Count = 1
    crop: Factor = 0.9
    suggest: tuple[str, ...] = ()
    # not in the repr, by which runs of before there were these know themselves
    shard_ranks: Whole = field(default=0, repr=False)
    shard_workers: Count = field(default=1, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        # the folder is emptied when the stage starts anew: it has to be one within the run's
        if not re.fullmatch(r"[\w-]+", self.name) or self.name == FEATURES:
            raise RecipeError(
                f"expected a stage's name of letters, digits and -, and not {FEATURES}, got "
                f"{self.name!r}. Rename it."
            )


def presets() -> list[str]:
    """Names of the bundled presets."""
    folder = files("clip_text.training") / PRESETS
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def read_stages(preset: str, changes: Mapping[str, Any] | None = None) -> list[Stage]:
    """Read a preset: a bundled one's name, or a TOML file.

    Args:
        preset: Name or path.
        changes: Numbers by name that every stage gets in place of its own.

    Raises:
        RecipeError: If there is none, it is no TOML, names something unknown, or two stages alike.
    """
    if preset in presets():
        text = (files("clip_text.training") / PRESETS / f"{preset}.toml").read_text("utf-8")
    elif Path(preset).is_file():
        text = read_text(Path(preset))
    else:
        raise RecipeError(
            f"expected a preset ({', '.join(presets())}) or a .toml file, got {preset!r}. "
            "Check the name."
        )
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"expected TOML in {preset}, got {error}. Correct it.") from None
    listed = tables.get("stage")
    good = isinstance(listed, list) and all(isinstance(table, dict) for table in listed)
    if set(tables) != {"stage"} or not good:
        raise RecipeError(
            f"expected [[stage]] tables in {preset}, got {', '.join(tables) or 'nothing'}. "
            "Correct it."
        )
    stages = [_stage(table | dict(changes or {}), preset) for table in tables["stage"]]
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise RecipeError(
            f"expected stages of different names in {preset}, got {', '.join(names)}. Rename one."
        )
    return stages


def _stage(table: dict[str, Any], preset: str) -> Stage:
    # a run chooses by the metric that it tells
    of_recipe = {field.name for field in fields(Recipe)} - {"best_by"}
    of_stage = {field.name for field in fields(Stage)} - {"recipe", "suggest"}
    if isinstance(table.get("matryoshka"), list):  # TOML and JSON have no tuples
        table = table | {"matryoshka": tuple(table["matryoshka"])}
    unknown = sorted(set(table) - of_recipe - of_stage)
    if unknown or "name" not in table or "epochs" not in table:
        raise RecipeError(
            f"expected name, epochs and keys among {', '.join(sorted(of_recipe | of_stage))} "
            f"in a stage of {preset}, got {', '.join(unknown) or 'no ' + _missing(table)}. "
            "Correct it."
        )
    try:
        recipe = Recipe(**{key: table[key] for key in table if key in of_recipe})
        stage = Stage(
            recipe=recipe,
            suggest=tuple(name for name in RATES if name not in table),
            **{key: table[key] for key in table if key in of_stage},
        )
    except TypeError as error:
        raise RecipeError(f"expected numbers in {preset}, got {error}. Correct it.") from None
    return with_rates(stage, recipe.learning_rate) if "learning_rate" in table else stage


def _missing(table: Mapping[str, Any]) -> str:
    return " and ".join(key for key in ("name", "epochs") if key not in table)


def with_rates(stage: Stage, learning_rate: float) -> Stage:
    """Set the rates that a stage has not; the image tower's below its projection is a tenth."""
    recipe = stage.recipe
    if "learning_rate" in stage.suggest:
        recipe = replace(recipe, learning_rate=learning_rate)
    if "image_learning_rate" in stage.suggest:
        recipe = replace(recipe, image_learning_rate=learning_rate / 10)
    return replace(stage, recipe=recipe, suggest=())


def fit_batches(stages: Sequence[Stage], pictures: int) -> list[Stage]:
    """Lower batch sizes so that an epoch has four batches, as far as there are pictures."""
    most = max(1, pictures // 4)
    return [replace(stage, batch_size=min(stage.batch_size, most)) for stage in stages]


def check_sizes(stages: Sequence[Stage], pictures: int, processes: int = 1) -> None:
    """Refuse batches that the data do not fill.

    Raises:
        RecipeError: If one is larger than the data, or smaller than the number of processes.
    """
    for stage in stages:
        if not processes <= stage.batch_size <= pictures:
            raise RecipeError(
                f"expected a batch_size between {processes} (processes) and {pictures:,} "
                f"(pictures to train on) in stage {stage.name}, got {stage.batch_size:,}. "
                "Lower it, or get more pictures."
            )


def deal_shards(stage: Stage, collection: RetrievalSet) -> Lanes | None:
    """Deal a data set's shards out as a stage asks; None where it does not.

    Raises:
        RecipeError: If the pictures lie in no shards.
        DataError: If there are too few of these.
    """
    if not stage.shard_ranks:
        return None
    shards = shards_of(collection.images)
    if shards is None:
        raise RecipeError(
            f"expected pictures in shards (webdataset's tars) to deal to {stage.shard_ranks} "
            f"ranks, got others in {collection.name}. Leave shard_ranks out."
        )
    return Lanes(shards, stage.shard_ranks, stage.shard_workers)
