"""What benchmarks/train_steps.py races: the training steps of cn_clip, of open_clip and ours.

What the others do is reproduced from ``cn_clip/training/{main,train,data}.py`` (1.6) and
``open_clip_train/{main,train}.py`` (3.3), as one process without a GPU runs it: no gathering
between processes, and cn_clip in fp32, since its autocast is CUDA's.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip
import open_clip.tokenizer
import torch
import torch.nn.functional as F
from cn_clip.clip import tokenize as cn_clip_tokenize
from cn_clip.clip.model import CLIP as CnClip  # noqa: N811
from open_clip.transformer import PatchDropout
from torch import Tensor, nn
from transformers import BertConfig

from clip_text.checkpoints.cn_clip import chinese_tokenizer
from clip_text.checkpoints.keys import CN_CLIP, to_right
from clip_text.losses import multi_positive_contrastive
from clip_text.precision import bf16_pays
from clip_text.tokenizer import CONTEXT_LENGTH, Tokenizer
from clip_text.towers import MAX_LOGIT_SCALE, TowerConfig, build_model

CAPTIONS = 5
"""Of every picture of Flickr8k-CN."""

ADAMW: dict[str, Any] = {"lr": 1e-6, "betas": (0.9, 0.98), "eps": 1e-6}
"""Both libraries' defaults for a ViT, at the first step of their warm-up."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of both towers; heads are 64 wide everywhere."""

    image_size: int = 224
    layers: int = 12
    width: int = 768

    def bert(self) -> BertConfig:
        """The text tower's backbone, as chinese-roberta-wwm-ext but for its size."""
        return BertConfig(
            vocab_size=21128,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // 64,
            intermediate_size=4 * self.width,
        )

    def vision(self) -> dict[str, int]:
        """open_clip's ``vision_cfg``."""
        sizes = {"image_size": self.image_size, "layers": self.layers, "width": self.width}
        return {**sizes, "patch_size": 16}


@dataclass(slots=True)
class Batch:
    """Pixels [n, 3, size, size], the captions of each picture, and features [n, 512]."""

    pixels: Tensor
    captions: list[list[str]]
    features: Tensor | None = None

    def head(self, count: int) -> "Batch":
        """Its first pictures."""
        features = None if self.features is None else self.features[:count]
        return Batch(self.pixels[:count], self.captions[:count], features)

    def first(self) -> list[str]:
        """One caption of each picture."""
        return [captions[0] for captions in self.captions]


@dataclass(slots=True)
class Contender:
    """A way to take training steps.

    Args:
        name: For the table.
        model: What learns; others may share it.
        loss: Of a batch, with the captions tokenised in it.
        optimizer: Makes one over the parameters that ``prepare`` left open.
        prepare: Sets the model up at the start of each turn.
        clip: Largest norm of the gradient; neither library clips by default, our trainer does.
        captions: Captions of each picture, so pairs, that a step trains on.
    """

    name: str
    model: nn.Module
    loss: Callable[[Batch], Tensor]
    optimizer: Callable[[], torch.optim.Optimizer]
    prepare: Callable[[], None]
    clip: float | None = None
    captions: int = 1

    def step(self, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        """All that one step of a training loop does with a batch."""
        optimizer.zero_grad()
        self.loss(batch).backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def turn(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """Step through batches; seconds and CPU seconds a pair, the optimizer's first step apart.

        The CPU's seconds count both cores, and say little of what else ran on the machine.
        """
        self.prepare()
        optimizer = self.optimizer()
        self.step(optimizer, batches[0].head(2))  # makes the moments
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in batches:
            self.step(optimizer, batch)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.model.zero_grad(set_to_none=True)
        pairs = self.captions * sum(len(batch.captions) for batch in batches)
        return wall / pairs, cpu / pairs


def _prepare(
    model: nn.Module, frozen: bool, *, patch_dropout: float = 0.0, open_layers: int | None = None
) -> None:
    model.train().requires_grad_(True)
    # freeze_vision of cn_clip and lock_image_tower of open_clip do this to a ViT
    model.visual.requires_grad_(not frozen)
    model.visual.patch_dropout = PatchDropout(patch_dropout) if patch_dropout else nn.Identity()
    if open_layers is not None:
        model.text.lock(unlocked_layers=open_layers)


def _autocast(bf16: bool) -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def _adamw(
    model: nn.Module, exempt: Callable[[str, Tensor], bool], decay: float, **kwargs: object
) -> torch.optim.Optimizer:
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in learning if exempt(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in learning if not exempt(n, p)], "weight_decay": decay},
    ]
    return torch.optim.AdamW(groups, **ADAMW, **kwargs)


def _named_exempt(name: str, parameter: Tensor) -> bool:  # noqa: ARG001
    return any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def cn_clip_contender(shape: Shape, weights: Mapping[str, Tensor], frozen: bool) -> Contender:
    """cn_clip's towers, loss and step; pads to 52 tokens, and a frozen image tower runs as well."""
    folder = resources.files("cn_clip.clip") / "model_configs"
    info: dict[str, Any] = {}
    for file in ("ViT-B-16.json", "RoBERTa-wwm-ext-base-chinese.json"):
        info |= json.loads((folder / file).read_text(encoding="utf-8"))
    info |= {"image_resolution": shape.image_size}
    info |= {"vision_layers": shape.layers, "vision_width": shape.width}
    info |= {"text_num_hidden_layers": shape.layers, "text_hidden_size": shape.width}
    info |= {"text_intermediate_size": 4 * shape.width}
    info |= {"text_num_attention_heads": shape.width // 64}
    model = CnClip(**info)
    renamed = to_right(weights, CN_CLIP).weights
    missing = model.load_state_dict(renamed, strict=False).missing_keys
    assert not [name for name in missing if "pooler" not in name], missing

    def loss(batch: Batch) -> Tensor:
        texts = [text.lower().replace("“", '"').replace("”", '"') for text in batch.first()]
        tokens = torch.stack([cn_clip_tokenize([text], CONTEXT_LENGTH)[0] for text in texts])
        image_features, text_features, logit_scale = model(batch.pixels, tokens, 0)
        logits = logit_scale.mean() * image_features @ text_features.t()
        truth = torch.arange(len(logits)).long()
        return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.t(), truth)) / 2

    optimizer = partial(_adamw, model, _named_exempt, 0.2)
    return Contender("cn_clip", model, loss, optimizer, partial(_prepare, model, frozen))


def open_clip_contenders(
    shape: Shape, weights: Mapping[str, Tensor], frozen: bool
) -> list[Contender]:
    """open_clip's towers, tokenizer, loss and step, with its own Hugging Face text tower."""
    with tempfile.TemporaryDirectory() as folder:
        chinese_tokenizer(CONTEXT_LENGTH).save(Path(folder))
        shape.bert().save_pretrained(folder)
        text = open_clip.CLIPTextCfg(
            hf_model_name=folder,
            hf_model_pretrained=False,
            hf_pooler_type="cls_last_hidden_state_pooler",
            hf_proj_type="linear",
        )
        model = open_clip.CustomTextCLIP(512, shape.vision(), text, quick_gelu=True)
        tokenizer = open_clip.tokenizer.HFTokenizer(folder, context_length=CONTEXT_LENGTH)
    model.load_state_dict(weights)
    model.output_dict = True
    criterion = open_clip.ClipLoss()

    def loss(batch: Batch, bf16: bool) -> Tensor:
        tokens = tokenizer(batch.first())
        with _autocast(bf16):
            out = model(batch.pixels, tokens)
            return criterion(**out, output_dict=True)["contrastive_loss"]

    def exempt(name: str, parameter: Tensor) -> bool:
        return parameter.ndim < 2 or _named_exempt(name, parameter)

    optimizer, prepare = partial(_adamw, model, exempt, 0.2), partial(_prepare, model, frozen)
    names = {"open_clip": False, **({"open_clip, amp_bf16": True} if bf16_pays() else {})}
    return [
        Contender(name, model, partial(loss, bf16=bf16), optimizer, prepare)
        for name, bf16 in names.items()
    ]


def our_loss(
    model: nn.Module,
    tokenizer: Tokenizer,
    batch: Batch,
    *,
    frozen: bool,
    bf16: bool = False,
    packed: bool = True,
    captions: int = 1,
) -> Tensor:
    """Our step's loss, by what the trainer runs.

    Args:
        model: As :func:`clip_text.towers.build_model` makes it.
        tokenizer: For the captions.
        batch: Pictures, or where ``frozen`` their features, and captions.
        frozen: Whether to take the cached features.
        bf16: Compute both towers in bfloat16.
        packed: Lay captions behind one another, as the trainer does; otherwise pad them to the
            longest.
        captions: Captions of each picture.
    """
    chosen = [texts[:captions] for texts in batch.captions]
    texts = [text for texts in chosen for text in texts]
    rows = tokenizer.token_ids(texts)
    positives = torch.tensor([[text in group for group in chosen] for text in texts])
    with _autocast(bf16):
        model.text.pack(packed)
        text_features = model.text(tokenizer.pad(rows))
        if frozen:
            assert batch.features is not None
            image_features = batch.features
        else:
            image_features = model.visual(batch.pixels)
    scale = model.logit_scale.exp()
    return multi_positive_contrastive(text_features, image_features, positives, scale)


def our_contenders(model: nn.Module, frozen: bool) -> list[Contender]:
    """Our step, and variants of it: the same computation first, then others, said to be so."""
    tokenizer = chinese_tokenizer(CONTEXT_LENGTH)
    bf16 = bf16_pays()
    label = "ours, bf16" if bf16 else "ours"
    losses: dict[str, dict[str, Any]] = {"ours, padded": {"packed": False}, "ours": {}}
    if bf16:
        losses[label] = {"bf16": True}
    setups: dict[str, dict[str, Any]] = {}
    if frozen:
        setups = {f"{label}, top 4 layers*": {"open_layers": 4}}
    else:
        setups = {f"{label}, half the patches*": {"patch_dropout": 0.5}}
    fast = {"bf16": bf16}
    losses |= dict.fromkeys(setups, fast)
    losses |= {f"{label}, {n} captions a picture*": {**fast, "captions": n} for n in (2, CAPTIONS)}
    return [
        Contender(
            name,
            model,
            partial(_called, model, tokenizer, {"frozen": frozen, **loss}),
            partial(_adamw, model, lambda _, p: p.ndim < 2, 0.05, fused=True),
            partial(_prepare, model, frozen, **setups.get(name, {})),
            clip=1.0,
            captions=loss.get("captions", 1),
        )
        for name, loss in losses.items()
    ]


def _called(
    model: nn.Module, tokenizer: Tokenizer, settings: dict[str, Any], batch: Batch
) -> Tensor:
    return our_loss(model, tokenizer, batch, **settings)


def our_model(shape: Shape) -> nn.Module:
    """Both towers with random weights, which every contender starts from.

    Three times as large as usual, and at the largest scale: otherwise all texts and all pictures
    come out nearly alike, and any loss, right or wrong, is the log of the batch size.
    """
    torch.manual_seed(0)
    model = build_model(TowerConfig(512, shape.vision(), shape.bert(), quick_gelu=True))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
        model.logit_scale.fill_(MAX_LOGIT_SCALE)
    return model
