"""What every training loop here adds to ``transformers.Trainer``."""

import math
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import Trainer


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step."""


class CheckedTrainer(Trainer):
    """``transformers.Trainer`` that stops at a loss that is not finite, and resumes by itself.

    Its model returns ``{"loss": …}`` when called with a batch.
    """

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Run the model; a loss that is not finite ends the run."""
        del num_items_in_batch
        out = model(**inputs)
        self.check_finite(out["loss"])
        return (out["loss"], out) if return_outputs else out["loss"]

    def check_finite(self, loss: Tensor) -> None:
        """Refuse a loss that is not finite.

        Raises:
            NonFiniteLossError: With the number of the step.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"expected a finite loss, got {value} at step {self.state.global_step + 1}. "
                "Lower the learning rate, or look for broken features."
            )

    def fit(self) -> None:
        """Train, from the last complete checkpoint in the folder if there is one."""
        last = last_checkpoint(Path(cast(str, self.args.output_dir)))
        self.train(resume_from_checkpoint=last)


def last_checkpoint(folder: Path) -> str | None:
    """Path of the newest complete checkpoint in a run's folder, None if there is none."""
    # The Trainer writes this file last: a checkpoint without it was cut short.
    complete = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]), default="")) or None
