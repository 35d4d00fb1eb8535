"""Teaching a backbone a field's language by masked words of plain text."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from transformers import PreTrainedModel, TrainerState

from clip_text.checkpoints import resolve
from clip_text.data.corpus import Tokens, tokenise
from clip_text.storage import keep_json
from clip_text.tokenizer import CONTEXT_LENGTH, Tokenizer
from clip_text.training import trainer
from clip_text.training.callbacks import Listener, step_line
from clip_text.training.data import TextData
from clip_text.training.masked_lm import MaskedLMTrainer, Perplexity, save_masked_lm
from clip_text.training.masked_models import drop_less, load_masked_lm, new_masked_lm
from clip_text.training.masked_sequences import MaskedLMRecipe, MaskedSequences
from clip_text.training.recipe import RecipeError
from clip_text.training.runs import Run, Trained, check_inputs
from clip_text.training.students import SIZES

BEFORE, STEPS = "before.json", "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedMaskedLM(Trained[PreTrainedModel]):
    """What came of it; ``model`` is transformers' own for masked LM.

    ``metrics`` has loss, perplexity and accuracy on the text held out.

    Args:
        tokenizer: Tokenizer that the model reads with.
    """

    tokenizer: Tokenizer


def train_masked_lm(
    start: str | Path,
    data: TextData,
    recipe: MaskedLMRecipe,
    folder: str | Path,
    *,
    listener: Listener | None = None,
    out: str | Path | None = None,
    tokenizer: str | Path | None = None,
    grow: bool = False,
    dropout: float | None = None,
    cache: str | Path | None = None,
) -> TrainedMaskedLM:
    """Teach a backbone by masked words; the same call again goes on where it was stopped.

    Args:
        start: Name of a checkpoint, whose text tower is meant, or of a plain encoder; or a size
            (``tiny``, ``mini``, ``small``, ``medium``, ``base``) for random weights. A path is
            never a size.
        data: Plain text.
        recipe: Rates, steps and batch sizes to train by; the model's own context if they name none.
        folder: Folder of the run: checkpoints, metrics, report.
        listener: Told how the run goes.
        out: Folder to write model and tokenizer to, a plain one of transformers.
        tokenizer: Folder of one for random weights; Chinese word pieces if None.
        grow: Give an encoder of fewer positions as many as the context needs.
        dropout: In this run; the model's if None.
        cache: Folder for the tokenised text; in the user's cache if None.

    Raises:
        TypeError: If data or recipe are of another training.
        CheckpointError: If the start cannot be read, or has no positions for the context.
        ClipTextError: If the folder holds another run.
        DataError: If there is no text, or too little to validate on.
        RecipeError: If a batch is larger than the text, or a tokenizer is given beside a model.
        NonFiniteLossError: If the loss is no number any more.
    """
    check_inputs(data, TextData, recipe, MaskedLMRecipe)
    files = data.files()
    model, own, new_head = _start(start, tokenizer, recipe, grow=grow)
    if dropout is not None:
        drop_less(model, dropout)
    recipe = replace(recipe, context_length=own.context_length)
    heard = listener or Listener()
    processes = trainer.join_processes()
    with processes.main_process_first():  # the others find it all in the cache
        learnt, held = _read(
            data, files, own, Path(cache or user_cache_path("clip-text") / "tokens"), heard
        )
        for tokens in (learnt, held):
            tokens.sequences(own.context_length, recipe.packing)
    asked: dict[str, Any] = {"model": str(start), "learnt": learnt.path.parent.name}
    asked |= {} if dropout is None else {"dropout": dropout}
    asked |= {"held": held.path.parent.name}
    # what is not given stays out, so that runs of before there was the option go on
    asked |= {name: value for name, value in asdict(recipe).items() if value is not None}
    run = Run(Path(folder), asked, processes=processes)
    run.begin()
    report = run.report()
    figures = _train(run, model, own, (learnt, held), recipe, heard, report)
    report = report or {"new_head": new_head} | figures
    report["parameters"] = model.num_parameters()
    if out is not None:
        there = report.get("model") == str(out) and Path(out).exists()
        if processes.is_main_process and not there:
            save_masked_lm(model, own, Path(out))
        report["model"] = str(out)
    run.write_report(report)
    metrics = {name: report[name] for name in ("loss", "perplexity", "accuracy")}
    return TrainedMaskedLM(model=model, metrics=metrics, report=report, tokenizer=own)


def _start(
    start: str | Path, tokenizer: str | Path | None, recipe: MaskedLMRecipe, *, grow: bool
) -> tuple[PreTrainedModel, Tokenizer, bool]:
    """Load or make the model; beside it its tokenizer, and whether its head is new."""
    length, seed = recipe.context_length, recipe.seed
    if isinstance(start, str) and start in SIZES:
        own = Tokenizer.from_folder(Path(tokenizer or resolve("starter")), length or CONTEXT_LENGTH)
        return new_masked_lm(start, own, seed=seed), own, True
    if tokenizer is not None:
        raise RecipeError(
            f"expected a size ({', '.join(SIZES)}) beside a tokenizer, got {str(start)!r}. A model "
            "has its own."
        )
    return load_masked_lm(start, context_length=length, grow=grow, seed=seed)


def _read(
    data: TextData,
    files: tuple[list[Path], list[Path]],
    tokenizer: Tokenizer,
    cache: Path,
    listener: Listener,
) -> tuple[Tokens, Tokens]:
    """Tokenise what to learn from and what to validate on."""

    def read(paths: list[Path], share: float) -> tuple[Tokens, Tokens]:
        return tokenise(
            *(paths, tokenizer, cache),
            fields=tuple(data.fields),
            line_documents=data.line_documents,
            user_dict=data.user_dict,
            held_out=share,
            progress=listener.progress,
        )

    train, validation = files
    if not validation:
        return read(train, data.held_out)
    return read(train, 0.0)[0], read(validation, 0.0)[0]


def _train(  # noqa: PLR0917
    run: Run,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    texts: tuple[Tokens, Tokens],
    recipe: MaskedLMRecipe,
    listener: Listener,
    report: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Measure, train and measure again; the figures, or none where the run is at its end."""
    learnt, held = texts
    sequences = MaskedSequences(learnt, tokenizer, recipe)
    # the same masks whatever the seed, so that runs can be compared
    fixed = replace(recipe, seed=0)
    exam = Perplexity(MaskedSequences(held, tokenizer, fixed, recipe.held_sequences))
    steps = MaskedLMTrainer(
        *(model, sequences, exam, recipe, run.folder / STEPS),
        listener.heard("steps", step_line(_perplexity)),
    )
    if report is None:
        # processes measure together: each of them finds it, or none
        before = keep_json(run.folder / BEFORE, dict(run.settings), steps.measure)
        run.processes.wait_for_everyone()
        listener.say(f"  before       {_perplexity(before)}")

    def train() -> TrainerState:
        steps.fit()
        return steps.state

    course = run.fit(model, train)
    model.train(False)
    if report is not None:
        return {}
    return {
        **course.figures(),
        **{f"{name}_before": value for name, value in before.items()},
        **steps.measure(),
        "sequences": len(sequences),
        "held_sequences": len(exam.sequences),
        "tokens": len(learnt.ids),
        "held_tokens": len(held.ids),
        "documents": learnt.documents,
        "held_documents": held.documents,
    }


def _perplexity(metrics: Mapping[str, float]) -> str:
    return f"perplexity {metrics['perplexity']:,.1f}"
