"""The runtime ``auto``: for each tower whatever is quickest here, within a bound, measured once."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from clip_text.runtimes import Features, Pixels, Runtime, TokenIds
from clip_text.runtimes.cache import Stamp
from clip_text.tokenizer import Tokenizer

__all__ = ["CLOCK", "LOWEST_COSINE", "AutoRuntime", "Choice", "Samples", "Tower", "best_seconds"]

_log = logging.getLogger(__name__)

LOWEST_COSINE = 0.999
"""No row of the samples may be further from torch's in float32."""

_SECONDS, _TURNS, _AT_MOST_SECONDS = 0.15, 3, 1.0
"""How long the contenders take turns for a batch, and how often at least, but for slow models."""

_CLEAR = {1: 3.0, 2: 1.5}
"""After so many turns, a contender that is so many times as slow as the quickest takes no more."""

_TEXTS = (
    *("红色的心", "一只狗", "夕阳下的海滩", "两个孩子在草地上踢足球", "雪山", "a red car", "猫"),
    *("穿着蓝色衣服的女人骑着自行车穿过城市的街道", "生日蛋糕", "一群人围着桌子吃火锅", "🐶", ""),
    *(
        "黑白照片",
        "机场里等待起飞的飞机",
        "一碗热气腾腾的牛肉面，上面撒着葱花和香菜",
        "Ｔ恤，￥９９",
    ),
)

CLOCK: Literal["cpu", "wall"] = "wall" if os.name == "nt" else "cpu"
"""What contenders are timed by: the processor's time in all threads of this process.

By the wall's clock a choice would depend on what other processes do while it is made, and it is
remembered. Windows counts the processor's time in steps of 16 ms. Threads of this process count:
who starts some has the choice made before, by :meth:`AutoRuntime.of`.
"""

Tower = Literal["text", "image"]
Make = Callable[[], Runtime]


@dataclass(frozen=True, slots=True)
class Samples:
    """The fixed texts and pictures that runtimes are measured with.

    Args:
        tokenizer: Of the model.
        size: Side of its pictures in pixels.
    """

    tokenizer: Tokenizer
    size: int

    def batches(self, tower: Tower) -> list[NDArray[Any]]:
        """Give inputs of a tower: one text and many, or some pictures."""
        if tower == "image":
            return [self._pictures()]
        rows = self.tokenizer.token_ids(_TEXTS)
        return [self.tokenizer.stack(some) for some in (rows[3:4], rows)]

    def _pictures(self) -> Pixels:
        """Draw pictures as smooth as photographs are: flat shapes, and noise of all scales."""
        rng = np.random.default_rng(0)
        y, x = np.mgrid[0 : self.size, 0 : self.size] / self.size
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(self.size)] * 2)) + 1 / self.size
        pictures = []
        for steepness in (1.0, 1.5):  # of the spectrum: photographs have about 1
            noise = rng.standard_normal((3, self.size, self.size))
            smooth = np.fft.ifft2(np.fft.fft2(noise) / frequency**steepness).real
            smooth /= smooth.std(axis=(1, 2), keepdims=True)
            inside = np.hypot(x - rng.random(), y - rng.random()) < 0.2 + 0.2 * rng.random()
            colour = rng.standard_normal((3, 1, 1)) * 2
            values = np.where(inside, colour + smooth * 0.1, smooth)
            pictures.append(np.clip(values * 48 + 118, 0, 255).transpose(1, 2, 0))
        return np.stack(pictures).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Choice:
    """What computes a tower, of what it was chosen, and by which figures.

    Args:
        chosen: Name of the runtime.
        among: Names of the contenders, in alphabetical order.
        rows: Of each batch that was timed, how many texts or pictures it has.
        milliseconds: By name, the time by :data:`CLOCK` that each batch took at best; of
            contenders that compute within the bound.
        refused: By name, why a contender is out.
    """

    chosen: str
    among: list[str]
    rows: list[int]
    milliseconds: dict[str, list[float]]
    refused: dict[str, str]

    @classmethod
    def from_json(cls, value: object) -> Self | None:
        """Read what was remembered; None where that is something else."""
        if not isinstance(value, dict):
            return None
        try:
            choice = cls(**value)
            figures = [[float(each) for each in choice.milliseconds[choice.chosen]]]
            figures += choice.milliseconds.values()
            return choice if all(len(each) == len(choice.rows) for each in figures) else None
        except (TypeError, ValueError, KeyError, AttributeError):
            return None


class AutoRuntime:
    """Chooses for each tower at its first call, and remembers.

    A contender is out where a row of the samples has a cosine below :data:`LOWEST_COSINE` to
    float32's, or a batch takes longer than by torch. Of the others the one that takes the smallest
    part of torch's time wins.

    Args:
        makers: Make the contenders, by name; ``torch`` is among them.
        samples: What they are measured with.
        stamp: Says for what the choice holds.
    """

    def __init__(
        self, makers: Mapping[str, Make], samples: Samples, stamp: Callable[[], Stamp]
    ) -> None:
        self._makers, self._samples, self._make_stamp = makers, samples, stamp
        self._lock = threading.Lock()
        self._chosen: dict[Tower, Runtime] = {}
        self._choices: dict[Tower, Choice] = {}  # those that were measured here

    @property
    def name(self) -> str:
        """What was chosen; asking decides it for both towers."""
        text, image = self.of("text").name, self.of("image").name
        return text if text == image else f"text {text}, image {image}"

    def text(self, tokens: TokenIds) -> Features:
        """Encode token ids; see :class:`clip_text.runtimes.Runtime`."""
        return self.of("text").text(tokens)

    def image(self, pixels: Pixels) -> Features:
        """Encode pictures; see :class:`clip_text.runtimes.Runtime`."""
        return self.of("image").image(pixels)

    def of(self, tower: Tower) -> Runtime:
        """Give the runtime of a tower; it is chosen now, if it was not yet."""
        runtime = self._chosen.get(tower)
        if runtime is None:
            with self._lock:
                runtime = self._chosen.get(tower) or self._choose(tower)
                self._chosen[tower] = runtime
        return runtime

    def recall(self, tower: Tower) -> Choice | None:
        """Give what was chosen for a tower, here or by an earlier process; it measures nothing."""
        if tower in self._choices:
            return self._choices[tower]
        choice = Choice.from_json(self._make_stamp().recall(f"{tower}.json"))
        if choice and choice.among == sorted(self._makers) and choice.chosen in self._makers:
            return choice
        return None

    def choose_anew(self, tower: Tower) -> Choice:
        """Measure the contenders now, whatever was chosen before, and remember what wins."""
        with self._lock:
            self._chosen[tower] = self._measure(tower)
        return self._choices[tower]

    def _choose(self, tower: Tower) -> Runtime:
        if known := self.recall(tower):
            # the other tower may have made it already
            made = next((each for each in self._chosen.values() if each.name == known.chosen), None)
            return made or self._makers[known.chosen]()
        return self._measure(tower)

    def _measure(self, tower: Tower) -> Runtime:
        choice, runtime = _measured(self._makers, tower, self._samples.batches(tower))
        self._choices[tower] = choice
        self._make_stamp().remember(f"{tower}.json", asdict(choice))
        _log.info(
            "the %s tower runs by %s; milliseconds for %s: %s",
            *(tower, choice.chosen, choice.rows, choice.milliseconds),
        )
        return runtime


def _measured(
    makers: Mapping[str, Make], tower: Tower, batches: Sequence[NDArray[Any]]
) -> tuple[Choice, Runtime]:
    """Measure the contenders; those that fail, are beyond the bound or slower are out."""
    runtimes: dict[str, Runtime] = {"torch": makers["torch"]()}
    refused: dict[str, str] = {}
    expected = [getattr(runtimes["torch"], tower)(batch) for batch in batches]
    for name in (each for each in makers if each != "torch"):
        found = _within_bound(makers[name], tower, batches, expected)
        if isinstance(found, str):
            refused[name] = found
            _log.info("%s was left out: %s", name, found)
        else:
            runtimes[name] = found
    seconds = [best_seconds(runtimes, tower, batch) for batch in batches]
    # the mean over batches of a contender's part of torch's time
    shares = {"torch": 1.0}
    for name in (each for each in runtimes if each != "torch"):
        parts = [taken[name] / taken["torch"] for taken in seconds]
        if max(parts) < 1:
            shares[name] = float(np.exp(np.mean(np.log(parts))))
        else:
            refused[name] = f"it takes {max(parts):.2f} times as long as torch"
    name = min(shares, key=lambda name: shares[name])
    taken = {each: [round(1000 * batch[each], 4) for batch in seconds] for each in runtimes}
    rows = [len(batch) for batch in batches]
    return Choice(name, sorted(makers), rows, taken, refused), runtimes[name]


def _within_bound(
    make: Make, tower: Tower, batches: Sequence[NDArray[Any]], expected: Sequence[Features]
) -> Runtime | str:
    """Make a contender and compute the samples by it; the reason, if it fails or is too far off."""
    try:
        runtime = make()
        rows = [getattr(runtime, tower)(batch) for batch in batches]
    except Exception as error:  # noqa: BLE001  (each library has its own)
        return " ".join(str(error).split())
    lowest = min((one * other).sum(1).min() for one, other in zip(rows, expected, strict=True))
    within = lowest >= LOWEST_COSINE  # NaN is not
    return runtime if within else f"a cosine of {lowest:.5f} to float32"


def best_seconds(
    runtimes: Mapping[str, object], tower: Tower, batch: Sequence[Any] | NDArray[Any]
) -> dict[str, float]:
    """Time runtimes in turns, so that a machine whose speed drifts treats them alike.

    Args:
        runtimes: By name, what has a method named as the tower; each has computed a batch of this
            shape before.
        tower: Which of their towers.
        batch: What that method takes; :meth:`Samples.batches` gives some.

    Returns:
        By name, the shortest time for the batch in seconds by :data:`CLOCK`.
    """
    best = dict.fromkeys(runtimes, float("inf"))
    racing = list(runtimes)
    start, turns = _now(), 0
    while True:
        for name in racing:
            begun = _now()
            getattr(runtimes[name], tower)(batch)
            best[name] = min(best[name], max(_now() - begun, 1e-9))  # a clock may stand still
        turns += 1
        spent = _now() - start
        if spent > _AT_MOST_SECONDS or (turns >= _TURNS and spent > _SECONDS):
            return best
        beyond = min(best.values()) * _CLEAR.get(turns, min(_CLEAR.values()))
        racing = [name for name in racing if best[name] <= beyond]
        if len(racing) == 1 < len(runtimes):  # of one alone it is the time that is wanted
            return best


def _now() -> float:
    """Seconds by :data:`CLOCK`."""
    return time.perf_counter() if CLOCK == "wall" else time.process_time()
