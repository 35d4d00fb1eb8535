"""What of a pair learns, and how fast: freezing, layers, LoRA, parameter groups."""

from collections.abc import Iterator
from typing import Any, cast

from open_clip import CustomTextCLIP
from open_clip.transformer import PatchDropout
from torch import nn

from clip_text.errors import needs
from clip_text.training.recipe import Learn, Recipe, RecipeError

IMAGE_PROJECTIONS = ("head.", "proj", "attnpool.")
"""How open_clip's image towers call what follows the trunk: timm's, its ViT's, its ResNet's."""


def open_parameters(pair: CustomTextCLIP, recipe: Recipe) -> None:
    """Let learn what the recipe says, and freeze the rest.

    Raises:
        RecipeError: If a tower has fewer layers than asked for, or no list of layers.
        MissingPackageError: If LoRA is asked for and peft is not installed.
    """
    check_towers(pair, recipe)
    _open(pair.visual, recipe.image, IMAGE_PROJECTIONS)
    if recipe.text == "lora":
        pair.text.lock(0)
        pair.text.transformer = _with_lora(pair.text.transformer, recipe.lora_rank)
    else:
        _open(pair.text, recipe.text, ("proj.",))
    pair.logit_scale.requires_grad = True
    pair.text.pack()
    if recipe.patch_dropout:
        _set_patch_dropout(pair.visual, recipe.patch_dropout)
    if recipe.gradient_checkpointing:
        pair.set_grad_checkpointing(True)


def _set_patch_dropout(visual: nn.Module, share: float) -> None:
    if isinstance(getattr(visual, "patch_dropout", None), nn.Module):
        visual.patch_dropout = PatchDropout(share) if share else nn.Identity()


def check_towers(pair: CustomTextCLIP, recipe: Recipe) -> None:
    """Refuse what the towers have not, before anything is computed.

    Raises:
        RecipeError: If a tower has fewer layers than asked for, no patches to drop, or rows of
            fewer dimensions than are to learn by themselves.
        MissingPackageError: If LoRA is asked for and peft is not installed.
    """
    for tower, learn, which in (
        (pair.visual, recipe.image, "image"),
        (pair.text, recipe.text, "text"),
    ):
        top, layers = learn if isinstance(learn, int) else 0, _depth(tower)
        if top > layers:
            raise RecipeError(
                f"expected at most {layers} last layers of the {which} tower to learn (all it "
                f"has), got {learn}. Lower it."
            )
    embed_dim = pair.text.output_dim
    if max(recipe.matryoshka, default=1) > embed_dim:
        raise RecipeError(
            f"expected matryoshka to be widths up to {embed_dim} (the model's embed_dim), got "
            f"{list(recipe.matryoshka)}. Leave out the larger ones."
        )
    if recipe.patch_dropout and not isinstance(
        getattr(pair.visual, "patch_dropout", None), nn.Module
    ):
        raise RecipeError(
            "expected one of open_clip's ViTs to drop patches of, got "
            f"{type(pair.visual).__name__}. Set patch_dropout to 0."
        )
    if recipe.text == "lora":
        _peft()


def close_parameters(pair: CustomTextCLIP) -> None:
    """Undo :func:`open_parameters`; LoRA is folded into the weights it lies beside."""
    if hasattr(pair.text.transformer, "merge_and_unload"):
        pair.text.transformer = pair.text.transformer.merge_and_unload()
    pair.text.pack(False)
    _set_patch_dropout(pair.visual, 0)
    pair.set_grad_checkpointing(False)
    for parameter in pair.parameters():
        parameter.requires_grad = True


def _peft() -> Any:  # noqa: ANN401  (a module)
    with needs("clip-text[train]", "LoRA"):
        import peft  # noqa: PLC0415  (few need it)
    return peft


def _with_lora(backbone: nn.Module, rank: int) -> nn.Module:
    peft = _peft()
    layers = [name for name, part in backbone.named_modules() if isinstance(part, nn.Linear)]
    projections = ("query", "key", "value", "q_lin", "k_lin", "v_lin")
    chosen = [name for name in layers if name.rsplit(".", 1)[-1] in projections] or layers
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=chosen)
    return cast(nn.Module, peft.LoraModel(backbone, {"default": config}, "default"))


def _open(tower: nn.Module, learn: Learn, projections: tuple[str, ...]) -> None:
    top = learn if isinstance(learn, int) else 0
    layers = _depth(tower)
    for _, parameter, depth in depths(tower, projections):
        parameter.requires_grad = learn == "all" or (learn != "none" and depth > layers - top)


def depths(
    tower: nn.Module, projections: tuple[str, ...]
) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Name, parameter and depth of everything in a tower.

    What lies below the first layer has depth 0, the layers 1 to n, the projection n + 1; a norm
    between them goes with the last layer.
    """
    stack = _layers(tower)
    layer_of = {
        id(parameter): at for at, layer in enumerate(stack, 1) for parameter in layer.parameters()
    }
    above = False
    for name, parameter in tower.named_parameters():
        depth = layer_of.get(id(parameter))
        above = above or depth is not None
        if name.startswith(projections):
            depth = len(stack) + 1
        elif depth is None:
            depth = len(stack) if above else 0
        yield name, parameter, depth


def _depth(tower: nn.Module) -> int:
    return len(_layers(tower))


def _layers(tower: nn.Module) -> list[nn.Module]:
    """The stack of layers, whatever the architecture calls it: the longest list of modules.

    In timm's EfficientNets it is the stages; a ResNet's are modules of their own.
    """
    trunk = getattr(tower, "trunk", tower)
    for names in (("blocks",), ("stages",), ("layer1", "layer2", "layer3", "layer4")):
        found = [getattr(trunk, name, None) for name in names]
        if all(isinstance(part, nn.Module) for part in found):
            parts = cast(list[nn.Module], found)
            return parts if len(parts) > 1 else list(parts[0].children())
    lists = [list(m) for m in tower.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=[])


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Group what learns by learning rate and weight decay, for AdamW.

    Norms, biases and the logit scale are not decayed; ``layer_decay`` lowers the rate from the
    top of a tower down; the image tower below its projection has rate and decay of its own.

    Args:
        model: Holds the pair as ``pair``; parameters of its own learn at ``learning_rate``.
        recipe: Rates, epochs and batch sizes to train by.
    """
    pair = cast(CustomTextCLIP, model.pair)
    factors: dict[int, float] = {}
    below: set[int] = set()
    for tower, projections in ((pair.visual, IMAGE_PROJECTIONS), (pair.text, ("proj.",))):
        top = _depth(tower) + 1
        for name, parameter, depth in depths(tower, projections):
            factors[id(parameter)] = recipe.layer_decay ** (top - depth)
            if tower is pair.visual and not name.startswith(projections):
                below.add(id(parameter))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        image = id(parameter) in below
        rate = recipe.image_learning_rate if image else recipe.learning_rate
        decay = recipe.image_weight_decay if image else recipe.weight_decay
        rate *= factors.get(id(parameter), 1.0)
        groups.setdefault((rate, decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
