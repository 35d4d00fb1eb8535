"""Students: text towers to teach, of random weights or of an encoder's, and how they are kept."""

from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig

from clip_text.checkpoints import Checkpoint, LoadedTextTower, load_text_tower, save_checkpoint
from clip_text.checkpoints.sentence_transformers import save_text_tower
from clip_text.errors import CheckpointError
from clip_text.tokenizer import Tokenizer
from clip_text.towers import Pooler, TextTower
from clip_text.training.teachers import PairTeacher, Teacher

SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
}
"""Layers and width by name; Turc et al. 2019 (arXiv:1908.08962), and BERT's own base."""

_HEAD_WIDTH = 64


def new_student(
    size: str | tuple[int, int],
    tokenizer: Tokenizer,
    embed_dim: int,
    *,
    pooler: Pooler = "mean",
    seed: int = 0,
) -> LoadedTextTower:
    """Make a BERT of random weights as a text tower; the pooler changes none of them.

    Args:
        size: A name of :data:`SIZES`, or layers and width.
        tokenizer: Its vocabulary and context length are the tower's.
        embed_dim: Width of the teacher's rows.
        pooler: How token states become one vector.
        seed: Seed of the weights.

    Raises:
        ValueError: If there is no such size.
    """
    if isinstance(size, str) and size not in SIZES:
        raise ValueError(f"expected size {', '.join(SIZES)}, got {size!r}. Choose one of them.")
    layers, width = SIZES[size] if isinstance(size, str) else size
    config = BertConfig(
        vocab_size=max(tokenizer.backend.get_vocab().values()) + 1,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        intermediate_size=4 * width,
        max_position_embeddings=max(64, tokenizer.context_length),
        pad_token_id=tokenizer.pad_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = TextTower(config, embed_dim, pooler, context_length=tokenizer.context_length)
        assert isinstance(tower.proj, nn.Linear)
        nn.init.normal_(tower.proj.weight, std=width**-0.5)
    return LoadedTextTower(tower, tokenizer, (), tuple(tower.state_dict()))


def make_student(
    name: str,
    tokenizer: Tokenizer,
    embed_dim: int,
    *,
    pooler: Pooler = "mean",
    seed: int = 0,
) -> LoadedTextTower:
    """Make a student by a name of :data:`SIZES`, or of a plain encoder's folder or hub name.

    Args:
        name: Whose weights to start from; an encoder brings its own tokenizer.
        tokenizer: Tokenizer that a new student reads with.
        embed_dim: Width of the teacher's rows.
        pooler: How token states become one vector.
        seed: Seed of what starts random.

    Raises:
        CheckpointError: If it is neither a size nor an encoder.
    """
    if name in SIZES:
        return new_student(name, tokenizer, embed_dim, pooler=pooler, seed=seed)
    if not Path(name).expanduser().exists() and name.count("/") != 1:
        raise CheckpointError(
            f"expected a size ({', '.join(SIZES)}), a folder or a hub name of an encoder, "
            f"got {name!r}. Check the name."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_text_tower(name, embed_dim, pooler=pooler)


def paired(student: LoadedTextTower, teacher: Teacher) -> Checkpoint | LoadedTextTower:
    """Put a student beside its teacher's image tower, if the teacher has one.

    Args:
        student: Whose rows are in the teacher's space.
        teacher: Teacher whose rows the student learns.

    Returns:
        A pair of towers, or the student as it is.
    """
    return teacher.pair_with(student) if isinstance(teacher, PairTeacher) else student


def save_student(student: LoadedTextTower, teacher: Teacher, folder: Path) -> str:
    """Write what was learnt, in the format in which it can be used most.

    Args:
        student: Whose rows are in the teacher's space.
        teacher: If it has an image tower, that is written too.
        folder: Folder to write, which must not exist.

    Returns:
        ``pair``: an ordinary checkpoint of both towers, for ``Encoder.from_pretrained`` and every
        command; or ``sentence-transformers``: a folder for that library, whose encoder
        ``load_text_tower`` reads as well.
    """
    model = paired(student, teacher)
    if isinstance(model, Checkpoint):
        save_checkpoint(model, folder)
        return "pair"
    save_text_tower(student.tower, student.tokenizer, folder)
    return "sentence-transformers"
