"""The running mean of the weights: by hand, in validation, in checkpoints."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from clip_text.training.average import Average
from clip_text.training.trainer import CheckedTrainer


class Line(nn.Module):
    """A weight that every step raises by the learning rate, and one that is frozen."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        return {"loss": -(self.weight.sum() * x.mean())}


class Ones(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, at):
        return {"x": torch.ones(1)}


def test_the_mean_by_hand():
    model = Line()
    average = Average(model, 0.2)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.update(model, 1)  # (1 + 1) / (10 + 1) = 0.18, below the decay
    assert average.mean_0.tolist() == pytest.approx([9 / 11] * 2)
    average.update(model, 100)
    assert average.mean_0.tolist() == pytest.approx([0.2 * 9 / 11 + 0.8] * 2)
    assert len(list(average.buffers())) == 1, "what is frozen is left out"


def test_the_mean_is_in_place_only_for_a_while():
    model = Line()
    average = Average(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(4.0)
    with average.in_place(model):
        assert model.weight.tolist() == [0, 0]
    assert model.weight.tolist() == [4, 4]
    average.load_into(model)
    assert model.weight.tolist() == [0, 0]


def trainer_of(folder, seen, ema):
    model = Line()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=1,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        load_best_model_at_end=True,
        metric_for_best_model="eval_best",
    )

    def validate():
        seen.append(model.weight[0].item())
        return {"best": -len(seen)}  # the first is the best

    return CheckedTrainer(
        model=model,
        args=arguments,
        train_dataset=Ones(),
        eval_dataset=[],
        validate=validate,
        ema=ema,
    )


@pytest.mark.parametrize("ema", [0.0, 0.2])
def test_validation_and_the_best_checkpoint_see_the_mean(ema, tmp_path):
    seen = []
    trainer = trainer_of(tmp_path, seen, ema)
    trainer.fit()
    mean, means = 0.0, []
    for step in (1, 2, 3, 4):
        decay = min(ema, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * step
        means.append(mean)
    expected = [means[1], means[3]] if ema else [2, 4]
    assert seen == pytest.approx(expected)
    assert trainer.model.weight[0].item() == pytest.approx(expected[0])
