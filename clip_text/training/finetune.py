"""Fine-tuning from pictures and captions to a checkpoint that is not worse than the start."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerState, set_seed

from clip_text.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from clip_text.checkpoints.heads import backbone_digest
from clip_text.data.batches import Pictures, Source
from clip_text.data.collection import RetrievalSet
from clip_text.data.duplicates import merge_wordings
from clip_text.data.identity import (
    captions_of,
    collection_digest,
    picture_files,
    pictures_digest,
)
from clip_text.encoder import Encoder
from clip_text.evaluation.measure import Encoded, encode_images
from clip_text.evaluation.ranking import Features
from clip_text.features import Pixels, cached_features, module_digest
from clip_text.progress import part_of
from clip_text.storage import digest, keep_json
from clip_text.training.callbacks import Listener
from clip_text.training.contrastive import (
    ContrastiveModel,
    ContrastiveTrainer,
    fit_logit_bias,
)
from clip_text.training.data import PictureData
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
from clip_text.training.runs import Run, Trained, check_inputs, write_report
from clip_text.training.stages import FEATURES, Stage, check_sizes, deal_shards, with_rates
from clip_text.training.told import BEST_BY, mean_recalls, told, told_labels
from clip_text.training.trainer import NonFiniteLossError, Plumbing, join_processes

FEW = 100
"""Fewer pictures than this make recall a coarse measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPair(Trained[Checkpoint]):
    """What came of fine-tuning; ``metrics`` are those of the weights that were chosen.

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


def train_contrastive(
    start: str | Path | Checkpoint,
    data: PictureData,
    recipe: Stage | Sequence[Stage],
    folder: str | Path,
    *,
    listener: Listener | None = None,
    out: str | Path | None = None,
    plumbing: Plumbing | None = None,
    shares: Sequence[float] = SHARES,
) -> TrainedPair:
    """Fine-tune a pair of towers; the same call again goes on where it was stopped.

    Validation runs before the first step. In the end the weights on the line from the start to
    the end of training are measured, and the best of them is what the checkpoint holds: on
    validation it never ends below the start.

    Args:
        start: A checkpoint's name, or one that was loaded, which is trained in place.
        data: Pictures and captions.
        recipe: Stages, run one after the other; each keeps its best checkpoint. See
            :func:`~clip_text.training.stages.read_stages`.
        folder: Folder of the run: cached features, state, metrics, report.
        listener: Told how the run goes.
        out: Folder to write the model to. Heads that read the text tower as it was are left out.
        plumbing: Workers, loggers, compilation.
        shares: Shares of the fine-tuned weights to measure in the end, in [0, 1]; 0 has to be among
            them.

    Raises:
        TypeError: If data or recipe are of another training.
        RecipeError: If a batch is larger than the data, a tower has not what is asked for, or
            two stages have one name.
        ValueError: If the start is not among the shares.
        CheckpointError: If the start cannot be read.
        DataError: If a picture cannot be read.
        NonFiniteLossError: If the loss is no number any more.
        SaveError: If the disk is full.
    """
    stages = list(recipe) if isinstance(recipe, list | tuple) else [cast(Stage, recipe)]
    for stage in stages:
        check_inputs(data, PictureData, stage, Stage)
    if 0 not in shares:
        raise ValueError(f"expected share 0, the start, among {list(shares)}. Add it.")
    started = time.monotonic()
    checkpoint = start if isinstance(start, Checkpoint) else load_checkpoint(start)
    run = _Run(checkpoint, data, Path(folder), plumbing or Plumbing(), listener or Listener())
    check_sizes(stages, len(data.train.image_ids), run.processes.num_processes)
    for stage in stages:
        check_towers(checkpoint.model, stage.recipe)
    run.introduce()
    read = backbone_digest(checkpoint.model.text) if checkpoint.heads else ""
    before, mixtures, chosen = run.mix(stages, shares)
    if checkpoint.heads and backbone_digest(checkpoint.model.text) != read:
        checkpoint = run.without_readers()
    if chosen.share:
        trained = tuple(sorted(set(stages[-1].recipe.matryoshka)))
        checkpoint = replace(checkpoint, config=replace(checkpoint.config, matryoshka=trained))
    report = _report(before, mixtures, chosen)
    report["minutes"] = round((time.monotonic() - started) / 60, 2)
    if run.processes.is_main_process:
        if out is not None:
            save_checkpoint(checkpoint, Path(out))
        write_report(run.folder, report)
    return TrainedPair(
        model=checkpoint,
        metrics=chosen.metrics,
        report=report,
        start=before,
        mixtures=mixtures,
        chosen=chosen,
        best_by=BEST_BY,
    )


def _report(start: Metrics, mixtures: Sequence[Mixture], chosen: Mixture) -> dict[str, Any]:
    report: dict[str, Any] = {
        "share_of_fine_tuned": chosen.share,
        "rose": chosen.share > 0,
        "minutes": 0.0,
    }
    report |= {f"start_{name}": value for name, value in start.items()}
    report |= {f"kept_{name}": value for name, value in chosen.metrics.items()}
    for mixture in mixtures:
        report[f"mixture_{mixture.share:g}_{BEST_BY}"] = mixture.metrics[BEST_BY]
    return report


class _Run:
    """One run: its data as sources, its measurements, its stages."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: PictureData,
        folder: Path,
        plumbing: Plumbing,
        listener: Listener,
    ) -> None:
        self.processes = join_processes()
        self.checkpoint, self.folder = checkpoint, folder
        if not self.processes.is_main_process:
            listener = Listener(callbacks=listener.callbacks)
        self.measured = collection_digest(data.validation)
        # the loss counts a caption as right for all pictures that have it: so does what is measured
        validation = merge_wordings(data.validation)
        self.merged = validation.answers != data.validation.answers
        keep = merge_wordings(data.keep) if data.keep else None
        self.data = replace(data, validation=validation, keep=keep)
        self.plumbing, self.listener = plumbing, listener
        self.encoder = Encoder(checkpoint)
        self.captions = captions_of(data.train)
        kinds = {kind for captions in self.captions for kind in captions}
        self.given_weights = data.weights
        self.weights = dict(data.weights) or dict.fromkeys(sorted(kinds), 1.0)
        self.widths: list[int] = []
        self._rows: dict[int, tuple[str, Features]] = {}

    def introduce(self) -> None:
        """Say what is learnt, and what makes validation worth little.

        That is few pictures, or pictures that are learnt.
        """
        train = self.data.train
        self.listener.say(
            f"learning from {len(train.image_ids):,} pictures with {len(train.texts):,} captions, "
            f"measured on {len(self.data.validation.image_ids):,} others"
        )
        if labels := told_labels(self.data.validation):
            self.listener.say(labels)
        if len(self.data.validation.image_ids) < FEW:
            self.listener.say(
                f"warning: measured on {len(self.data.validation.image_ids)} pictures: recall "
                f"moves in large steps, and chance decides. Give more to measure on (--val)"
            )
        if both := len(picture_files(train) & picture_files(self.data.validation)):
            self.listener.say(
                f"warning: {both:,} of the {len(self.data.validation.image_ids):,} pictures to "
                "measure on are learnt, too: recall on them says nothing of others"
            )

    def mix(
        self, stages: Sequence[Stage], shares: Sequence[float]
    ) -> tuple[Metrics, list[Mixture], Mixture]:
        """Run the stages, and leave the best weights on the line from the start in the model.

        Returns:
            Validation before the first step, that of all mixtures, and the best of them.
        """
        start = snapshot(self.checkpoint.model)
        self.widths = sorted({width for stage in stages for width in stage.recipe.matryoshka})
        # a stage depends on what the run started from, and on the stages before it
        made_by = [
            self.encoder.fingerprint,
            collection_digest(self.data.train),
            self.measured,
            *(["equal wordings are right"] if self.merged else []),
            *([f"widths {self.widths}"] if self.widths else []),
        ]
        before = self.measure_start(repr(made_by))
        self.listener.say(f"before training: {told(before)}")
        for stage in stages:
            ready = self.with_rates(stage)
            made_by.append(repr((ready, sorted(self.given_weights.items()))))
            if stage.shard_ranks:
                made_by.append(
                    f"shards of {stage.shard_ranks} ranks, {stage.shard_workers} workers"
                )
            self.run_stage(ready, repr(made_by), before)
        keep = self.data.keep
        mixtures = measure_mixtures(
            self.checkpoint.model,
            start,
            end := snapshot(self.checkpoint.model),
            lambda: self.validate(self.data.validation),
            keep=(lambda: self.validate(keep)) if keep else None,
            shares=shares,
            on_mixture=lambda mixture: self.tell_mixture(mixture, before),
        )
        chosen = best_mixture(mixtures, BEST_BY)
        load_mixture(self.checkpoint.model, start, end, chosen.share)
        return before, mixtures, chosen

    def without_readers(self) -> Checkpoint:
        """Leave out the heads that read the text tower as it was, and say so."""
        kept = self.checkpoint.without_readers()
        for name in sorted(self.checkpoint.heads.keys() - kept.heads.keys()):
            self.listener.say(
                f"head {name} is left out: it reads the text tower as it was. Train it anew."
            )
        return kept

    def measure_start(self, key: str) -> Metrics:
        """Validate before the first step, or remember what it gave."""
        file = self.folder / "start.json"
        with self.processes.main_process_first():
            return keep_json(file, key, lambda: self.validate(self.data.validation))

    def validate(self, collection: RetrievalSet) -> Metrics:
        """Recall both ways, shares in [0, 1], and their mean; see :func:`mean_recalls`."""
        self.checkpoint.model.eval()
        texts = self.encoder.encode_text([text.text for text in collection.texts])
        images = self._image_rows(collection)
        for what, rows in (("texts", texts), ("pictures", images)):
            if not np.isfinite(rows).all():
                raise NonFiniteLossError(
                    f"expected finite features of the {what} of {collection.name}, got NaN or "
                    "infinity. Lower the learning rate, or start from another checkpoint."
                )
        return mean_recalls(collection, Encoded(texts, images, []), self.widths)

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
        place = Run(self.folder / stage.name, {"made by": made_by}, True, self.processes)
        course = place.fit(model, lambda: self._train(stage, before))
        if course.finished_before:
            self.listener.say(f"{stage.name}: finished before")
        model.to(self.encoder.device).eval()

    def _train(self, stage: Stage, before: Metrics) -> TrainerState:
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
        heard = self.listener.heard(
            stage.name,
            lambda state, metrics: (
                f"{stage.name}, step {state.global_step:,} of {state.max_steps:,}: "
                f"{told(metrics, before)}"
            ),
        )
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
            lanes=deal_shards(stage, self.data.train),
            plumbing=replace(self.plumbing, callbacks=(*self.plumbing.callbacks, *heard)),
        )
        trainer.fit()
        close_parameters(pair)
        return trainer.state

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
        name = digest(key)
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
