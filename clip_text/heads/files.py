"""How heads lie in a checkpoint's folder, beside the towers.

heads/NAME/head.json          task, labels, form, calibration; digest of the backbone it reads
heads/NAME/head.safetensors   weights, its own backbone's among them if it has one
heads/NAME/config.json        configuration of that backbone, as transformers.AutoConfig reads it
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, PreTrainedConfig

from clip_text.checkpoints.files import read_json, read_state, write_weights
from clip_text.checkpoints.parts import BROKEN, incomplete, load_weights, stored
from clip_text.errors import CheckpointError
from clip_text.heads.classification import ClassificationHead, HeadConfig
from clip_text.storage import write_json
from clip_text.towers import TextTower

FOLDER = "heads"
CONFIG, WEIGHTS = "head.json", "head.safetensors"
TASK = "classification"
PARTIAL = ".partial"
"""How the name of a folder ends while it is written."""


def save_heads(
    heads: Mapping[str, ClassificationHead], tower: TextTower, folder: Path, dtype: torch.dtype
) -> None:
    """Write heads into a checkpoint's folder.

    Args:
        heads: By name.
        tower: That of the checkpoint.
        folder: The checkpoint's, which exists.
        dtype: Of the stored floating-point weights, the tower's too.

    Raises:
        CheckpointError: If a name is no name of a folder.
    """
    shared = backbone_digest(tower, dtype) if heads else ""
    for name, head in heads.items():
        check_name(name)
        place = head_folder(folder, name)
        place.mkdir(parents=True)
        about = {"task": TASK, **asdict(head.config), "width": head.width}
        about |= {"backbone": "own" if head.tower else shared}
        if head.tower:
            about["context_length"] = head.tower.context_length
            head.tower.config.save_pretrained(place)
        write_json(place / CONFIG, about)
        weights = stored(head.state_dict(), dtype)
        weights["temperature"] = head.temperature.detach().cpu()
        write_weights(weights, place / WEIGHTS)


def load_heads(folder: Path, tower: TextTower) -> dict[str, ClassificationHead]:
    """Read the heads of a checkpoint's folder; none if it has none.

    Heads of a task that this version does not know are passed over.

    Raises:
        CheckpointError: If one is damaged, or belongs to another backbone than ``tower``'s.
    """
    found: dict[str, ClassificationHead] = {}
    digest = ""
    for place, about in heads_in(folder):
        if about.get("task") != TASK:
            continue
        try:
            head = _build(place, about)
        except BROKEN as error:
            raise incomplete(place, error) from error
        load_weights(head, read_state(place / WEIGHTS).weights, place / WEIGHTS)
        if head.tower is None:
            digest = digest or backbone_digest(tower)
            if about["backbone"] != digest:
                raise CheckpointError(
                    f"expected a head trained on this model's backbone in {place}, got one "
                    f"of another ({about['backbone']}, not {digest}). Delete the folder, or train "
                    "the head anew."
                )
        found[place.name] = head.eval()
    return found


def heads_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Find the heads of a checkpoint's folder: the folder of each, and what head.json says.

    Raises:
        CheckpointError: If one is damaged.
    """
    places = sorted((folder / FOLDER).glob(f"*/{CONFIG}"))
    # what a process that was killed left half written is no head
    return [(each.parent, read_json(each)) for each in places if each.parent.suffix != PARTIAL]


def head_folder(folder: Path, name: str) -> Path:
    """Where a head of a name lies in a checkpoint's folder."""
    return folder / FOLDER / name


def drop_readers_of_another(folder: Path, tower: TextTower, dtype: torch.dtype) -> None:
    """Delete heads in a checkpoint's folder that read the states of another text tower.

    They would be refused with the one that was just written there. Others stay.
    """
    shared = [
        (place, about)
        for place, about in heads_in(folder)
        if about.get("task") == TASK and about.get("backbone") != "own"
    ]
    if not shared:
        return
    ours = backbone_digest(tower, dtype)
    for place, about in shared:
        if about.get("backbone") != ours:
            shutil.rmtree(place)


def check_name(name: str) -> None:
    """Refuse a head's name that cannot name a folder.

    Raises:
        CheckpointError: If it is empty, starts with a dot, holds a separator, or names a folder
            that is being written.
    """
    wrong = name.startswith(".") or name.endswith(PARTIAL) or "\\" in name
    if not name or wrong or name != Path(name).name:
        raise CheckpointError(
            f"expected a head's name that can name a folder, got {name!r}. Use letters and digits."
        )


def backbone_digest(tower: TextTower, dtype: torch.dtype = torch.float32) -> str:
    """Digest of a backbone's weights as they will be read after being stored in ``dtype``."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(stored(tower.transformer.state_dict(), dtype).items()):
        digest.update(name.encode())
        exact = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(exact.numpy().tobytes())
    return digest.hexdigest()


def _build(place: Path, about: Mapping[str, object]) -> ClassificationHead:
    names = ("multi_label", "pooler", "form", "dropout", "threshold")
    labels = tuple(str(label) for label in cast(list[object], about["labels"]))
    config = HeadConfig(labels=labels, **{name: about[name] for name in names})  # type: ignore[arg-type]
    width, tower = int(cast(int, about["width"])), None
    if about["backbone"] == "own":
        backbone = cast(PreTrainedConfig, AutoConfig.from_pretrained(place, local_files_only=True))
        length = int(cast(int, about["context_length"]))
        tower = own_tower(backbone, width, config, length)
    return ClassificationHead(config, width, tower)


def own_tower(
    backbone: PreTrainedConfig, width: int, config: HeadConfig, context_length: int
) -> TextTower:
    """Build a text tower without projection, for a head that has one of its own."""
    return TextTower(backbone, width, config.pooler, "none", context_length)
