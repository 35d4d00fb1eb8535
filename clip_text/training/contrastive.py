"""Contrastive training, as a thin subclass of ``transformers.Trainer``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray
from open_clip import CustomTextCLIP
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from clip_text.data.batches import Collator, Draw, DrawDataset, MixtureBatchSampler, Source
from clip_text.losses import cosine_distillation, multi_positive_contrastive, taught_rows
from clip_text.precision import bf16_pays
from clip_text.tokenizer import Tokenizer
from clip_text.towers import MAX_LOGIT_SCALE
from clip_text.training.image_split import SplitImageTower, cropped_and_mirrored
from clip_text.training.trainer import CheckedTrainer


class ContrastiveModel(nn.Module):
    """What the Trainer steps: both towers on a batch, to a loss.

    Args:
        pair: The model; trained in place.
        tail_blocks: See :class:`SplitImageTower`.
        teacher_dim: Width of the teacher's rows, 0 without a teacher.
        distillation: Weight of the teacher's losses beside the contrastive one: texts point where
            its rows do, and pictures find its rows of their captions.
        token_dropout: Share of the tokens the text tower does not get to see in training.
    """

    def __init__(
        self,
        pair: CustomTextCLIP,
        *,
        tail_blocks: int = 0,
        teacher_dim: int = 0,
        distillation: float = 1.0,
        token_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pair = pair
        self.images = SplitImageTower(pair.visual, tail_blocks)
        for parameter in pair.visual.trunk.parameters():
            parameter.requires_grad = False
        for parameter in self.images.tail_parameters():
            parameter.requires_grad = True
        self.distillation, self.token_dropout = distillation, token_dropout
        self.to_teacher = (
            nn.Linear(pair.text.output_dim, teacher_dim, bias=False) if teacher_dim else None
        )

    def train(self, mode: bool = True) -> "ContrastiveModel":
        """Switch to training; batch norms keep the statistics of their pre-training."""
        super().train(mode)
        self.pair.visual.trunk.eval()
        return self

    def forward(
        self, tokens: Tensor, images: Tensor, positives: Tensor, teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss of one batch; arguments as :class:`clip_text.data.Collator` makes them.

        Returns:
            ``loss``, and its parts detached: ``contrastive``; with a teacher ``distillation`` and
            ``image_distillation``, which counts half.
        """
        if self.training and self.token_dropout:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.token_dropout
            dropped[:, 0] = False  # something has to stay
            tokens = tokens.masked_fill(dropped, self.pair.text.pad_id)
        text_features = self.pair.text(tokens).float()
        if self.training and self.images.tail_blocks:
            images = cropped_and_mirrored(images)
        image_features = self.images(images).float()
        scale = self.pair.logit_scale.exp()
        contrastive = multi_positive_contrastive(text_features, image_features, positives, scale)
        out = {"loss": contrastive, "contrastive": contrastive.detach()}
        if self.to_teacher is not None and teacher is not None:
            taught = cosine_distillation(self.to_teacher(text_features).float(), teacher)
            found = self._find_teacher(image_features, teacher, positives, scale)
            out["loss"] = contrastive + self.distillation * (taught + found / 2)
            out["distillation"] = taught.detach()
            out["image_distillation"] = found.detach()
        return out

    def _find_teacher(
        self, image_features: Tensor, teacher: Tensor, positives: Tensor, scale: Tensor
    ) -> Tensor:
        """Contrast pictures with the teacher's rows of their captions, in the teacher's space.

        The teacher has read far more than our captions: it says which pictures are alike where
        the text tower, which learns the captions by heart, no longer does.
        """
        known = taught_rows(teacher)
        seen = positives[known].any(0)
        if self.to_teacher is None or not known.any():
            return image_features.sum() * 0
        projected = self.to_teacher(image_features[seen])
        return multi_positive_contrastive(
            teacher[known], projected, positives[known][:, seen], scale
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers of one training stage.

    Args:
        epochs: Passes over the pictures of the first source.
        learning_rate: Of the text tower, both projections and the logit scale.
        tail_learning_rate: Of the image tower's tail.
        weight_decay: On matrices; norms, biases and the logit scale get none.
        warmup_steps: Of linear warm-up; cosine decay follows.
        bf16: Compute in bfloat16 where it is faster (see :func:`clip_text.precision.bf16_pays`).
        seed: Of weights, draws and dropout.
        evaluations: How often validation runs during the stage.
    """

    epochs: int
    learning_rate: float = 1e-3
    tail_learning_rate: float = 2e-4
    weight_decay: float = 0.05
    warmup_steps: int = 60
    bf16: bool = True
    seed: int = 0
    evaluations: int = 4


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


class ContrastiveTrainer(CheckedTrainer):
    """``transformers.Trainer`` with our batches, parameter groups and recall@k as validation.

    Args:
        model: What to train.
        sources: What to draw batches from.
        tokenizer: For the captions.
        recipe: The numbers.
        folder: Where checkpoints and logs go.
        validate: Returns metrics by name, ``recall@10`` among them; larger is better.
        teacher: See :class:`clip_text.data.Collator`.
    """

    def __init__(  # noqa: PLR0917
        self,
        model: ContrastiveModel,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        recipe: Recipe,
        folder: Path,
        validate: Callable[[], dict[str, float]],
        teacher: dict[str, NDArray[Any]] | None = None,
    ) -> None:
        self.sampler = MixtureBatchSampler(sources, seed=recipe.seed)
        self.recipe, self.validate = recipe, validate
        teacher_dim = model.to_teacher.out_features if model.to_teacher is not None else 0
        every = max(1, len(self.sampler) * recipe.epochs // recipe.evaluations)
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            adam_beta2=0.98,
            lr_scheduler_type="cosine",
            warmup_steps=recipe.warmup_steps,
            max_grad_norm=1.0,
            bf16=recipe.bf16 and bf16_pays("cuda" if torch.cuda.is_available() else "cpu"),
            seed=recipe.seed,
            logging_steps=20,
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_recall@10",
            greater_is_better=True,
            remove_unused_columns=False,
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=False,
        )
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=DrawDataset(self.sampler),
            eval_dataset=[],
            data_collator=Collator(sources, tokenizer, teacher, teacher_dim),
            callbacks=[_ClampLogitScale()],
        )

    def get_train_dataloader(self) -> DataLoader[Draw]:
        """Draw batches by our sampler; accelerate splits them over processes."""
        loader = DataLoader(
            cast(DrawDataset, self.train_dataset),
            batch_sampler=cast(Any, self.sampler),
            collate_fn=self.data_collator,
        )
        return cast(DataLoader[Draw], self.accelerator.prepare(loader))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW; no decay on norms, biases and the logit scale, another rate for the tail."""
        del model
        if self.optimizer is None:
            network = cast(ContrastiveModel, self.accelerator.unwrap_model(self.model))
            tail = {id(parameter) for parameter in network.images.tail_parameters()}
            groups: dict[tuple[float, float], list[nn.Parameter]] = {}
            for parameter in network.parameters():
                if not parameter.requires_grad:
                    continue
                decay = self.recipe.weight_decay if parameter.ndim > 1 else 0.0
                rate = self.recipe.learning_rate
                if id(parameter) in tail:
                    rate, decay = self.recipe.tail_learning_rate, 0.0
                groups.setdefault((rate, decay), []).append(parameter)
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": parameters, "lr": rate, "weight_decay": decay}
                    for (rate, decay), parameters in groups.items()
                ],
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                fused=True,
            )
        return self.optimizer

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """Measure recall@k by ``validate`` in place of a validation loss."""
        del args, kwargs
        model = cast(nn.Module, self.model)
        model.eval()
        metrics = {f"eval_{name}": value for name, value in self.validate().items()}
        model.train()
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def fit(self) -> None:
        """Train, from the last complete checkpoint in the folder if there is one."""
        with cast(ContrastiveModel, self.model).images.depthwise_in_fp32():
            super().fit()
