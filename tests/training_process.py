"""A small training run in a process of its own: launched by torchrun, or killed by a test.

python tests/training_process.py OUT '{"loss": "sigmoid"}' [STEP TO DIE AT]
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from models import IMAGE_SIZE, backbone, tiny_tokenizer, tower_config
from safetensors.torch import save_file
from transformers import TrainerCallback

from clip_text.checkpoints import Checkpoint, Preprocessing
from clip_text.data.batches import Source
from clip_text.towers import build_model
from clip_text.training.contrastive import ContrastiveModel, ContrastiveTrainer
from clip_text.training.image_tower import image_tower
from clip_text.training.recipe import Recipe
from clip_text.training.trainer import Plumbing, join_processes

CAPTIONS = ["红色的心", "一只狗", "two cats", "大树", "黄 花", "鸟在天上飞", "a red dog", "水"]


def checkpoint(dropout: float) -> Checkpoint:
    """A tiny pair with timm's EfficientNet; the same weights in every process."""
    probabilities = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = replace(tower_config(vision="timm"), backbone=backbone("bert", **probabilities))
    torch.manual_seed(0)
    preprocessing = Preprocessing(IMAGE_SIZE, mean=(0.5, 0.4, 0.3), std=(0.25, 0.3, 0.35))
    return Checkpoint(build_model(config), config, tiny_tokenizer(), preprocessing)


class Kept(TrainerCallback):
    """Keeps the first step's gradients; may kill the process after a step."""

    def __init__(self, model: ContrastiveModel, die_at: int) -> None:
        self.model, self.die_at = model, die_at
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Called by the Trainer."""
        if not self.gradients:
            self.gradients = {
                name: parameter.grad.clone()
                for name, parameter in self.model.named_parameters()
                if parameter.grad is not None
            }

    def on_step_end(self, args, state, control, **kwargs):
        """Called by the Trainer."""
        if state.global_step == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def main(out: Path, changes: dict, die_at: int = 0) -> None:
    """Train, and save the first gradients and the last weights."""
    main_process = join_processes().is_main_process
    dropout = changes.pop("dropout", 0.0)
    shard = changes.pop("shard_optimizer", False)
    numbers = {"epochs": 3, "learning_rate": 1e-2, "warmup_steps": 0, "bf16": False}
    changes["matryoshka"] = tuple(changes.get("matryoshka", ()))
    recipe = Recipe(**{**numbers, "best_by": "later", "evaluations": 3} | changes)
    ours = checkpoint(dropout)
    images = image_tower(ours.model.visual, recipe.image, ours.preprocessing)
    pixels = torch.randn(8, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stems = images.stem(pixels)
    stems = ((stems - stems.mean(0)) / stems.std(0).clamp(min=1e-3)).numpy()
    captions = [{"zh": [text, f"{text} 大"]} for text in CAPTIONS]
    captions[3] = {"zh": [CAPTIONS[0], CAPTIONS[3]]}  # shared: a positive of another process's
    captions[5] = {"zh": [CAPTIONS[5]]}  # and one text less in a process
    source = Source(captions, [stems], {"zh": 1}, 4, 2, negatives=[["天 大"]] + [[]] * 7)
    model = ContrastiveModel(ours.model, images, recipe)
    kept = Kept(model, die_at)
    trainer = ContrastiveTrainer(
        model,
        [source],
        ours.tokenizer,
        out / "run",
        lambda: {"later": float(trainer.state.global_step)},
        plumbing=Plumbing(callbacks=(kept,), shard_optimizer=shard),
    )
    trainer.args.max_grad_norm = 0.0  # clipped gradients would not tell a wrong factor
    trainer.fit()
    if main_process:
        save_file(kept.gradients, out / "gradients.safetensors")
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(weights, out / "weights.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), int((sys.argv[3:] or ["0"])[0]))
