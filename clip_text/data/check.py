"""Looks a data set through before a run: pictures, captions, what is there twice, what leaks.

Every picture is decoded once. What is found has one of three severities: an ``error`` would stop or
harm training, a ``warning`` is worth doing something about, a ``note`` is worth knowing.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Literal, NamedTuple

from clip_text.data.captions import TAGS
from clip_text.data.collection import OTHER_ENCODINGS, ROWS_OVER_LINES, Problem, RetrievalSet
from clip_text.data.duplicates import find_duplicates, pictures_by_wording
from clip_text.features import ahead
from clip_text.images import load_image
from clip_text.progress import Progress, counted, silent
from clip_text.storage import digest
from clip_text.tokenizer import Tokenizer

SMALL = 32
"""Pixels; a picture with a shorter side has next to nothing for a model to see."""

FEW = 4
"""Pictures for each wording of a caption, on average, from which captions are labels."""

FEW_WORDINGS = "few_wordings"

_CHUNK = 4096  # texts tokenised at once: an encoding takes kilobytes

Severity = Literal["error", "warning", "note"]


class Kind(NamedTuple):
    """One thing that is looked for."""

    severity: Severity
    what: str
    remedy: str


KINDS: dict[str, Kind] = {
    "unreadable_entries": Kind("error", "entries that cannot be read", "Mend or drop them."),
    OTHER_ENCODINGS: Kind(
        "note",
        "files that are not UTF-8",
        "Nothing must be done if the captions read well: they were read as named.",
    ),
    ROWS_OVER_LINES: Kind(
        "note",
        "rows that go over several lines",
        "Nothing must be done if these captions have several lines. If not, a quotation mark "
        'swallows lines: write one that is text as "" in a quoted field.',
    ),
    "texts_without_picture": Kind(
        "error", "texts whose picture is not there", "Add the pictures or drop the texts."
    ),
    "pictures_of_one_text": Kind(
        "error", "pictures that share one .txt", "Give each a name and a .txt of its own."
    ),
    "pictures_without_text": Kind("error", "pictures without a caption", "Caption or drop them."),
    "missing_pictures": Kind(
        "error", "pictures that are missing", "Add the files, or name the folder they are in."
    ),
    "broken_pictures": Kind(
        "error", "pictures that cannot be decoded", "Download them again or drop them."
    ),
    "small_pictures": Kind(
        "warning", f"pictures below {SMALL} pixels a side", "Drop them if they show nothing."
    ),
    "duplicate_pictures": Kind(
        "warning",
        "pictures that are there more than once",
        "Give one of them the captions of all, and drop the others: in a batch, a twin counts as "
        "a wrong answer.",
    ),
    "empty_captions": Kind("error", "captions without words", "Write or drop them."),
    "repeated_captions": Kind(
        "note",
        "captions that a picture has twice",
        "Nothing must be done here: training takes each once. Elsewhere it is drawn twice.",
    ),
    "shared_captions": Kind(
        "note",
        "captions worded as one of another picture",
        "Nothing must be done here: training counts them as right for all of their pictures. "
        "Elsewhere they are false negatives.",
    ),
    FEW_WORDINGS: Kind(
        "note",
        "captions that are labels: few wordings for many pictures",
        "Recall then says how often a picture of the right label comes first: train contrastive "
        "counts all of them as right, evaluate retrieval does with --merge-duplicates (without it "
        "every picture of the label but one is wrong). Guessing has 1 in as many as there are "
        "wordings. clip-text evaluate zero-shot measures accuracy by label.",
    ),
    "cut_captions": Kind(
        "warning",
        "captions longer than the model reads",
        "Shorten them, or put first what matters: the end is not read.",
    ),
    "unknown_words": Kind(
        "note",
        "captions with parts the model does not know ([UNK])",
        "Few are harmless; clip-text tokens names the parts.",
    ),
    "wrong_negatives": Kind(
        "error",
        "hard negatives that are blank, or a caption of the very picture",
        "Drop them: they teach that the right answer is wrong.",
    ),
    "leaked_pictures": Kind(
        "error",
        "pictures that are in another split, too",
        "Drop them from one of the two: what is measured on them means nothing.",
    ),
    "leaked_captions": Kind(
        "note",
        "captions that are in another split, too",
        "Common short ones are harmless; many long ones mean that the splits overlap.",
    ),
}
"""All that is looked for, in the order it is told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Args:
        kind: One of :data:`KINDS`.
        offenders: Who, with the reason where they differ; all of them.
        count: How many pictures, captions or entries it is; as many as offenders if not given.
    """

    kind: str
    offenders: list[str]
    count: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", self.count or len(self.offenders))

    @property
    def severity(self) -> Severity:
        """Whether it would stop or harm training."""
        return KINDS[self.kind].severity


@dataclass(frozen=True, slots=True)
class Report:
    """What :func:`check` found.

    Args:
        name: Name of the data set.
        pictures: Number of pictures in the data set.
        texts: Number of texts in the data set.
        captions_per_picture: Fewest, median and most captions of a picture.
        negatives: Hard negatives of all pictures.
        findings: What is not as it should be, in the order of :data:`KINDS`.
        fine: Kinds that were looked for and not found.
        seconds: Time that the check took, in seconds.
        decoded: Pictures looked at, those of other splits included.
        unknown_share: Share of [UNK] among the tokens read; None without a tokenizer.
        lost_share: Share of the tokens cut off; None without a tokenizer.
    """

    name: str
    pictures: int
    texts: int
    captions_per_picture: tuple[int, int, int]
    negatives: int
    findings: list[Finding]
    fine: list[str]
    seconds: float
    decoded: int
    unknown_share: float | None = None
    lost_share: float | None = None

    @property
    def harmful(self) -> list[Finding]:
        """What would stop or harm training."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def pictures_per_second(self) -> float:
        """How fast pictures were read and decoded."""
        return self.decoded / max(self.seconds, 1e-9)


@dataclass(slots=True)
class _Pictures:
    """What looking at pictures gave: digests by position, and who is amiss."""

    digests: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Tokens:
    """What tokenising gave."""

    cut: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    total: int = 0
    read: int = 0
    unknown_tokens: int = 0


def check(
    collection: RetrievalSet,
    *,
    tokenizer: Tokenizer | None = None,
    against: Sequence[RetrievalSet] = (),
    problems: Iterable[Problem] = (),
    workers: int | None = None,
    progress: Progress = silent,
) -> Report:
    """Look a data set through. Nothing is changed, and nothing that is wrong with data raises.

    Args:
        collection: The data set; read it with a list of ``problems``, or the reader stops at
            the first of them.
        tokenizer: Tokenizer of the model that is to read the captions; without one their length and
            words are not looked at.
        against: Other splits, which must not have the same pictures.
        problems: Problems that the reader told of while reading.
        workers: Decoding threads; one per core if not given.
        progress: Is told how many ``pictures`` were looked at, those of ``against`` included.
    """
    started = time.perf_counter()
    workers = workers or os.cpu_count() or 1
    total = sum(len(each.image_ids) for each in (collection, *against))
    advance = counted("pictures", total, progress)
    pictures = _look(collection, workers, advance)
    others = [(other, _look(other, workers, advance).digests) for other in against]
    tokens = _tokenise(collection, tokenizer) if tokenizer else None
    found = [
        *_told(problems),
        Finding("missing_pictures", pictures.missing),
        Finding("broken_pictures", pictures.broken),
        Finding("small_pictures", pictures.small),
        *_twice(collection, pictures.digests),
        *_captions(collection),
        *_labels(collection),
        *_leaks(collection, pictures.digests, others),
    ]
    if tokens:
        found += [Finding("cut_captions", tokens.cut), Finding("unknown_words", tokens.unknown)]
    by_kind = {finding.kind: finding for finding in found if finding.count}
    skipped = {"unknown_words", "cut_captions"} if tokens is None else set()
    skipped |= set() if against else {"leaked_pictures", "leaked_captions"}
    skipped |= set() if any(collection.negatives) else {"wrong_negatives"}
    per_picture = [len(texts) for texts in collection.texts_of]
    return Report(
        collection.name,
        len(collection.image_ids),
        len(collection.texts),
        (min(per_picture), median_low(per_picture), max(per_picture)),
        sum(map(len, collection.negatives)),
        [by_kind[kind] for kind in KINDS if kind in by_kind],
        [kind for kind in KINDS if kind not in by_kind and kind not in skipped],
        time.perf_counter() - started,
        len(pictures.digests) + sum(len(digests) for _, digests in others),
        tokens.unknown_tokens / max(1, tokens.read) if tokens else None,
        (tokens.total - tokens.read) / max(1, tokens.total) if tokens else None,
    )


def _look(collection: RetrievalSet, workers: int, advance: Callable[[int], None]) -> _Pictures:
    """Decode every picture. One that can't be has a digest of its own, which equals no other."""

    def load(at: int) -> tuple[str, tuple[int, int] | None, str]:
        try:
            image = load_image(collection.images[at])
        except (FileNotFoundError, NotADirectoryError):
            return "", None, ""
        except (OSError, ValueError) as error:
            return "", None, " ".join(str(error).split())
        return digest(image.size, image.tobytes()), image.size, ""

    seen = _Pictures()
    order = range(len(collection.image_ids))
    for at, (content, size, reason) in enumerate(ahead(load, order, workers, 4 * workers)):
        name = collection.image_ids[at]
        seen.digests.append(content or f"unread {at}")
        if size is None and reason:
            seen.broken.append(f"{name}: {reason}")
        elif size is None:
            seen.missing.append(name)
        elif min(size) < SMALL:
            seen.small.append(f"{name}: {size[0]} x {size[1]}")
        advance(1)
    return seen


def _told(problems: Iterable[Problem]) -> Iterator[Finding]:
    offenders: defaultdict[str, list[str]] = defaultdict(list)
    for problem in problems:
        one_by_one = problem.kind == "unreadable_entries"  # each for a reason of its own
        offenders[problem.kind] += [problem.message] if one_by_one else problem.offenders
    return (Finding(kind, who) for kind, who in offenders.items())


def _twice(collection: RetrievalSet, digests: Sequence[str]) -> Iterator[Finding]:
    found = find_duplicates(collection, digests)
    groups = [" = ".join(collection.image_ids[at] for at in group) for group in found.images]
    yield Finding("duplicate_pictures", groups, found.extra_images)
    # blank ones are told apart, and no caption to share
    shared = [group for group in found.texts if collection.texts[group[0]].text.strip()]
    shared.sort(key=len, reverse=True)
    worded = [f"{collection.texts[group[0]].text} ({len(group)} pictures)" for group in shared]
    yield Finding("shared_captions", worded, sum(map(len, shared)))


def _captions(collection: RetrievalSet) -> Iterator[Finding]:
    blank = [text.text_id for text in collection.texts if not text.text.strip()]
    yield Finding("empty_captions", blank)
    repeated, wrong = [], []
    for at, places in enumerate(collection.texts_of):
        name = collection.image_ids[at]
        times = Counter(collection.texts[place].text for place in places)
        repeated += [f"{name}: {text}" for text, n in times.items() if n > 1 and text.strip()]
        wrong += [
            f"{name}: {text}"
            for text in collection.negatives[at]
            if text in times or not text.strip()
        ]
    yield Finding("repeated_captions", repeated)
    yield Finding("wrong_negatives", wrong)


def _labels(collection: RetrievalSet) -> Iterator[Finding]:
    """Find whether captions are few wordings, each of many pictures, and which."""
    tags = {text.text for text in collection.texts if text.kind == TAGS}
    pictures = {
        wording: answers
        for wording, answers in pictures_by_wording(collection).items()
        if wording.strip() and wording not in tags
    }
    described = set().union(*pictures.values())
    if len(pictures) < len(described) / FEW or len(pictures) == 1 < len(described):
        ordered = sorted(pictures, key=lambda wording: -len(pictures[wording]))
        worded = [f"{wording} ({_pictures(len(pictures[wording]))})" for wording in ordered]
        yield Finding(FEW_WORDINGS, worded)


def _pictures(number: int) -> str:
    return f"{number:,} {'picture' if number == 1 else 'pictures'}"


def _leaks(
    collection: RetrievalSet,
    digests: Sequence[str],
    others: Sequence[tuple[RetrievalSet, Sequence[str]]],
) -> Iterator[Finding]:
    pictures, captions = [], []
    for other, theirs in others:
        there = {
            digest: other.image_ids[at]
            for at, digest in enumerate(theirs)
            if not digest.startswith("unread")
        }
        pictures += [
            f"{name} = {there[digest]} of {other.name}"
            for name, digest in zip(collection.image_ids, digests, strict=True)
            if digest in there
        ]
        worded = {text.text for text in other.texts}
        captions += [
            f"{text.text} ({other.name})" for text in collection.texts if text.text in worded
        ]
    yield Finding("leaked_pictures", pictures)
    yield Finding("leaked_captions", list(dict.fromkeys(captions)), len(captions))


def _tokenise(collection: RetrievalSet, tokenizer: Tokenizer) -> _Tokens:
    seen = _Tokens()
    for start in range(0, len(collection.texts), _CHUNK):
        part = collection.texts[start : start + _CHUNK]
        report = tokenizer.report([text.text for text in part])
        for text, one in zip(part, report.texts, strict=True):
            if one.is_cut:
                seen.cut.append(f"{text.text_id}: {one.tokens} tokens of {one.kept}")
            if one.unknown:
                seen.unknown.append(f"{text.text_id}: {' '.join(dict.fromkeys(one.unknown))}")
            seen.unknown_tokens += len(one.unknown)
        seen.total += report.words
        seen.read += report.words_read
    return seen
