"""Which encoding a text file has: UTF-8, or what Excel and Windows write elsewhere.

A byte order mark settles it. Without one a file is UTF-8 unless that fails; then GB18030 (GBK and
GB 2312: Excel in China) and Big5 (Excel in Taiwan and Hong Kong) are tried, and taken only if what
they give reads like Chinese. Such a trial is right about a file of one caption, where a general
detector has too little to go by (charset-normalizer: 21 of 40). Whoever reads a file says so where
it is not UTF-8.
"""

import codecs
import re
from collections.abc import Sequence
from functools import cache
from typing import BinaryIO

UTF_8 = "utf-8-sig"

NAMES = {
    UTF_8: "UTF-8",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "utf-32": "UTF-32",
    "gb18030": "GB18030",
    "cp950": "Big5",
}
"""What people call the codecs of Python that :func:`detect_encoding` names."""

_MARKS = (
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 1 << 20  # bytes that are looked at, from the first that is not ASCII
_LONGEST_ASCII = 1 << 26  # bytes of ASCII after which the rest is taken for UTF-8
_LOOKED_AT = 2000  # lines of the sample

_PLAUSIBLE = 0.75
"""Share of common Chinese characters: captions, headlines, reviews, and names of classes have 0.75
to 1.0 in their own encoding; of foreign ones (Shift-JIS, cp1252, cp1251, …) decoded as Chinese 30
lines have 0.5 at most, but for EUC-KR, which :func:`_is_korean` is for."""

_THREE_BYTES = re.compile(rb"[\xe0-\xef][\x80-\xbf]{2}")
_BLANKS = re.compile(rb"[\x00-\x2f]")
_RUN = re.compile(r"[^\x00-\x7f]+")
_LONE = re.compile(
    r"(?<=[A-Za-z])[^\x00-\x7f](?![^\x00-\x7f])|(?<![^\x00-\x7f])[^\x00-\x7f](?=[A-Za-z])"
)
_SYMBOLS = re.compile("[·×\u2010-\u203f\u2190-\u21ff\u2460-\u24ff\u3000-\u303f\uff00-\uffef]")


def detect_encoding(file: BinaryIO) -> str:
    """Name the codec of a text file, a key of :data:`NAMES`.

    Args:
        file: Open at its beginning; where it is left is not said. At most its first 64 MiB of
            ASCII and a sample behind them are read.
    """
    sample = file.read(_SAMPLE)
    for mark, codec in _MARKS:
        if sample.startswith(mark):
            return codec
    if bare := _utf_16_without_mark(sample):
        return bare
    skipped = 0
    while sample and sample.isascii() and skipped < _LONGEST_ASCII:
        skipped += len(sample)
        sample = file.read(_SAMPLE)
    if sample.isascii():
        return UTF_8
    rest = file.read(_SAMPLE)
    lines = (sample + rest).splitlines()
    if len(lines) == 1:  # these bytes are no part of a longer character in any encoding here
        lines = _BLANKS.split(lines[0])
    if len(rest) == _SAMPLE and len(lines) > 1:
        lines.pop()  # it may be cut
    return _codec_of([line for line in lines if not line.isascii()][:_LOOKED_AT])


def _utf_16_without_mark(sample: bytes) -> str | None:
    """Of UTF-16, every other byte of line ends, digits and separators is zero."""
    zeros = sample.count(0)
    if zeros * 20 < len(sample) or not sample:
        return None
    odd = sample[1::2].count(0)
    if odd > 0.95 * zeros:
        return "utf-16-le"
    return "utf-16-be" if odd < 0.05 * zeros else None


def _codec_of(lines: Sequence[bytes]) -> str:
    """Choose by lines that are not ASCII."""
    broken = [line for line in lines if not _decodes(line, "utf-8")]
    if not broken:
        return UTF_8
    # GB18030 may look like UTF-8 of two bytes; three in a row, as all Chinese has, are no chance
    sound = sum(bool(_THREE_BYTES.search(x)) and _decodes(x, "utf-8") for x in lines)
    if sound * 10 > len(broken) or _is_korean(lines):
        return UTF_8
    shares = {codec: _share_of_common(lines, codec) for codec in ("gb18030", "cp950")}
    best = max(shares, key=lambda codec: shares[codec])
    return best if shares[best] >= _PLAUSIBLE else UTF_8


def _decodes(line: bytes, codec: str) -> bool:
    try:
        line.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _share_of_common(lines: Sequence[bytes], codec: str) -> float:
    """Share of common Chinese characters and punctuation among what is not ASCII, in [0, 1]."""
    sound = [line.decode(codec) for line in lines if _decodes(line, codec)]
    if (len(lines) - len(sound)) * 20 > len(lines):
        return 0.0
    text = "\n".join(sound)
    runs = _RUN.findall(text)
    letters = "".join(runs)
    if 2 * len(_LONE.findall(text)) > len(runs):  # accents stand alone among letters
        return 0.0
    common = sum(letter in _common() for letter in letters)
    return (common + len(_SYMBOLS.findall(letters))) / max(1, len(letters))


def _is_korean(lines: Sequence[bytes]) -> bool:
    """Say whether lines are EUC-KR, which would pass for Chinese: its syllables end in row C8.

    Nearly half of what Chinese writes is in GB 2312's rows behind: 是, 在, 有, 人, 一, 中. Half of
    Big5 has a second byte below A1.
    """
    letters = "".join(line.decode("gb18030", "ignore") for line in lines)
    codes = {letter.encode("gb18030") for letter in set(letters) if not letter.isascii()}
    return len(codes) >= 12 and all(code[0] <= 0xC8 and code[1] >= 0xA1 for code in codes)


@cache
def _common() -> frozenset[str]:
    """The 3,755 characters of GB 2312's first level, and the 5,401 of Big5's."""
    simplified = _two_bytes("gb2312", (0xB0A1, 0xD7F9))
    return frozenset(simplified | _two_bytes("cp950", (0xA440, 0xC67E)))


def _two_bytes(codec: str, codes: tuple[int, int]) -> set[str]:
    first, last = codes
    return {
        code.to_bytes(2, "big").decode(codec)
        for code in range(first, last + 1)
        if _decodes(code.to_bytes(2, "big"), codec)
    }
