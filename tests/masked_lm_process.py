"""A small masked-LM run in a process of its own, launched by torchrun or alone.

python tests/masked_lm_process.py OUT
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_masked_lm import NO_DROPOUT, a_model, a_recipe, a_trainer, text
from training_process import Kept

from clip_text.training.trainer import join_processes


def main(out: Path) -> None:
    """Train, and save the first step's gradients and the last weights."""
    torch.set_num_threads(1)
    processes = join_processes()
    with processes.main_process_first():
        texts = text(out)
    model = a_model(**NO_DROPOUT)
    recipe = a_recipe(batch_size=24, micro_batch=4, bf16=False, warmup=0.0)
    kept = Kept(model, 0)
    trainer = a_trainer(texts, recipe, out / "run", model, [kept])
    trainer.args.max_grad_norm = 0.0  # clipped gradients would not tell a wrong factor
    trainer.fit()
    if processes.is_main_process:
        save_file(kept.gradients, out / "gradients.safetensors")
        weights = {name: each.clone() for name, each in model.state_dict().items()}
        save_file(weights, out / "weights.safetensors")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(Path(sys.argv[1]))
