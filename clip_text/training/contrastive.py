"""Contrastive training of a pair, as a thin subclass of ``transformers.Trainer``."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import DataLoaderShard
from numpy.typing import NDArray
from open_clip import CustomTextCLIP
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clip_text.data.batches import Collator, Draw, DrawDataset, MixtureBatchSampler, Source
from clip_text.data.lanes import Lanes
from clip_text.losses import (
    EVERY_ROW,
    cosine_distillation,
    matryoshka,
    multi_positive_contrastive,
    sigmoid_contrastive,
    taught_rows,
)
from clip_text.tokenizer import Tokenizer
from clip_text.towers import MAX_LOGIT_SCALE
from clip_text.training.gather import gather_rows, world
from clip_text.training.gradient_cache import cached_backward
from clip_text.training.image_tower import ImageTower, SplitImageTower
from clip_text.training.parameters import open_parameters, parameter_groups
from clip_text.training.recipe import Recipe
from clip_text.training.trainer import Plumbing, SampledTrainer, training_arguments

INIT_LOGIT_BIAS = -10.0
"""Where SigLIP's bias starts (Zhai et al. 2023, section 3.2); see :func:`fit_logit_bias`."""


class ContrastiveModel(nn.Module):
    """What the Trainer steps: a batch to features; the loss is the trainer's.

    Args:
        pair: The model; trained in place. What learns of it is set here.
        images: How its image side runs.
        recipe: Rates, epochs and batch sizes to train by.
        teacher_dim: Width of the teacher's rows, 0 without a teacher.
    """

    def __init__(
        self, pair: CustomTextCLIP, images: ImageTower, recipe: Recipe, teacher_dim: int = 0
    ) -> None:
        super().__init__()
        self.pair, self.images, self.recipe = pair, images, recipe
        open_parameters(pair, recipe)
        self.to_teacher = (
            nn.Linear(pair.text.output_dim, teacher_dim, bias=False) if teacher_dim else None
        )
        self.logit_bias = (
            nn.Parameter(torch.tensor(INIT_LOGIT_BIAS)) if recipe.loss == "sigmoid" else None
        )

    def train(self, mode: bool = True) -> "ContrastiveModel":
        """Switch to training; batch norms keep the statistics of their pre-training."""
        super().train(mode)
        if self.images.cached and hasattr(self.pair.visual, "trunk"):
            self.pair.visual.trunk.eval()
        for part in self.pair.visual.modules():
            if isinstance(part, _BatchNorm):
                part.eval()
        return self

    def forward(self, tokens: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Compute what a loss needs of one batch, or of a part of it.

        Args:
            tokens: int64 [texts, length].
            images: What :class:`ImageTower` takes, [images, ...].

        Returns:
            ``texts`` [texts, embed_dim], ``images`` [images, embed_dim], neither normalised; with
            a teacher ``taught_texts`` and ``taught_images``, [..., teacher_dim]; the scalars
            ``scale`` and, for the sigmoid loss, ``bias``. All float32.
        """
        if self.training and self.recipe.token_dropout:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.recipe.token_dropout
            dropped[:, 0] = False  # something has to stay
            tokens = tokens.masked_fill(dropped, self.pair.text.pad_id)
        if self.training:
            images = self.images.augment(images)
        out = {"texts": self.pair.text(tokens).float(), "images": self.images(images).float()}
        if self.to_teacher is not None:
            out["taught_texts"] = self.to_teacher(out["texts"]).float()
            out["taught_images"] = self.to_teacher(out["images"]).float()
        out["scale"] = self.pair.logit_scale.exp()
        if self.logit_bias is not None:
            out["bias"] = self.logit_bias * 1
        return out


@torch.no_grad()
def fit_logit_bias(model: ContrastiveModel, source: Source, tokenizer: Tokenizer) -> None:
    """Start the sigmoid loss's bias where a batch's loss is least.

    SigLIP's -10 goes with the scale and the weights it starts from. Beside the scale of a trained
    pair it takes wrong pairs for right ones, and at the rates of fine-tuning it stays where it is.

    Args:
        model: With a ``logit_bias``, which is set.
        source: What it will learn from.
        tokenizer: Tokenizer that reads the captions.
    """
    draws = next(iter(MixtureBatchSampler([source], seed=model.recipe.seed)))[:256]
    batch = Collator([source], tokenizer)(draws)
    device = model.pair.logit_scale.device
    features = model.eval()(batch["tokens"].to(device), batch["images"].to(device))
    texts, images = (normalize(features[name], dim=-1) for name in ("texts", "images"))
    logits = (features["scale"] * (texts @ images.T)).double().cpu()
    low, high = -2.0 * math.exp(MAX_LOGIT_SCALE), 0.0
    for _ in range(50):
        middle = (low + high) / 2
        # the loss's slope: how many pairs it takes for right, less how many are
        if (logits + middle).sigmoid().sum() > batch["positives"].sum():
            high = middle
        else:
            low = middle
    cast(nn.Parameter, model.logit_bias).fill_(middle)


class ContrastiveLoss:
    """The loss of a batch, from the features of all processes.

    Args:
        recipe: Rates, epochs and batch sizes to train by.
        distillation: Weight of the teacher's losses beside the contrastive one: texts point where
            its rows do, and pictures find its rows of their captions.
    """

    def __init__(self, recipe: Recipe, distillation: float = 1.0) -> None:
        self.recipe, self.distillation = recipe, distillation

    def __call__(
        self, features: Mapping[str, Tensor], positives: Tensor, teacher: Tensor | None = None
    ) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            features: Features of this process's texts and images, as :class:`ContrastiveModel`
                gives them.
            positives: Bool [texts, images] of all processes, in the order of their ranks.
            teacher: [texts of all processes, teacher_dim], zero rows where it is silent.
        """
        every = {name: gather_rows(rows) if rows.ndim else rows for name, rows in features.items()}
        loss = self._contrastive(every, positives, features)
        if teacher is not None and "taught_texts" in every:
            taught = cosine_distillation(every["taught_texts"], teacher)
            found = _find_teacher(every, positives, teacher)
            loss = loss + self.distillation * (taught + found / 2)
        return loss

    def _contrastive(
        self, every: Mapping[str, Tensor], positives: Tensor, local: Mapping[str, Tensor]
    ) -> Tensor:
        _, processes = world()
        rows, share = EVERY_ROW, 1
        if self.recipe.local_loss and processes > 1:
            # DDP will take the mean over processes, and the parts of this loss are to be summed
            rows, share = (_own_rows(local["texts"]), _own_rows(local["images"])), processes

        def of_width(texts: Tensor, images: Tensor) -> Tensor:
            both = (texts, images, positives, every["scale"])
            if self.recipe.loss == "sigmoid":
                return sigmoid_contrastive(*both, every["bias"], rows=rows)
            return multi_positive_contrastive(*both, rows=rows)

        # features are gathered, and cached, whole: their beginnings cost a product each
        return share * matryoshka(of_width, every["texts"], every["images"], self.recipe.matryoshka)


def _own_rows(local: Tensor) -> slice:
    rank, _ = world()
    counts = gather_rows(torch.tensor([len(local)], device=local.device)).tolist()
    start = sum(counts[:rank])
    return slice(start, start + len(local))


def _find_teacher(every: Mapping[str, Tensor], positives: Tensor, teacher: Tensor) -> Tensor:
    """Contrast pictures with the teacher's rows of their captions, in the teacher's space.

    The teacher has read far more than our captions: it says which pictures are alike where the
    text tower, which learns the captions by heart, no longer does.
    """
    known = taught_rows(teacher)
    seen = positives[known].any(0)
    projected = every["taught_images"]
    if not seen.any():
        return projected.sum() * 0
    # texts the teacher does not know, and hard negatives, ask for nothing
    return multi_positive_contrastive(
        teacher[known], projected[seen], positives[known][:, seen], every["scale"]
    )


class _ClampLogitScale(TrainerCallback):
    """Keeps the learned log in [0, ln 100] after every step."""

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del args, state, control
        with torch.no_grad():
            kwargs["model"].pair.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


class ContrastiveTrainer(SampledTrainer):
    """``transformers.Trainer`` with our batches, parameter groups and recall@k as validation.

    Args:
        model: What to train.
        sources: What to draw batches from.
        tokenizer: Tokenizer that reads the captions.
        folder: Where checkpoints and logs go.
        validate: Returns metrics by name, the recipe's ``best_by`` among them.
        teacher: Rows that the text tower should also learn to point at, by caption; may be empty.
        keep_apart: Pictures with a caption in common never meet in a batch.
        lanes: Which shards of the first source each part of a batch is drawn from, if not all.
        plumbing: Workers, loggers, compilation.
    """

    def __init__(
        self,
        model: ContrastiveModel,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        folder: Path,
        validate: Callable[[], dict[str, float]],
        *,
        teacher: dict[str, NDArray[Any]] | None = None,
        keep_apart: bool = False,
        lanes: Lanes | None = None,
        plumbing: Plumbing | None = None,
    ) -> None:
        recipe = self.recipe = model.recipe
        self.plumbing = plumbing or Plumbing()
        self.shard_optimizer = self.plumbing.shard_optimizer
        self.sampler = MixtureBatchSampler(
            sources, seed=recipe.seed, keep_apart=keep_apart, lanes=lanes
        )
        teacher_dim = model.to_teacher.out_features if model.to_teacher is not None else 0
        arguments = training_arguments(recipe, folder, len(self.sampler), self.plumbing)
        rank, processes = arguments.process_index, arguments.world_size
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=DrawDataset(self.sampler),
            eval_dataset=[],
            data_collator=Collator(
                sources, tokenizer, teacher, teacher_dim, part=(rank, processes)
            ),
            callbacks=[_ClampLogitScale(), *self.plumbing.callbacks],
            validate=validate,
            ema=recipe.ema,
        )
        self.loss = ContrastiveLoss(recipe)

    def get_train_dataloader(self) -> DataLoader[Draw]:
        """Draw batches by our sampler; the collator takes this process's part of each."""
        return cast(
            DataLoader[Draw],
            DataLoaderShard(
                cast(DrawDataset, self.train_dataset),
                device=self.accelerator.device,
                batch_sampler=cast(Any, self.sampler),
                collate_fn=self.data_collator,
                # of its own: the workers' seeds are drawn from it, and would shift the dropout of
                # a resumed run
                generator=torch.Generator(),
                num_workers=self.plumbing.workers,
                persistent_workers=self.plumbing.workers > 0,
            ),
        )

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """The recipe's rates and decays."""
        return parameter_groups(network, self.recipe)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Features [n, embed_dim] of the whole batch at once, to a loss, a scalar."""
        del num_items_in_batch
        features = model(inputs["tokens"], inputs["images"])
        loss = self.loss(features, inputs["positives"], inputs.get("teacher"))
        self.check_finite(loss)
        return (loss, {"loss": loss, **features}) if return_outputs else loss

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One step; with ``micro_batch`` by gradient caching."""
        if not self.recipe.micro_batch:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = cast(dict[str, Any], self._prepare_inputs(inputs))
        with self.compute_loss_context_manager():
            return cached_backward(
                model,
                (inputs["tokens"], inputs["images"]),
                lambda features: self.loss(features, inputs["positives"], inputs.get("teacher")),
                self.recipe.micro_batch,
                pad_id=cast(ContrastiveModel, self.model).pair.text.pad_id,
                backward=self.accelerator.backward,
                no_sync=lambda: self.accelerator.no_sync(model),
                check=self.check_finite,
            )

    def fit(self) -> None:
        """Train, from the last complete checkpoint in the folder if there is one."""
        images = cast(ContrastiveModel, self.model).images
        with images.depthwise_in_fp32() if isinstance(images, SplitImageTower) else nullcontext():
            super().fit()
