"""The two towers and their pair, as an open_clip ``CustomTextCLIP``.

Text:  tokens → backbone (any Hugging Face encoder) → pooler → projection
Image: pixels → open_clip's ViT, ResNet or any timm model → projection

The text tower keeps the key names of open_clip's own Hugging Face text encoder
(``text.transformer.*``, ``text.proj.weight``), so a checkpoint loads in either.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from open_clip import CLIPTextCfg, CustomTextCLIP
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from clip_text.packed import ARCHITECTURES, packed_states
from clip_text.tokenizer import CONTEXT_LENGTH

Pooler = Literal["cls", "mean", "max"]
Projection = Literal["linear", "mlp", "tanh", "none"]

INIT_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)
"""CLIP clamps the learned log to [0, ln 100]; Radford et al. 2021, section 2.5."""


def cls_pool(states: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG001
    """Take the state of the first token; [batch, length, width] → [batch, width]."""
    return states[:, 0]


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Average the states of the real tokens of each text.

    Args:
        states: Last hidden states, [batch, length, width].
        mask: True at real tokens, [batch, length]; every row has at least one.

    Returns:
        One vector per text, [batch, width], not normalised.

    Source:
        Reimers & Gurevych 2019, section 3, arXiv:1908.10084.
    """
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1)


def max_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Take the largest value of each dimension over the real tokens; [batch, width].

    Args:
        states: Last hidden states, [batch, length, width].
        mask: True at real tokens, [batch, length].
    """
    return states.masked_fill(~mask.bool().unsqueeze(-1), -torch.inf).amax(1)


POOLERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": cls_pool,
    "mean": mean_pool,
    "max": max_pool,
}


@dataclass(frozen=True, slots=True)
class TowerConfig:
    """Shape of a pair of towers.

    Args:
        embed_dim: Width of the shared space.
        vision: open_clip's ``vision_cfg``: ``layers``/``width``/``patch_size`` for its own ViT
            and ResNet, or ``timm_model_name`` and its companions.
        backbone: Configuration of the Hugging Face encoder below the text tower.
        pooler: How token states become one vector.
        projection: ``linear`` (no bias), ``mlp``, ``none`` where the width is embed_dim, or
            ``tanh`` (two layers with biases, as Taiyi-CLIP has; open_clip's own tower has not).
        context_length: Longest text in tokens, [CLS] and [SEP] included.
        quick_gelu: True for weights that descend from OpenAI's ViTs.
        matryoshka: Numbers of first dimensions that rows were trained to be cut to, rising; a
            record, by which nothing is computed.
    """

    embed_dim: int
    vision: dict[str, Any]
    backbone: PreTrainedConfig
    pooler: Pooler = "cls"
    projection: Projection = "linear"
    context_length: int = CONTEXT_LENGTH
    quick_gelu: bool = False
    matryoshka: tuple[int, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of ``model_cfg`` this version does not know; written back as they came."""


def is_vit(vision: Mapping[str, Any]) -> bool:
    """Say whether a ``vision_cfg`` is open_clip's own ViT, all that ``quick_gelu`` changes."""
    return isinstance(vision.get("layers"), int)


def _make_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the encoder without weights, and without the tanh pooler no pooler of ours reads."""
    model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    model_class = type(model)
    if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
        model = model_class(config, add_pooling_layer=False)
    if getattr(config, "is_encoder_decoder", False):
        model = model.get_encoder()
    return cast(PreTrainedModel, model)


def _make_projection(width: int, embed_dim: int, kind: str) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, embed_dim, bias=False)
    if kind == "mlp":  # the shape of open_clip's HFTextEncoder, so its checkpoints load
        hidden = (width + embed_dim) // 2
        return nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, embed_dim, bias=False),
        )
    if kind == "tanh":  # BERT's pooler and classifier as one projection, as Taiyi-CLIP's text tower
        return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, embed_dim))
    if kind == "none" and width == embed_dim:
        return nn.Identity()
    if kind == "none":
        raise ValueError(
            f"expected a backbone of width {embed_dim} (embed_dim) for projection 'none', "
            f"got {width}. Use projection 'linear'."
        )
    raise ValueError(
        f"expected projection linear, mlp, tanh or none, got {kind!r}. Choose one of them."
    )


class TextTower(nn.Module):
    """Token ids to vectors of the shared space: backbone → pooler → projection.

    Args:
        backbone: Configuration of a Hugging Face encoder; weights start random.
        embed_dim: Width of the shared space.
        pooler: ``cls``, ``mean`` or ``max``.
        projection: ``linear``, ``mlp``, ``tanh`` or ``none``.
        context_length: Longest text in tokens.

    Raises:
        ValueError: If the pooler or projection is unknown or does not fit the width.
    """

    def __init__(
        self,
        backbone: PreTrainedConfig,
        embed_dim: int,
        pooler: str = "cls",
        projection: str = "linear",
        context_length: int = CONTEXT_LENGTH,
    ) -> None:
        super().__init__()
        if pooler not in POOLERS:
            raise ValueError(
                f"expected pooler {', '.join(POOLERS)}, got {pooler!r}. Choose one of them."
            )
        self.config = backbone
        self.transformer = _make_backbone(backbone)
        self.pooler = pooler
        self.projection = projection
        self.width = int(self.transformer.config.hidden_size)
        self.proj = _make_projection(self.width, embed_dim, projection)
        # open_clip and the tools around it read these three
        self.context_length = context_length
        self.vocab_size = int(backbone.vocab_size)
        self.output_dim = embed_dim
        self.pad_id = int(getattr(backbone, "pad_token_id", 0) or 0)
        self.packed = False

    def states(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the backbone; returns last hidden states [n, length, width] and mask [n, length]."""
        mask = tokens != self.pad_id
        if self.packed:
            return packed_states(self.transformer, tokens, mask), mask
        out = self.transformer(input_ids=tokens, attention_mask=mask.long())
        return out.last_hidden_state, mask

    def pack(self, enable: bool = True) -> None:
        """Lay texts behind one another instead of padding them, where the backbone can.

        The states are the same to rounding. It pays where lengths differ in a batch, as they do
        in training.
        """
        self.packed = enable and self.config.model_type in ARCHITECTURES

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool each text, before the projection; [n, length] → [n, width]."""
        states, mask = self.states(tokens)
        return POOLERS[self.pooler](states, mask)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode token ids, int64 [n, length], into [n, embed_dim], not normalised."""
        return cast(Tensor, self.proj(self.pool(tokens)))

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the backbone but its last ``unlocked_layers`` layers; the projection still learns.

        open_clip's ``lock_text_tower`` calls this. (Its own tower raises KeyError for BERT here.)
        """
        layers = self._layers()
        unlocked = layers[max(0, len(layers) - unlocked_layers) :]
        open_parameters = {id(p) for layer in unlocked for p in layer.parameters()}
        for name, parameter in self.transformer.named_parameters():
            norm = "LayerNorm" in name or "layer_norm" in name
            parameter.requires_grad = id(parameter) in open_parameters or (
                norm and not freeze_layer_norm
            )

    def _layers(self) -> nn.ModuleList:
        """Find the stack of layers: the longest ModuleList, whatever the architecture calls it."""
        lists = [m for m in self.transformer.modules() if isinstance(m, nn.ModuleList)]
        if not lists:
            raise ValueError(
                "expected a backbone with a list of layers, "
                f"got {type(self.transformer).__name__}. Freeze its parameters by name."
            )
        return max(lists, key=len)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade a second forward pass for memory; open_clip calls this."""
        verb = "enable" if enable else "disable"
        # transformers 6 drops the older name, and the first releases of 5 lack the newer one
        older = f"gradient_checkpointing_{verb}"
        newer = f"activation_checkpointing_{verb}"
        getattr(self.transformer, newer if hasattr(self.transformer, newer) else older)()

    def init_parameters(self) -> None:
        """Nothing to do: open_clip's training script calls this on every text tower."""


def build_model(config: TowerConfig) -> CustomTextCLIP:
    """Build the pair with random weights, as open_clip's own container.

    Args:
        config: Shapes of both towers.

    Returns:
        A ``CustomTextCLIP`` with ``visual``, ``text`` and ``logit_scale``.
    """
    # open_clip has no hook for another text tower, so its constructor gets the smallest one it
    # knows, and ours takes the place.
    stand_in = CLIPTextCfg(context_length=1, vocab_size=1, width=1, heads=1, layers=1)
    model = CustomTextCLIP(
        embed_dim=config.embed_dim,
        vision_cfg=config.vision,
        text_cfg=stand_in,
        quick_gelu=config.quick_gelu,
        init_logit_scale=INIT_LOGIT_SCALE,
    )
    model.text = TextTower(
        config.backbone, config.embed_dim, config.pooler, config.projection, config.context_length
    )
    model.context_length = config.context_length
    model.vocab_size = model.text.vocab_size
    return model
