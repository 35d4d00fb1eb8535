"""What a model is, and how it computes here: ``clip-text info``.

A model that was exported is told of without torch: what its manifest says is all that is asked.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from clip_text.encoder import Encoder
from clip_text.errors import CheckpointError
from clip_text.images import Preprocessing
from clip_text.libraries.names import folder_of
from clip_text.loading import library_of, load_encoder
from clip_text.names import Precision
from clip_text.runtimes.auto import CLOCK, AutoRuntime, Choice, Samples, Tower, best_seconds
from clip_text.runtimes.exported import Family, TowerFacts, is_exported, read_manifest
from clip_text.runtimes.kept import kept_starter, run_by
from clip_text.runtimes.names import precision_of
from clip_text.storage import nearest

if TYPE_CHECKING:
    from clip_text.checkpoints import Checkpoint
    from clip_text.libraries.encoder import LibraryEncoder

__all__ = [
    "KeptForm",
    "ModelInfo",
    "RuntimeInfo",
    "describe_kept",
    "describe_model",
    "model_size",
    "tower_facts",
]

CARD_FILE = "README.md"

_UNITS = {"text": ("text", "texts"), "image": ("picture", "pictures")}
_TIME = {"cpu": "CPU ms", "wall": "ms"}


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """How a tower computes here.

    Args:
        name: Name of the runtime; None where ``auto`` has not chosen it yet.
        precision: What it computes in; None where there is no name.
        is_chosen: Whether ``auto`` chose it, or is to.
        rows: Of each batch that was timed, how many texts or pictures it has; empty where
            nothing was timed.
        milliseconds: By name of runtime, the time that each batch took at best, by
            :data:`clip_text.runtimes.auto.CLOCK`.
        refused: By name, why ``auto`` does not take it.
    """

    name: str | None
    precision: str | None
    is_chosen: bool
    rows: list[int]
    milliseconds: dict[str, list[float]]
    refused: dict[str, str]

    def lines(self, tower: Tower) -> list[str]:
        """Say it, a line for the tower and one for each runtime that was timed or refused."""
        by = " (chosen by auto)" if self.is_chosen else ""
        told = f"{self.name}, {self.precision}{by}" if self.name else "auto has not chosen yet"
        hint = "" if self.milliseconds else "; --measure times it"
        out = [f"{tower + ' runs by':<17}{told}{hint}"]
        for name, _ in sorted(self.milliseconds.items(), key=lambda pair: pair[1]):
            why = f"; out: {self.refused[name]}" if name in self.refused else ""
            out.append(f"  {name:<15}{self.times_of(name, tower)}{why}")
        untimed = self.refused.keys() - self.milliseconds.keys()
        return out + [f"  {name:<15}out: {self.refused[name]}" for name in sorted(untimed)]

    def times_of(self, name: str, tower: Tower) -> str:
        """Say what a runtime that was timed took for each batch."""
        return ", ".join(
            f"{time:.2f} {_TIME[CLOCK]} for {rows} {_UNITS[tower][rows > 1]}"
            for rows, time in zip(self.rows, self.milliseconds[name], strict=True)
        )


@dataclass(frozen=True, slots=True)
class KeptForm:
    """The exported form of a model that some commands run in its place.

    Args:
        commands: Their names.
        place: Its folder; whoever needs it first makes it.
        name: Name of the runtime that runs it.
        precision: What it computes in.
        runtimes: How each tower computes; empty where it is not made yet.
        can_be_kept: Whether its folder can be made and written; else the model itself runs.
    """

    commands: list[str]
    place: Path
    name: str
    precision: Precision
    runtimes: dict[Tower, RuntimeInfo]
    can_be_kept: bool = True

    def lines(self) -> list[str]:
        """Say it, with its times where they were taken, and that all else is said of the model."""
        made = ", which is made at first use" if self.can_be_kept else ", once it can be written"
        made = "" if self.runtimes else made
        *others, last = self.commands
        out = [
            f"{', '.join(others)} and {last} run an exported form ({self.name}, {self.precision}) "
            f"in {self.place}{made}"
        ]
        for tower, each in self.runtimes.items():
            out += [f"  {tower:<15}{each.times_of(name, tower)}" for name in each.milliseconds]
        return [*out, "other commands and Python run the model itself:"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is.

    Args:
        name: What it was asked for by.
        place: Its folder or file.
        format: cn_clip, hf or open_clip; or of an exported model what runs it, and in what.
        towers: Kind, layers, width and parameters of each; empty where an export does not say.
        embed_dim: Width of the shared space.
        context_length: Longest text in tokens, special tokens included; None where it is not known.
        logit_scale: The factor that turned cosines into logits in training; None without one.
        contract: Name and version of the tokeniser contract; None of another library's tokenizer.
        vocabulary: How many tokens there are; None where that is not known.
        preprocessing: Of pictures; None where another library has its own, which ``looks`` tells.
        heads: By name, their task.
        made_from: Of an exported model, the source's name and versions of what wrote it.
        bytes: Size of its files on disk.
        licence: What its model card says; None without a card, or where that says nothing.
        languages: Those that its model card names, as codes; empty where it names none.
        fingerprint: As an index remembers it.
        runtimes: How each tower computes here.
        kept: What some commands run in its place; None where all run the model itself.
    """

    name: str
    place: Path | None
    format: str
    towers: dict[Tower, TowerFacts]
    embed_dim: int
    context_length: int | None
    logit_scale: float | None
    contract: str | None
    vocabulary: int | None
    preprocessing: Preprocessing | None
    heads: dict[str, str]
    made_from: dict[str, str]
    bytes: int
    licence: str | None
    fingerprint: str
    runtimes: dict[Tower, RuntimeInfo]
    kept: KeptForm | None = None
    languages: tuple[str, ...] = ()
    looks: str = ""

    @property
    def parameters(self) -> int | None:
        """Of both towers; None where that is not known."""
        return _parameters(self.towers)

    def lines(self) -> list[str]:
        """Say it, a line each."""
        facts = {
            "name": self.name,
            "place": str(self.place) if self.place else "its library's cache",
            "format": self.format,
            "size on disk": f"{self.bytes / 1e6:,.1f} MB" if self.place else "not known",
            "licence": self.licence or "none is named",
            "languages": ", ".join(self.languages) or "none are named",
            "fingerprint": self.fingerprint,
            **{f"{tower} tower": facts.line() for tower, facts in self.towers.items()},
            "embed_dim": str(self.embed_dim),
            "context_length": f"{self.context_length or '?'} tokens",
            "tokeniser": f"contract {self.contract}" if self.contract else "its library's",
            "pictures": _line_of(self.preprocessing) if self.preprocessing else self.looks,
            "logit_scale": f"cosines x {self.logit_scale:.2f}" if self.logit_scale else "none",
            "heads": ", ".join(f"{name} ({task})" for name, task in self.heads.items()) or "none",
        }
        if self.vocabulary:
            facts["tokeniser"] += f", vocabulary {self.vocabulary:,}"
        if self.made_from:
            facts["made from"] = ", ".join(f"{k} {v}" for k, v in self.made_from.items())
        out = [f"{name:<17}{told}" for name, told in facts.items()]
        out += self.kept.lines() if self.kept else []
        return out + [line for tower, each in self.runtimes.items() for line in each.lines(tower)]

    def as_json(self) -> dict[str, Any]:
        """Say it as JSON does; times in milliseconds of what ``clock`` names, sizes in bytes."""
        place = str(self.place) if self.place else None
        told = {**asdict(self), "place": place, "parameters": self.parameters}
        if self.kept:
            told["kept"]["place"] = str(self.kept.place)
        return told | {"clock": CLOCK}


def describe_model(
    name: str | Path = "starter",
    runtime: str | None = None,
    *,
    measure: bool = False,
    trust_remote_code: bool = False,
) -> ModelInfo:
    """Say what a model is, and how it computes here.

    Args:
        name: As for :func:`clip_text.load_encoder`.
        runtime: As there.
        trust_remote_code: As there.
        measure: Whether to time it now, and have ``auto`` choose anew; else times are those of
            the choice that ``auto`` remembers, if there is one.

    Raises:
        CheckpointError: If there is no such model, or it is damaged.
        MissingPackageError: If the runtime's library is not installed.
    """
    encoder = load_encoder(name, runtime=runtime, trust_remote_code=trust_remote_code)
    if not isinstance(encoder, Encoder):
        return _of_library(str(name), encoder, measure)
    folder = Path(name).expanduser()
    told = _of_exported(folder) if is_exported(folder) else _of_checkpoint(name, encoder)
    return ModelInfo(
        name=str(name),
        embed_dim=encoder.embed_dim,
        context_length=encoder.context_length,
        logit_scale=encoder.logit_scale,
        contract=encoder.tokenizer.contract,
        vocabulary=encoder.tokenizer.vocab_size,
        preprocessing=encoder.preprocessing,
        heads={head: each.task for head, each in encoder.heads.items()},
        bytes=_size(told["place"]),
        licence=_licence(told["place"]),
        languages=_languages(told["place"]),
        fingerprint=encoder.fingerprint,
        runtimes={tower: _runtime(encoder, tower, measure) for tower in get_args(Tower)},
        **told,
    )


def model_size(
    name: str | Path, encoder: "Encoder | LibraryEncoder"
) -> tuple[int | None, int | None]:
    """Say how large a model is that is loaded already.

    Args:
        name: What it was loaded by, as for :func:`clip_text.load_encoder`.
        encoder: The model.

    Returns:
        Parameters of both towers, None where an export does not say; bytes of its files on disk,
        None where they lie in another library's cache.
    """
    if not isinstance(encoder, Encoder):
        place = _library_place(str(name))
        return sum(encoder.parameters.values()), _size(place) if place else None
    folder = Path(name).expanduser()
    told = _of_exported(folder) if is_exported(folder) else _of_checkpoint(name, encoder)
    return _parameters(told["towers"]), _size(told["place"])


def describe_kept(family: Family, commands: Sequence[str], *, measure: bool = False) -> KeptForm:
    """Say what some commands run in place of the starter; nothing is made for that.

    Args:
        family: Of its graphs.
        commands: Their names.
        measure: Whether to time it now, if it is there.
    """
    folder = kept_starter(family)
    runtimes: dict[Tower, RuntimeInfo] = {}
    with suppress(CheckpointError):  # it is not made yet, or damaged, and will be made anew
        if is_exported(folder):
            encoder = Encoder.from_pretrained(folder, runtime=run_by(family))
            runtimes = {tower: _runtime(encoder, tower, measure) for tower in get_args(Tower)}
    name = run_by(family)
    can_be_kept = _can_be_made(folder)
    return KeptForm(list(commands), folder, name, precision_of(name), runtimes, can_be_kept)


def _can_be_made(folder: Path) -> bool:
    """Tell whether a folder is, or can be made, where this process may write."""
    there = nearest(folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def tower_facts(checkpoint: "Checkpoint") -> dict[Tower, TowerFacts]:
    """Say what the towers of a checkpoint are."""
    from clip_text.checkpoints.recognition import image_tower, text_tower

    config, model = checkpoint.config, checkpoint.model
    backbone, layers = config.backbone, config.vision.get("layers")
    text = f"{text_tower(backbone)}, pooler {config.pooler}, projection {config.projection}"
    return {
        "text": TowerFacts(
            about=text,
            layers=getattr(backbone, "num_hidden_layers", None),
            width=getattr(backbone, "hidden_size", None),
            parameters=sum(each.numel() for each in model.text.parameters()),
        ),
        "image": TowerFacts(
            about=image_tower(config.vision, config.quick_gelu),
            layers=sum(layers) if isinstance(layers, list | tuple) else layers,
            width=config.vision.get("width"),
            parameters=sum(each.numel() for each in model.visual.parameters()),
        ),
    }


def _of_library(name: str, encoder: "LibraryEncoder", measure: bool) -> ModelInfo:
    """Say what a model of another library is; where its files are is that library's affair."""
    model, place = encoder.model, _library_place(name)
    return ModelInfo(
        name=name,
        place=place,
        format=model.about,
        towers={
            tower: TowerFacts(about=model.about, layers=None, width=None, parameters=numbers)
            for tower, numbers in encoder.parameters.items()
        },
        embed_dim=encoder.embed_dim,
        context_length=encoder.context_length,
        logit_scale=encoder.logit_scale,
        contract=None,
        vocabulary=model.text.vocabulary if model.text else None,
        preprocessing=None,
        heads={},
        made_from={},
        bytes=_size(place) if place else 0,
        licence=_licence(place) if place else None,
        languages=_languages(place) if place else (),
        looks=model.looks if model.image else "it reads none",
        fingerprint=encoder.fingerprint,
        runtimes={tower: _library_runtime(encoder, tower, measure) for tower in encoder.parameters},
    )


def _library_place(name: str) -> Path | None:
    """Find the folder of a model of another library; None where its library keeps it."""
    library = library_of(name)
    folder = folder_of(library.name) if library and not library.image else None
    return folder.resolve() if folder else None


def _library_runtime(encoder: "LibraryEncoder", tower: Tower, measure: bool) -> RuntimeInfo:
    """Say how a tower of another library computes, and time it on texts and pictures as they are.

    Texts are tokenised within that time; pictures are prepared before.
    """
    name = encoder.runtime.name
    batches = encoder.samples(tower) if measure else []
    taken = [round(1000 * best_seconds({"": encoder}, tower, batch)[""], 4) for batch in batches]
    rows = [len(batch) for batch in batches]
    timed = {name: taken} if measure else {}
    return RuntimeInfo(name, precision_of(name), False, rows, timed, {})


def _of_exported(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return {
        "place": folder,
        "format": f"exported for {manifest.family}, {manifest.precision}",
        "towers": manifest.towers,
        "made_from": manifest.made_from,
    }


def _of_checkpoint(name: str | Path, encoder: Encoder) -> dict[str, Any]:
    from clip_text.checkpoints import recognise, resolve

    return {
        "place": resolve(name),
        "format": recognise(name).format,
        "towers": tower_facts(encoder.checkpoint),
        "made_from": {},
    }


def _runtime(encoder: Encoder, tower: Tower, measure: bool) -> RuntimeInfo:
    """Say how a tower computes; without ``measure`` nothing is computed."""
    runtime = encoder.runtime
    if isinstance(runtime, AutoRuntime):
        choice = runtime.choose_anew(tower) if measure else runtime.recall(tower)
        return _of_choice(choice)
    rows: list[int] = []
    taken: list[float] = []
    samples = Samples(encoder.tokenizer, encoder.preprocessing.size)
    for batch in samples.batches(tower) if measure else ():
        getattr(runtime, tower)(batch)  # compiles it
        rows.append(len(batch))
        taken.append(round(1000 * best_seconds({"": runtime}, tower, batch)[""], 4))
    timed = {runtime.name: taken} if measure else {}
    return RuntimeInfo(runtime.name, precision_of(runtime.name), False, rows, timed, {})


def _of_choice(choice: Choice | None) -> RuntimeInfo:
    if choice is None:
        return RuntimeInfo(None, None, True, [], {}, {})
    name = choice.chosen
    figures = choice.rows, choice.milliseconds, choice.refused
    return RuntimeInfo(name, precision_of(name), True, *figures)


def _parameters(towers: Mapping[Tower, TowerFacts]) -> int | None:
    return sum(tower.parameters for tower in towers.values()) if towers else None


def _size(place: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if file.is_file())


def _licence(place: Path) -> str | None:
    """Read the licence off the head of a model card, as the Hugging Face hub has it."""
    found = dict(re.findall(r"^(license(?:_name)?):[ ]*(.+?)[ ]*$", _card_head(place), re.M))
    named: Mapping[str, str] = {key: value.strip("\"'") for key, value in found.items()}
    licence, own = named.get("license"), named.get("license_name")
    return f"{licence} ({own})" if licence and own else licence


def _languages(place: Path) -> tuple[str, ...]:
    """Read the languages off the head of a model card: ``[zh, en]``, one alone, or a line each."""
    found = re.search(r"^language:[ ]*(.*(?:\n[ ]*- .+)*)", _card_head(place), re.M)
    return tuple(re.findall(r"[\w-]*\w", found[1])) if found else ()


def _card_head(place: Path) -> str:
    """Read the head of a model card, between lines of three dashes; empty where there is none."""
    card = (place if place.is_dir() else place.parent) / CARD_FILE
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8", errors="replace")
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    return head[1] if head else ""


def _line_of(preprocessing: Preprocessing) -> str:
    mean, std = (
        " ".join(f"{value:.4g}" for value in values)
        for values in (preprocessing.mean, preprocessing.std)
    )
    size = preprocessing.size
    return f"squashed to {size} x {size}, bicubic; mean {mean}, deviation {std}"
