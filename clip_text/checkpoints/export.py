"""A head as a folder of transformers' own classes for its task, which load without this package.

The logits of an ``AutoModelForSequenceClassification`` are the classification head's over its
temperature, so a plain softmax gives the calibrated probabilities.

Their classes of BERT's family have a dense layer and tanh between the first token's state and the
classifier. A head of form ``bert`` has the same, and is copied. A ``linear`` head has not, and is
reproduced: the dense layer becomes a small multiple of the identity, where tanh is the identity to
the last bit of fp32, and the classifier undoes the factor, a power of two.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from clip_text.checkpoints.files import read_json
from clip_text.checkpoints.weights import load_weights
from clip_text.errors import CheckpointError
from clip_text.heads.answers import AnswerFinder
from clip_text.heads.classification import ClassificationHead, HeadConfig
from clip_text.heads.entities import EntityRecognizer, bio_labels
from clip_text.storage import partial_folder, write_json
from clip_text.tokenizer import Tokenizer
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


def sequence_classifier(tower: TextTower, head: ClassificationHead) -> PreTrainedModel:
    """Build an ``AutoModelForSequenceClassification`` with the weights of a backbone and a head.

    Raises:
        CheckpointError: If the pooler is not ``cls``, or the backbone of another family.
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


def token_classifier(tower: TextTower, head: EntityRecognizer) -> PreTrainedModel:
    """Build an ``AutoModelForTokenClassification`` with the weights of a backbone and a head.

    Raises:
        CheckpointError: If their class has other tensors.
    """
    labels = bio_labels(head.types)
    config = _config(
        tower,
        id2label=dict(enumerate(labels)),
        label2id={label: position for position, label in enumerate(labels)},
    )
    model = AutoModelForTokenClassification.from_config(config)  # type: ignore[no-untyped-call]
    return _filled(model, tower, head.head.out, "classifier")


def question_answerer(tower: TextTower, head: AnswerFinder) -> PreTrainedModel:
    """Build an ``AutoModelForQuestionAnswering`` with the weights of a backbone and a head.

    Raises:
        CheckpointError: If their class has other tensors.
    """
    config = _config(tower, num_labels=2)
    model = AutoModelForQuestionAnswering.from_config(config)  # type: ignore[no-untyped-call]
    return _filled(model, tower, head.head.out, "qa_outputs")


def write_exported(
    model: PreTrainedModel, tokenizer: Tokenizer, context_length: int, folder: Path
) -> None:
    """Write a folder that transformers loads without this package.

    Args:
        model: Of transformers' own class for the task.
        tokenizer: Written with the contract's normalisation inside.
        context_length: Longest row of tokens that the model reads.
        folder: Created with its parents; must not exist yet.

    Raises:
        CheckpointError: If the contract is open_clip's.
    """
    try:
        plain = portable(tokenizer)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    plain.model_max_length = context_length
    with partial_folder(folder) as partial:
        model.save_pretrained(partial)
        plain.save_pretrained(str(partial))
        # the name that transformers 4 and 5 both know
        config = read_json(partial / "tokenizer_config.json")
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_json(partial / "tokenizer_config.json", config)


def _filled(
    model: PreTrainedModel, tower: TextTower, layer: nn.Linear, name: str
) -> PreTrainedModel:
    """Copy a backbone and one linear layer, which transformers' class calls by a name."""
    backbone = tower.transformer.state_dict()
    weights = {f"{model.base_model_prefix}.{key}": tensor for key, tensor in backbone.items()}
    weights |= {f"{name}.{key}": tensor for key, tensor in layer.state_dict().items()}
    load_weights(model, weights, Path(type(model).__name__))
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _config(tower: TextTower, **fields: object) -> PreTrainedConfig:
    """Copy the backbone's configuration, with fields set for the task."""
    config = copy.deepcopy(tower.config)
    config.dtype = torch.float32
    for name, value in fields.items():
        setattr(config, name, value)
    return config
