"""A head as a folder of transformers' ``AutoModelForSequenceClassification``.

It loads without this package, and its logits are the head's over its temperature, so a plain
softmax gives the calibrated probabilities.

Their classes of BERT's family have a dense layer and tanh between the first token's state and the
classifier. A head of form ``bert`` has the same, and is copied. A ``linear`` head has not, and is
reproduced: the dense layer becomes a small multiple of the identity, where tanh is the identity to
the last bit of fp32, and the classifier undoes the factor, a power of two.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from clip_text.checkpoints import Checkpoint
from clip_text.errors import CheckpointError
from clip_text.heads.classification import ClassificationHead, HeadConfig
from clip_text.storage import check_new, partial_folder
from clip_text.tokenizer.portable import portable
from clip_text.towers import TextTower

# What their class calls the parts: the backbone, the dense layer, the classifier.
_NAMES = {
    "bert": ("bert", "bert.pooler.dense", "classifier"),
    "albert": ("albert", "albert.pooler", "classifier"),
    "roberta": ("roberta", "classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ("roberta", "classifier.dense", "classifier.out_proj"),
    "camembert": ("roberta", "classifier.dense", "classifier.out_proj"),
}

_SMALL = 2.0**-14
"""tanh(x) is x (1 - x² / 3 + …): for states up to 16 it is off by at most 3e-7 of x here."""


def export_head(checkpoint: Checkpoint, head: ClassificationHead, folder: Path) -> None:
    """Write a head and its backbone for ``AutoModelForSequenceClassification(folder)``.

    Args:
        checkpoint: What the head belongs to.
        head: With pooler ``cls``.
        folder: Created with its parents; must not exist yet.

    Raises:
        CheckpointError: If their class has no such form: another pooler than ``cls``, a backbone
            of another family, or open_clip's tokeniser contract.
        FileExistsError: If the folder exists.
    """
    check_new(folder)
    tower = head.tower or checkpoint.model.text
    assert isinstance(tower, TextTower)
    model = to_transformers(tower, head)
    try:
        tokenizer = portable(checkpoint.tokenizer)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    tokenizer.model_max_length = tower.context_length
    with partial_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(str(partial))


def check_exportable(kind: str, config: HeadConfig) -> None:
    """Refuse a head that transformers' classes cannot hold.

    Args:
        kind: ``model_type`` of the backbone.
        config: Of the head.

    Raises:
        CheckpointError: If its pooler is not ``cls``, or the backbone of another family.
    """
    if config.pooler != "cls" or kind not in _NAMES:
        raise CheckpointError(
            f"expected a head with pooler cls on {', '.join(_NAMES)}, all that transformers' "
            f"sequence classifiers can hold, got pooler {config.pooler} on {kind}. "
            "Train the head with --pooler cls."
        )


def to_transformers(tower: TextTower, head: ClassificationHead) -> PreTrainedModel:
    """Build transformers' own model with the weights of a backbone and a head.

    Raises:
        CheckpointError: See :func:`export_head`.
    """
    kind = tower.config.model_type
    check_exportable(kind, head.config)
    config = copy.deepcopy(tower.config)
    config.id2label = dict(enumerate(head.config.labels))
    config.label2id = {label: at for at, label in enumerate(head.config.labels)}
    several = head.config.multi_label
    config.problem_type = "multi_label_classification" if several else "single_label_classification"
    name = "classifier_dropout_prob" if kind == "albert" else "classifier_dropout"
    setattr(config, name, head.config.dropout)
    model = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    backbone, dense, out = _NAMES[kind]
    weights: dict[str, Tensor] = {
        f"{backbone}.{name}": tensor for name, tensor in tower.transformer.state_dict().items()
    }
    scale = 1 / head.temperature.detach().float()
    weights[f"{out}.bias"] = head.out.bias * scale
    if head.dense is not None:
        weights[f"{dense}.weight"], weights[f"{dense}.bias"] = head.dense.weight, head.dense.bias
        weights[f"{out}.weight"] = head.out.weight * scale
    else:
        weights[f"{dense}.weight"] = torch.eye(head.width) * _SMALL
        weights[f"{dense}.bias"] = torch.zeros(head.width)
        weights[f"{out}.weight"] = head.out.weight * scale / _SMALL
    model.load_state_dict({name: tensor.detach().cpu() for name, tensor in weights.items()})
    model.eval()
    return model  # type: ignore[no-any-return]
