"""Tiny random-weight models, built offline in milliseconds, for tests of every kind."""

import functools
import tempfile
from pathlib import Path

import torch
from transformers import (
    AlbertConfig,
    BertConfig,
    BertTokenizerFast,
    DistilBertConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from clip_text.checkpoints import Checkpoint, Preprocessing
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TowerConfig, build_model

WIDTH = 32
IMAGE_SIZE = 32
CONTEXT_LENGTH = 16
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)

# Every character a token, as in a Chinese BERT; every Latin letter and digit also in its
# word-inner form.
_CHINESE = "一二三只个的在上和红绿蓝黄黑白色心星圆方狗猫鸟鱼马花树草地水天人跑看坐飞大小"
_PUNCTUATION = "\"'!?,.:;-()[]/…—￥，！？。《》"
_LATIN = "abcdefghijklmnopqrstuvwxyz0123456789￥"
_WORDS = ["dog", "cat", "red", "run", "##ning", "mask", "🐶"]
VOCABULARY = list(
    dict.fromkeys(
        [*SPECIALS, *_CHINESE, *_PUNCTUATION, *_LATIN, *(f"##{c}" for c in _LATIN), *_WORDS]
    )
)

VISION = {
    "vit": {
        "image_size": IMAGE_SIZE,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 16,
    },
    "resnet": {"image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    "timm": {
        "timm_model_name": "test_efficientnet",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": IMAGE_SIZE,
    },
}


def backbone(kind: str = "bert", vocab_size: int = len(VOCABULARY), **changes) -> PreTrainedConfig:
    """Configuration of a two-layer encoder of one of five architectures, width 32."""
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,  # ten times the usual, so that texts differ without training
        "pad_token_id": PAD,
    }
    shape |= changes
    if kind == "distilbert":
        names = {
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        }
        shape = {names.get(name, name): value for name, value in shape.items()}
        return DistilBertConfig(**shape)
    if kind == "albert":
        return AlbertConfig(**shape, embedding_size=16)
    classes = {"bert": BertConfig, "roberta": RobertaConfig, "xlm-roberta": XLMRobertaConfig}
    return classes[kind](**shape)


BACKBONES = ("bert", "roberta", "distilbert", "xlm-roberta", "albert")


def bert_tokenizer(vocabulary: list[str] = VOCABULARY) -> BertTokenizerFast:
    """A WordPiece tokenizer over a vocabulary, lower-casing as Chinese BERTs do."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        return BertTokenizerFast.from_pretrained(folder)


def tiny_tokenizer(context_length: int = CONTEXT_LENGTH) -> Tokenizer:
    """The tokeniser contract over :data:`VOCABULARY`."""
    return Tokenizer(bert_tokenizer(), context_length)


def tower_config(vision: str = "vit", kind: str = "bert", **changes) -> TowerConfig:
    """Shape of a tiny pair; ``changes`` are fields of TowerConfig."""
    fields = {"embed_dim": 24, "pooler": "mean", "context_length": CONTEXT_LENGTH} | changes
    return TowerConfig(vision=dict(VISION[vision]), backbone=backbone(kind), **fields)


def tiny_checkpoint(seed: int = 0, **changes) -> Checkpoint:
    """A complete checkpoint with random weights; ``changes`` as in :func:`tower_config`."""
    config = tower_config(**changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(config).eval()
    preprocessing = Preprocessing(IMAGE_SIZE, mean=(0.5, 0.4, 0.3), std=(0.25, 0.3, 0.35))
    return Checkpoint(model, config, tiny_tokenizer(config.context_length), preprocessing)


@functools.cache
def shared_checkpoint() -> Checkpoint:
    """One for all tests that only read it."""
    return tiny_checkpoint()


def rows(*texts: list[int]) -> torch.Tensor:
    """Ragged token ids as int64 [n, longest], padded."""
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[PAD] * (longest - len(text))] for text in texts])
