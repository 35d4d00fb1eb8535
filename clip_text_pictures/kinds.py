"""Which files are pictures, by what is in them rather than by their names."""

import os
import re
import stat
from dataclasses import dataclass

__all__ = [
    "EXTENSIONS",
    "KINDS",
    "START",
    "Kind",
    "ending_of",
    "judge_name",
    "kind_of",
    "looks_like_picture",
    "read_start",
    "recognise",
]

START = 512
"""Bytes by which a file is recognised."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of picture file.

    Args:
        name: What people call it, with its article.
        endings: How names of such files end, in lower case and with the dot.
        signature: Matches at the first bytes of such a file.
        decoder: Which of the decoders reads it; empty if none does.
        media_type: What HTTP calls it; empty if the kind is never read.
        remedy: What to do about a kind that is never read.
        is_weak: The signature alone could be anything, so the ending must be right as well.
    """

    name: str
    endings: tuple[str, ...]
    signature: re.Pattern[bytes]
    decoder: str = ""
    media_type: str = ""
    remedy: str = ""
    is_weak: bool = False


def _read(
    decoder: str,
    name: str,
    endings: str,
    media_type: str,
    signature: bytes,
    *,
    is_weak: bool = False,
) -> Kind:
    pattern = re.compile(signature, re.DOTALL)
    return Kind(name, tuple(endings.split()), pattern, decoder, media_type, is_weak=is_weak)


def _unread(
    name: str, endings: str, remedy: str, signature: bytes, *, is_weak: bool = False
) -> Kind:
    pattern = re.compile(signature, re.DOTALL)
    return Kind(name, tuple(endings.split()), pattern, remedy=remedy, is_weak=is_weak)


_RAW = "a camera's raw picture"
_RAW_ENDINGS = (
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .raf .orf .rw2 .rwl .pef .srw .x3f .3fr .fff "
    ".iiq .mrw .erf .mef .mos .kdc .dcr"
)
_RAW_SIGNATURE = (
    rb"II\*\0....CR|....ftypcrx |IIR[OS]\x08\0|MMOR|IIU\0|FUJIFILMCCD-RAW|FOVb|\0MRM|"
    rb"II\x1a\0\0\0HEAPCCDR"
)
_TIFF = rb"II[*+]\0|MM\0[*+]"
_HEIF = rb"....ftyp(?:hei[cfmsx]|hev[cmsx]|m[is]f[12])"
_SVG = rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg"
_CONVERT = "Convert it to PNG or JPEG"
_EXPORT = "Export it as PNG"

KINDS = (
    # Order matters: the first that matches is taken.
    _read("JPEG", "a JPEG", ".jpg .jpeg .jpe .jfif .jif .mpo", "image/jpeg", rb"\xff\xd8\xff"),
    _read("PNG", "a PNG", ".png .apng", "image/png", rb"\x89PNG\r\n\x1a\n"),
    _read("WebP", "a WebP", ".webp", "image/webp", rb"RIFF....WEBP"),
    _read("GIF", "a GIF", ".gif", "image/gif", rb"GIF8[79]a"),
    _read(
        "BMP", "a BMP", ".bmp .dib", "image/bmp", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    ),
    _read("raw", _RAW, _RAW_ENDINGS, "image/x-dcraw", _RAW_SIGNATURE),
    _read("raw", _RAW, _RAW_ENDINGS, "image/x-dcraw", _TIFF, is_weak=True),
    _read("TIFF", "a TIFF", ".tif .tiff", "image/tiff", _TIFF),
    _read(
        "AVIF",
        "an AVIF",
        ".avif .avifs",
        "image/avif",
        rb"....ftyp(?:avi[fs]|m[is]f1....(?:....)*?avi[fs])",
    ),
    _read("HEIC", "a HEIC", ".heic .heif .heics .heifs .hif", "image/heic", _HEIF),
    _read("JPEG XL", "a JPEG XL", ".jxl", "image/jxl", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    _read(
        "JPEG 2000",
        "a JPEG 2000",
        ".jp2 .j2k .j2c .jpc .jpf .jpx",
        "image/jp2",
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    ),
    _read(
        "ICO",
        "an icon",
        ".ico",
        "image/vnd.microsoft.icon",
        rb"\0\0\x01\0[^\0]\0...[\0\xff][\0\x01]\0",
    ),
    _read("ICNS", "a macOS icon", ".icns", "image/icns", rb"icns"),
    _read(
        "PPM", "a PPM", ".ppm .pgm .pbm .pnm .pfm", "image/x-portable-anymap", rb"P[1-6Ff]\s+[\d#]"
    ),
    _read("PSD", "a Photoshop picture", ".psd", "image/vnd.adobe.photoshop", rb"8BPS\0\x01"),
    _read(
        "PCX",
        "a PCX",
        ".pcx",
        "image/x-pcx",
        rb"\n[\0\x02\x03\x05][\0\x01][\x01\x02\x04\x08]",
        is_weak=True,
    ),
    _read("TGA", "a TGA", ".tga", "image/x-tga", rb".[\0\x01][\x01-\x03\x09-\x0b]", is_weak=True),
    _unread("an SVG drawing", ".svg", _EXPORT, _SVG),
    _unread("an SVG drawing", ".svgz", _EXPORT, rb"\x1f\x8b", is_weak=True),
    _unread(
        "an EPS drawing", ".eps .epsf .epsi", _EXPORT, rb"%!PS-Adobe-[\d.]+ EPSF|\xc5\xd0\xd3\xc6"
    ),
    _unread("an Illustrator drawing", ".ai", _EXPORT, rb"%PDF|%!PS", is_weak=True),
    _unread("a Windows metafile", ".wmf .emf", _EXPORT, rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF"),
    _unread("a GIMP picture", ".xcf", _EXPORT, rb"gimp xcf"),
    _unread("a large Photoshop picture", ".psb", _CONVERT, rb"8BPS\0\x02"),
    _unread("an OpenEXR picture", ".exr", _CONVERT, rb"\x76\x2f\x31\x01"),
    _unread("a Radiance picture", ".hdr", _CONVERT, rb"#\?RA"),
    _unread("a JPEG XR", ".jxr .wdp .hdp", _CONVERT, rb"II\xbc\x01"),
    _unread("a DDS texture", ".dds", _CONVERT, rb"DDS \x7c\0\0\0"),
    _unread("a QOI picture", ".qoi", _CONVERT, rb"qoif"),
    _unread("a FITS picture", ".fits .fit", _CONVERT, rb"SIMPLE  = "),
    _unread(
        "an SGI picture", ".sgi .rgb .bw", _CONVERT, rb"\x01\xda[\0\x01][\x01\x02]\0[\x01-\x03]"
    ),
    _unread("a Sun raster", ".ras", _CONVERT, rb"\x59\xa6\x6a\x95"),
    _unread("a cursor", ".cur", _CONVERT, rb"\0\0\x02\0[^\0]\0", is_weak=True),
    _unread("an XPM picture", ".xpm", _CONVERT, rb"/\* XPM \*/"),
)

EXTENSIONS = frozenset(ending for kind in KINDS if kind.decoder for ending in kind.endings)
"""Endings of names that make a file a picture without a look at what is in it."""

_OTHERS = (
    ".txt .json .jsonl .csv .tsv .xml .html .htm .md .rst .log .yml .yaml .toml .ini .cfg "
    ".xmp .aae .thm .pdf .doc .docx .xls .xlsx .ppt .pptx .odt .ods .odp .rtf .epub .py .pyc "
    ".js .ts .css .c .h .cc .cpp .hpp .java .go .rs .rb .php .sh .bat .ps1 .sql .ipynb .zip "
    ".tar .gz .tgz .bz2 .xz .zst .7z .rar .iso .dmg .mp4 .mov .avi .mkv .webm .m4v .3gp .mts "
    ".m2ts .wmv .flv .mpg .mpeg .lrv .insv .mp3 .wav .flac .m4a .aac .ogg .opus .wma .db "
    ".sqlite .mdb .lmdb .idx .npy .npz .pt .pth .bin .safetensors .onnx .parquet .arrow .h5 "
    ".pkl .exe .dll .so .dylib .msi .ttf .otf .woff .woff2 .lnk .url .srt .ass .part .partial "
    ".crdownload .download .tmp .lock .conf"
)
_NOT_OPENED = frozenset(_OTHERS.split())
"""Endings of files that are common beside pictures, and not worth opening."""


def ending_of(path: str | bytes | os.PathLike[str]) -> str:
    """Give the ending of a name, in lower case and with the dot; empty if there is none."""
    return os.path.splitext(os.fsdecode(path))[1].lower()  # noqa: PTH122  (bytes, too)


def judge_name(path: str | bytes | os.PathLike[str]) -> bool | None:
    """Tell by its name whether a file is a picture; None if that takes a look into it.

    That is so for an unusual ending, for none, and for a name like ``._a.jpg``, which macOS puts
    beside a picture on other systems' disks.
    """
    ending = ending_of(path)
    if ending in _NOT_OPENED:
        return False
    name = os.fsdecode(os.path.basename(path))  # noqa: PTH119  (bytes, too)
    return True if ending in EXTENSIONS and not name.startswith("._") else None


def looks_like_picture(path: str | bytes | os.PathLike[str]) -> bool:
    """Tell whether a file is a picture, be it one that can be read or not.

    The name decides if it can (:func:`judge_name`); else the file is opened for its first bytes.

    Args:
        path: A file; anything else that needs a look is no picture.
    """
    return kind_of(path) is not None


def kind_of(path: str | bytes | os.PathLike[str]) -> Kind | None:
    """Tell of what kind a file is, by its name where that says it; None if it is no picture.

    Only what opens the file, :func:`recognise`, is to be relied on for how it is decoded.
    """
    by_name, ending = judge_name(path), ending_of(path)
    if by_name is None:
        return recognise(read_start(path), ending)
    return next(kind for kind in KINDS if ending in kind.endings) if by_name else None


def read_start(path: str | bytes | os.PathLike[str]) -> bytes:
    """Read the first bytes of a file; none where there is no file or it cannot be read."""
    try:
        # Opening a named pipe would wait for a writer, for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  (bytes, too)
            return b""
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (bytes, too)
            return file.read(START)
    except OSError:
        return b""


def recognise(start: bytes, ending: str = "") -> Kind | None:
    """Tell the kind of a picture.

    Args:
        start: The first bytes of the file, as :func:`read_start` gives them.
        ending: How its name ends, as :func:`ending_of` gives it. That never overrules the bytes,
            but some kinds have no signature that is enough without.
    """
    for kind in KINDS:
        if (ending in kind.endings or not kind.is_weak) and kind.signature.match(start):
            return kind
    return None
