"""Fine-tuning from pictures and captions to a checkpoint that is not worse than the start."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerControl, TrainerState, TrainingArguments, set_seed

from clip_text.checkpoints import Checkpoint
from clip_text.data.batches import Pictures, Source
from clip_text.data.collection import RetrievalSet
from clip_text.data.duplicates import merge_wordings, pictures_by_wording
from clip_text.data.identity import (
    captions_of,
    collection_digest,
    picture_files,
    pictures_digest,
)
from clip_text.encoder import Encoder
from clip_text.evaluation.measure import Encoded, encode_images, measure
from clip_text.evaluation.ranking import Features
from clip_text.features import Pixels, cached_features, module_digest
from clip_text.progress import part_of
from clip_text.storage import partial_file
from clip_text.training.callbacks import StepProgress
from clip_text.training.contrastive import (
    ContrastiveModel,
    ContrastiveTrainer,
    fit_logit_bias,
)
from clip_text.training.guard import (
    SHARES,
    Metrics,
    Mixture,
    best_mixture,
    load_mixture,
    measure_mixtures,
    snapshot,
)
from clip_text.training.image_tower import ImageTower, image_tower
from clip_text.training.parameters import check_towers, close_parameters
from clip_text.training.recipe import suggest_learning_rate
from clip_text.training.stages import FEATURES, Stage, check_sizes, run_stage, with_rates
from clip_text.training.trainer import NonFiniteLossError, Plumbing, join_processes

KS = (1, 5, 10)
FEW = 100
"""Fewer pictures than this make recall a coarse measure."""
PICTURES_OF_A_LABEL = 4
"""Pictures for each wording of a caption, on average, above which captions are labels."""
SHOWN_LABELS = 3
"""How many of them are named."""
BEST_BY = "mean_recall"
"""Mean of recall@1, @5 and @10 both ways: what Chinese-CLIP's tables call MR."""


@dataclass(frozen=True, slots=True)
class Data:
    """What is learnt from, and what is measured on.

    Args:
        train: Pictures and captions to learn from.
        validation: What the best checkpoint is chosen by; none of it is learnt.
        weights: How often a batch asks for each kind of caption; all alike if empty.
        keep: What should not get worse: measured along the line to the start, never learnt.
    """

    train: RetrievalSet
    validation: RetrievalSet
    weights: Mapping[str, float] = field(default_factory=dict)
    keep: RetrievalSet | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Args:
        start: Validation before the first step.
        mixtures: Validation along the line from the start to the end of training.
        chosen: The one that the checkpoint now holds; share 0 is the start itself.
        best_by: The metric it was chosen by.
    """

    start: Metrics
    mixtures: list[Mixture]
    chosen: Mixture
    best_by: str

    @property
    def rose(self) -> bool:
        """Whether anything better than the start was found, which is the first of equals."""
        return self.chosen.share > 0


@dataclass(frozen=True, slots=True)
class Listener:
    """What is told as a run goes on; nothing by default.

    Args:
        say: A line for a person.
        progress: Called with a task's name, how much is done and how much there is.
    """

    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int], None] = lambda *_: None


def finetune(
    checkpoint: Checkpoint,
    data: Data,
    stages: Sequence[Stage],
    folder: Path,
    *,
    plumbing: Plumbing | None = None,
    listener: Listener | None = None,
    shares: Sequence[float] = SHARES,
) -> Outcome:
    """Fine-tune a checkpoint in place; the same call again goes on where it was stopped.

    Validation runs before the first step. In the end the weights on the line from the start to
    the end of training are measured, and the best of them is what the checkpoint holds: on
    validation it never ends below the start.

    Args:
        checkpoint: Where to start from. Classification heads that read its text backbone are
            for the weights before: see :meth:`Checkpoint.without_readers`.
        data: Pictures and captions.
        stages: Run one after the other; each keeps its best checkpoint.
        folder: Of the run: cached features, state, metrics.
        plumbing: Workers, loggers, compilation.
        listener: Told how the run goes.
        shares: Of the fine-tuned weights, to measure in the end; 0 has to be among them.

    Raises:
        RecipeError: If a batch is larger than the data, a tower has not what is asked for, or
            two stages have one name.
        ValueError: If the start is not among the shares.
        DataError: If a picture cannot be read.
        NonFiniteLossError: If the loss is no number any more.
        SaveError: If the disk is full.
    """
    if 0 not in shares:
        raise ValueError(f"expected share 0, the start, among {list(shares)}. Add it.")
    run = _Run(checkpoint, data, folder, plumbing or Plumbing(), listener or Listener())
    check_sizes(stages, len(data.train.image_ids), run.processes.num_processes)
    for stage in stages:
        check_towers(checkpoint.model, stage.recipe)
    run.warn()
    start = snapshot(checkpoint.model)
    # a stage depends on what the run started from, and on the stages before it
    made_by = [
        run.encoder.fingerprint,
        collection_digest(data.train),
        collection_digest(data.validation),
        *(["equal wordings are right"] if run.merged else []),
    ]
    before = run.measure_start(repr(made_by))
    run.listener.say(f"before training: {told(before)}")
    for stage in stages:
        ready = run.with_rates(stage)
        made_by.append(repr((ready, sorted(data.weights.items()))))
        run.run_stage(ready, repr(made_by), before)
    mixtures = measure_mixtures(
        checkpoint.model,
        start,
        end := snapshot(checkpoint.model),
        lambda: run.validate(run.data.validation),
        keep=(lambda: run.validate(cast(RetrievalSet, run.data.keep))) if data.keep else None,
        shares=shares,
        on_mixture=lambda one: run.tell_mixture(one, before),
    )
    chosen = best_mixture(mixtures, BEST_BY)
    load_mixture(checkpoint.model, start, end, chosen.share)
    return Outcome(before, mixtures, chosen, BEST_BY)


def told_labels(collection: RetrievalSet) -> str:
    """Say what recall means where captions are labels that many pictures share; else nothing.

    Args:
        collection: What is measured on, with equal wordings merged.
    """
    pictures = pictures_by_wording(collection)
    described = len(set().union(*pictures.values()))
    labels = len(pictures) * PICTURES_OF_A_LABEL < described or len(pictures) == 1 < described
    if not labels:
        return ""
    most = sorted(pictures, key=lambda wording: -len(pictures[wording]))[:SHOWN_LABELS]
    shown = ", ".join(f"{wording} ({len(pictures[wording]):,})" for wording in most)
    if more := len(pictures) - len(most):
        shown += f" and {more:,} more"
    return (
        f"note: the captions of {described:,} pictures to measure on have {len(pictures):,} "
        f"wording{'s' if len(pictures) > 1 else ''}: {shown}. They are labels: i2t recall@1 is "
        "the share of pictures whose own label is the nearest (guessing gives 1 in "
        f"{len(pictures):,}), t2i recall@k that of captions with a picture of their label among "
        "the first k, which is soon reached"
    )


def told(metrics: Metrics, before: Metrics | None = None) -> str:
    """Say metrics in a line, in percent, with the change of the mean since the start."""
    recalls = " / ".join(f"{100 * metrics[f't2i_recall@{k}']:.1f}" for k in KS)
    line = f"t2i recall@{'/'.join(map(str, KS))} {recalls}, mean {100 * metrics[BEST_BY]:.2f}"
    return line if before is None else f"{line} ({_change(metrics, before)})"


def _change(metrics: Metrics, before: Metrics) -> str:
    return f"{100 * (metrics[BEST_BY] - before[BEST_BY]):+.2f} since the start"


class _Run:
    """One run: its data as sources, its measurements, its stages."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: Data,
        folder: Path,
        plumbing: Plumbing,
        listener: Listener,
    ) -> None:
        self.processes = join_processes()
        self.checkpoint, self.folder = checkpoint, folder
        # the loss counts a caption as right for all pictures that have it: so does what is measured
        validation = merge_wordings(data.validation)
        self.merged = validation.answers != data.validation.answers
        keep = merge_wordings(data.keep) if data.keep else None
        self.data = replace(data, validation=validation, keep=keep)
        self.plumbing, self.listener = plumbing, listener
        self.encoder = Encoder(checkpoint)
        self.captions = captions_of(data.train)
        kinds = {kind for captions in self.captions for kind in captions}
        self.weights = dict(data.weights) or dict.fromkeys(sorted(kinds), 1.0)
        self._rows: dict[int, tuple[str, Features]] = {}

    def warn(self) -> None:
        """Say what makes validation worth little: few pictures, or pictures that are learnt."""
        if labels := told_labels(self.data.validation):
            self.listener.say(labels)
        if len(self.data.validation.image_ids) < FEW:
            self.listener.say(
                f"warning: measured on {len(self.data.validation.image_ids)} pictures: recall "
                f"moves in large steps, and chance decides. Give more to measure on (--val)"
            )
        train, measured = picture_files(self.data.train), picture_files(self.data.validation)
        if both := len(train & measured):
            self.listener.say(
                f"warning: {both:,} of the {len(self.data.validation.image_ids):,} pictures to "
                "measure on are learnt, too: recall on them says nothing of others"
            )

    def measure_start(self, key: str) -> Metrics:
        """Validate before the first step, or remember what it gave."""
        file = self.folder / "start.json"
        with self.processes.main_process_first():
            known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            if known.get("key") == key:
                return cast(Metrics, known["metrics"])
            metrics = self.validate(self.data.validation)
            with partial_file(file) as partial:
                partial.write_text(json.dumps({"key": key, "metrics": metrics}), encoding="utf-8")
        return metrics

    def validate(self, collection: RetrievalSet) -> Metrics:
        """Recall both ways, shares in [0, 1], and their mean."""
        self.checkpoint.model.eval()
        texts = self.encoder.encode_text([text.text for text in collection.texts])
        images = self._image_rows(collection)
        for what, rows in (("texts", texts), ("pictures", images)):
            if not np.isfinite(rows).all():
                raise NonFiniteLossError(
                    f"expected finite features of the {what} of {collection.name}, got NaN or "
                    "infinity. Lower the learning rate, or start from another checkpoint."
                )
        metrics = measure(collection, Encoded(texts, images, []), KS).recalls()
        return metrics | {BEST_BY: sum(metrics.values()) / len(metrics)}

    def _image_rows(self, collection: RetrievalSet) -> Features:
        """Encode a data set's pictures, once for as long as the image tower stays the same."""
        tower = module_digest(self.checkpoint.model.visual)
        known = self._rows.get(id(collection))  # two data sets may have one name
        if known is None or known[0] != tower:
            rows, _ = encode_images(
                self.encoder,
                collection.images,
                collection.image_ids,
                progress=part_of(
                    f"encoding {collection.name}",
                    0,
                    len(collection.image_ids),
                    self.listener.progress,
                ),
            )
            self._rows[id(collection)] = known = (tower, rows)
        return known[1]

    def tell_mixture(self, one: Mixture, before: Metrics) -> None:
        """Say what a mixture gives, on validation and on what to keep."""
        kept = f"; to keep: {told(one.kept)}" if one.kept else ""
        self.listener.say(f"{one.share:.0%} of the way: {told(one.metrics, before)}{kept}")

    def with_rates(self, stage: Stage) -> Stage:
        """Suggest a stage's learning rates, if it has none."""
        if not stage.suggest:
            return stage
        width = self.checkpoint.model.text.width
        rate = suggest_learning_rate(width, stage.batch_size, len(self.data.train.image_ids))
        self.listener.say(f"{stage.name}: suggested learning rate {rate:g}")
        return with_rates(stage, rate)

    def run_stage(self, stage: Stage, made_by: str, before: Metrics) -> None:
        """Run a stage, or load its end."""
        model = self.checkpoint.model
        ran = run_stage(
            model,
            self.folder / stage.name,
            made_by,
            lambda: self._train(stage, before),
            main=self.processes.is_main_process,
            wait=self.processes.wait_for_everyone,
        )
        if not ran:
            self.listener.say(f"{stage.name}: finished before")
        model.to(self.encoder.device).eval()

    def _train(self, stage: Stage, before: Metrics) -> None:
        pair = self.checkpoint.model
        images = image_tower(pair.visual, stage.recipe.image, self.checkpoint.preprocessing)
        with self.processes.main_process_first():
            views = self._views(stage, images)
        source = Source(
            self.captions,
            views,
            self.weights,
            stage.batch_size,
            stage.captions_per_image,
            self.checkpoint.tokenizer.context_length,
            self.data.train.negatives if any(self.data.train.negatives) else (),
        )
        heard = _Heard(stage.name, before, self.listener)
        set_seed(stage.recipe.seed)  # the Trainer sets it only after weights were drawn for LoRA
        model = ContrastiveModel(pair, images, replace(stage.recipe, best_by=BEST_BY))
        if model.logit_bias is not None:
            fit_logit_bias(model, source, self.checkpoint.tokenizer)
        trainer = ContrastiveTrainer(
            model,
            [source],
            self.checkpoint.tokenizer,
            self.folder / stage.name,
            lambda: self.validate(self.data.validation),
            keep_apart=stage.keep_apart,
            plumbing=replace(self.plumbing, callbacks=(*self.plumbing.callbacks, heard)),
        )
        trainer.fit()
        close_parameters(pair)

    def _views(self, stage: Stage, images: ImageTower) -> list[NDArray[Any] | Pictures]:
        """Give a stage's pictures: cached features, a view each, or the pixels themselves."""
        train, size = self.data.train, self.checkpoint.preprocessing.size
        pictures = Pictures(train.images, size, stage.crop)
        if not images.cached:
            return [pictures]
        key = {
            "tower": module_digest(self.checkpoint.model.visual),
            "input": repr(self.checkpoint.preprocessing),
            "stem": f"{type(images).__name__} {stage.recipe.image}",
            "pictures": pictures_digest(train),
            "crop": stage.crop,
            "seed": stage.recipe.seed,
        }
        name = hashlib.blake2b(repr(key).encode(), digest_size=6).hexdigest()
        number = len(train.image_ids)
        return [
            cached_features(
                self.folder / FEATURES / f"{name}-{view}.npy",
                {**key, "view": view},
                range(number),
                lambda at, view=view: _view(pictures, at, view, stage.recipe.seed),  # type: ignore[misc]
                lambda pixels: images.stem(self.encoder.to_input(pixels)),
                progress=part_of(
                    "image features", view * number, stage.views * number, self.listener.progress
                ),
            )
            for view in range(stage.views)
        ]


def _view(pictures: Pictures, at: int, view: int, seed: int) -> Pixels:
    mixed = int.from_bytes(hashlib.blake2b(repr((seed, view, at)).encode(), digest_size=4).digest())
    return pictures.load(at, mixed if view else None)


class _Heard(StepProgress):
    """Tells the listener how a stage goes."""

    def __init__(self, name: str, before: Metrics, listener: Listener) -> None:
        super().__init__(name, listener.progress)
        self.before, self.listener = before, listener

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Metrics | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del args, control, kwargs
        if state.is_world_process_zero and metrics:
            plain = {name.removeprefix("eval_"): value for name, value in metrics.items()}
            step = f"{self.name}, step {state.global_step:,} of {state.max_steps:,}"
            self.listener.say(f"{step}: {told(plain, self.before)}")
