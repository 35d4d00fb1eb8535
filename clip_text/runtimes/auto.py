"""The runtime ``auto``: for each tower whatever is quickest here, within a bound, measured once."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clip_text.runtimes import Features, Pixels, Runtime, TokenIds
from clip_text.runtimes.cache import Stamp
from clip_text.tokenizer import Tokenizer

__all__ = ["LOWEST_COSINE", "AutoRuntime", "Samples"]

_log = logging.getLogger(__name__)

LOWEST_COSINE = 0.999
"""No row of the samples may be further from torch's in float32."""

_SECONDS, _TURNS, _AT_MOST_SECONDS = 0.3, 3, 2.0
"""How long the contenders take turns for a batch, and how often at least, but for slow models."""

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
        return [self.tokenizer.pad(some).numpy() for some in (rows[3:4], rows)]

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

    @property
    def name(self) -> str:
        """What was chosen; asking decides it for both towers."""
        text, image = self._of("text").name, self._of("image").name
        return text if text == image else f"text {text}, image {image}"

    def text(self, tokens: TokenIds) -> Features:
        """Encode token ids; see :class:`clip_text.runtimes.Runtime`."""
        return self._of("text").text(tokens)

    def image(self, pixels: Pixels) -> Features:
        """Encode pictures; see :class:`clip_text.runtimes.Runtime`."""
        return self._of("image").image(pixels)

    def _of(self, tower: Tower) -> Runtime:
        """Give the runtime of a tower."""
        runtime = self._chosen.get(tower)
        if runtime is None:
            with self._lock:
                runtime = self._chosen.get(tower) or self._choose(tower)
                self._chosen[tower] = runtime
        return runtime

    def _choose(self, tower: Tower) -> Runtime:
        stamp = self._make_stamp()
        among = sorted(self._makers)
        known = stamp.recall(f"{tower}.json")
        if isinstance(known, dict) and known.get("among") == among:
            name = str(known.get("chosen"))
            # the other tower may have made it already
            made = next((each for each in self._chosen.values() if each.name == name), None)
            if name in self._makers:
                return made or self._makers[name]()
        runtimes = _measured(self._makers, tower, self._samples.batches(tower))
        name = min(runtimes, key=lambda name: runtimes[name].share)
        figures = {each: round(found.share, 3) for each, found in runtimes.items()}
        stamp.remember(f"{tower}.json", {"chosen": name, "among": among, "shares": figures})
        _log.info("the %s tower runs by %s; parts of torch's time: %s", tower, name, figures)
        return runtimes[name].runtime


@dataclass(frozen=True, slots=True)
class _Measured:
    """A runtime within the bound.

    Args:
        runtime: The runtime.
        share: Its time as a part of torch's, the mean over batches; 1 for torch.
    """

    runtime: Runtime
    share: float


def _measured(
    makers: Mapping[str, Make], tower: Tower, batches: Sequence[NDArray[Any]]
) -> dict[str, _Measured]:
    """Measure the contenders; those that fail, are beyond the bound or slower are left out."""
    runtimes: dict[str, Runtime] = {"torch": makers["torch"]()}
    expected = [getattr(runtimes["torch"], tower)(batch) for batch in batches]
    for name in makers:
        if name != "torch" and (runtime := _within_bound(makers[name], tower, batches, expected)):
            runtimes[name] = runtime
    seconds = [_seconds(runtimes, tower, batch) for batch in batches]
    shares = {name: [taken[name] / taken["torch"] for taken in seconds] for name in runtimes}
    return {
        name: _Measured(runtimes[name], float(np.exp(np.mean(np.log(parts)))))
        for name, parts in shares.items()
        if name == "torch" or max(parts) < 1
    }


def _within_bound(
    make: Make, tower: Tower, batches: Sequence[NDArray[Any]], expected: Sequence[Features]
) -> Runtime | None:
    """Make a contender and compute the samples by it; None if that fails or differs too much."""
    try:
        runtime = make()
        rows = [getattr(runtime, tower)(batch) for batch in batches]
    except Exception as error:  # noqa: BLE001  (each library has its own)
        _log.info("a runtime was left out: %s", " ".join(str(error).split()))
        return None
    lowest = min((one * other).sum(1).min() for one, other in zip(rows, expected, strict=True))
    if not lowest >= LOWEST_COSINE:  # nor NaN
        _log.info("%s was left out: a cosine of %.5f to float32", runtime.name, lowest)
        return None
    return runtime


def _seconds(
    runtimes: Mapping[str, Runtime], tower: Tower, batch: NDArray[Any]
) -> dict[str, float]:
    """Time runtimes in turns, so that a machine whose speed drifts treats them alike."""
    best = dict.fromkeys(runtimes, float("inf"))
    start, turns = time.perf_counter(), 0
    while True:
        for name, runtime in runtimes.items():
            begun = time.perf_counter()
            getattr(runtime, tower)(batch)
            best[name] = min(best[name], time.perf_counter() - begun)
        turns += 1
        if time.perf_counter() - start > (_SECONDS if turns >= _TURNS else _AT_MOST_SECONDS):
            return best
