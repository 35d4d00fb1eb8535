"""A folder of every kind of picture file that people have, made anew: one picture, many writings.

The picture is four fields of colour, so that any turn or mirroring of it shows:

    red    green
    blue   yellow
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

SIZE = (96, 64)
RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 40), (30, 50, 220), (230, 220, 40)
COLOURS = (RED, GREEN, BLUE, YELLOW)
GREYS = (20, 90, 160, 240)

COLOUR, GREY, UNSEEN = "colour", "grey", ""


@dataclass(frozen=True)
class Specimen:
    """One file of the zoo.

    Args:
        name: Of the file.
        what: It is, for the table of ``docs/pictures.md``.
        write: Gives its content.
        shows: What is to be seen once it is read: the colours, or the greys; empty if nothing is.
    """

    name: str
    what: str
    write: Callable[[], bytes]
    shows: str = COLOUR


def fields(colours=COLOURS, size=SIZE) -> Image.Image:
    image = Image.new("RGB", size)
    for i, colour in enumerate(colours):
        left, top = (i % 2) * size[0] // 2, (i // 2) * size[1] // 2
        image.paste(colour, (left, top, left + size[0] // 2, top + size[1] // 2))
    return image


def greys(dtype=np.uint8, scale=1.0) -> np.ndarray:
    grey = np.asarray(fields([(grey,) * 3 for grey in GREYS]).convert("L"))
    return (grey.astype(np.float64) * scale).astype(dtype)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image | None = None, **options: object) -> bytes:
    return encoded(image or fields(), "JPEG", quality=95, subsampling=0, **options)


def oriented(orientation: int) -> bytes:
    """Stored so that it shows the four fields once the EXIF orientation is followed."""
    undo = {
        **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180},
        **{4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE},
        **{6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE},
        8: Image.Transpose.ROTATE_270,
    }
    stored = fields() if orientation == 1 else fields().transpose(undo[orientation])
    return jpeg(stored, exif=exif(orientation))


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def clear_corners(mode: str) -> Image.Image:
    """The fields with a transparent frame of 4 pixels, red below it."""
    alpha = Image.new("L", SIZE, 0)
    alpha.paste(255, (4, 4, SIZE[0] - 4, SIZE[1] - 4))
    picture = fields().convert("RGBA")
    picture.putalpha(alpha)
    return picture if mode == "RGBA" else picture.convert(mode)


def clear_palette() -> bytes:
    palette = fields().convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    palette.paste(7, (0, 0, SIZE[0], 4))
    return encoded(palette, "PNG", transparency=7)


def animated(kind: str) -> bytes:
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(fields(), kind, save_all=True, append_images=[Image.new("RGB", SIZE)], **options)


def cut_off() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    whole = jpeg(Image.fromarray(noise))
    return whole[: len(whole) // 2]


def bomb() -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def float_tiff() -> bytes:
    return encoded(Image.fromarray(greys(np.float32, 1 / 255)), "TIFF")


def lab_tiff() -> bytes:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(fields(), srgb, lab, outputMode="LAB")
    return encoded(converted, "TIFF")


def psd() -> bytes:
    """A flat Photoshop picture: header, three empty sections, planes without compression."""
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, SIZE[1], SIZE[0], 8, 3)
    planes = np.asarray(fields()).transpose(2, 0, 1).tobytes()
    return header + bytes(12) + b"\0\0" + planes


def dng(orientation: int = 1, preview: Image.Image | None = None) -> bytes:
    """A camera's raw picture: a JPEG preview, and raw pixels that are not looked at."""
    stored, raw = jpeg(preview or fields()), np.full((64, 96), 1000, "<u2").tobytes()
    width, height = (preview or fields()).size

    def ifd(at: int, entries: list[tuple[int, str, list[int] | bytes]]) -> bytes:
        out, beyond = struct.pack("<H", len(entries)), b""
        for tag, kind, values in entries:
            data = struct.pack(f"<{len(values)}{kind}", *values)
            if len(data) > 4:
                place = at + 2 + 12 * len(entries) + 4 + len(beyond)
                beyond += data + bytes(len(data) % 2)
                data = struct.pack("<I", place)
            number = {"B": 1, "H": 3, "I": 4}[kind]
            out += struct.pack("<HHI", tag, number, len(values)) + data.ljust(4, b"\0")
        return out + bytes(4) + beyond

    def directories(second: int, jpeg_at: int, raw_at: int) -> tuple[bytes, bytes]:
        shown = [
            *((254, "I", [1]), (256, "I", [width]), (257, "I", [height]), (258, "H", [8, 8, 8])),
            *((259, "H", [7]), (262, "H", [6]), (271, "B", b"Maker\0"), (272, "B", b"Model\0")),
            *((273, "I", [jpeg_at]), (274, "H", [orientation]), (277, "H", [3])),
            *((278, "I", [height]), (279, "I", [len(stored)]), (330, "I", [second])),
            *((50706, "B", [1, 4, 0, 0]), (50708, "B", b"Maker Model\0")),
        ]
        hidden = [
            *((254, "I", [0]), (256, "I", [96]), (257, "I", [64]), (258, "H", [16])),
            *((259, "H", [1]), (262, "H", [32803]), (273, "I", [raw_at]), (277, "H", [1])),
            *((278, "I", [64]), (279, "I", [len(raw)]), (33421, "H", [2, 2])),
            *((33422, "B", [0, 1, 1, 2]), (50717, "I", [65535])),
        ]
        return ifd(8, shown), ifd(second, hidden)

    first, second = directories(0, 0, 0)
    jpeg_at = 8 + len(first) + len(second)
    raw_at = jpeg_at + len(stored) + len(stored) % 2
    first, second = directories(8 + len(first), jpeg_at, raw_at)
    return b"II*\0\x08\0\0\0" + first + second + stored + bytes(len(stored) % 2) + raw


def heic(image: Image.Image | None = None, **options: object) -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(image or fields()).save(buffer, quality=95, chroma=444, **options)
    return buffer.getvalue()


def jxl(image: Image.Image | None = None) -> bytes:
    import pylibjxl

    return pylibjxl.encode(np.asarray(image or fields()), lossless=True)


def jxl_of_a_turned_jpeg() -> bytes:
    import pylibjxl

    return pylibjxl.jpeg_to_jxl(oriented(6))


SVG = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"></svg>\n'

ZOO = (
    Specimen("camera.jpg", "JPEG", jpeg),
    Specimen("CAMERA.JPG", "JPEG, ending in capitals", lambda: jpeg(comment=b"1")),
    Specimen("photo.jpeg", "JPEG", lambda: jpeg(comment=b"2")),
    Specimen("photo.jpe", "JPEG", lambda: jpeg(comment=b"3")),
    Specimen("saved.jfif", "JPEG, as Windows saves it", lambda: jpeg(comment=b"4")),
    Specimen("progressive.jpg", "JPEG, progressive", lambda: jpeg(progressive=True)),
    Specimen("grey.jpg", "JPEG, grey", lambda: jpeg(Image.fromarray(greys())), GREY),
    Specimen(
        "print.jpg", "JPEG in the colours of print (CMYK)", lambda: jpeg(fields().convert("CMYK"))
    ),
    Specimen(
        "phone.mpo",
        "JPEG with a second picture behind it (MPO)",
        lambda: encoded(fields(), "MPO", save_all=True, append_images=[Image.new("RGB", SIZE)]),
    ),
    Specimen(
        "bad profile.jpg",
        "JPEG with a broken colour profile",
        lambda: jpeg(icc_profile=b"no profile" * 20),
    ),
    *(
        Specimen(f"turned {n}.jpg", f"JPEG with EXIF orientation {n}", lambda n=n: oriented(n))
        for n in range(1, 9)
    ),
    Specimen("cut off.jpg", "JPEG, cut off half-way", cut_off, UNSEEN),
    Specimen("empty.jpg", "a file of no bytes", lambda: b"", UNSEEN),
    Specimen(
        "page.jpg",
        "a web page saved under a picture's name",
        lambda: b"<!DOCTYPE html><html></html>",
        UNSEEN,
    ),
    Specimen(
        "._camera.jpg",
        "what macOS puts beside a picture",
        lambda: b"\0\5\x16\7\0\2\0\0Mac OS X",
        UNSEEN,
    ),
    Specimen("image.png", "PNG", lambda: encoded(fields(), "PNG")),
    Specimen(
        "really a png.jpg",
        "PNG under another's name",
        lambda: encoded(fields(), "PNG", compress_level=1),
    ),
    Specimen(
        "no ending", "PNG without an ending", lambda: encoded(fields(), "PNG", compress_level=2)
    ),
    Specimen(
        "photo.image_large", "JPEG with an ending that nobody knows", lambda: jpeg(comment=b"5")
    ),
    Specimen(
        "clear.png", "PNG with transparent parts", lambda: encoded(clear_corners("RGBA"), "PNG")
    ),
    Specimen("clear palette.png", "PNG of a palette, with transparent parts", clear_palette),
    Specimen(
        "grey alpha.png",
        "PNG, grey, with transparent parts",
        lambda: encoded(
            Image.merge("LA", (Image.fromarray(greys()), Image.new("L", SIZE, 255))), "PNG"
        ),
        GREY,
    ),
    Specimen(
        "palette.png",
        "PNG of a palette",
        lambda: encoded(fields().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    ),
    Specimen(
        "sixteen.png",
        "PNG, grey, 16 bits",
        lambda: encoded(Image.fromarray(greys(np.uint16, 257)), "PNG"),
        GREY,
    ),
    Specimen(
        "bits.png", "PNG of black and white", lambda: encoded(fields().convert("1"), "PNG"), UNSEEN
    ),
    Specimen("bomb.png", "PNG of 60,000 x 60,000 pixels", bomb, UNSEEN),
    Specimen("animated.png", "PNG, animated", lambda: animated("PNG")),
    Specimen("picture.webp", "WebP", lambda: encoded(fields(), "WEBP", quality=95)),
    Specimen("animated.webp", "WebP, animated", lambda: animated("WEBP")),
    Specimen("picture.gif", "GIF", lambda: encoded(fields(), "GIF")),
    Specimen("animated.gif", "GIF, animated", lambda: animated("GIF")),
    Specimen("picture.bmp", "BMP", lambda: encoded(fields(), "BMP")),
    Specimen("scan.tiff", "TIFF", lambda: encoded(fields(), "TIFF")),
    Specimen(
        "sixteen.tif",
        "TIFF, grey, 16 bits",
        lambda: encoded(Image.fromarray(greys(np.uint16, 257)), "TIFF"),
        GREY,
    ),
    Specimen("float.tif", "TIFF, grey, floats", float_tiff, GREY),
    Specimen(
        "print.tif",
        "TIFF in the colours of print (CMYK)",
        lambda: encoded(fields().convert("CMYK"), "TIFF"),
    ),
    Specimen("lab.tif", "TIFF in L\\*a\\*b\\*", lab_tiff),
    Specimen(
        "turned.tif",
        "TIFF with EXIF orientation 3",
        lambda: encoded(fields().transpose(Image.Transpose.ROTATE_180), "TIFF", exif=exif(3)),
    ),
    Specimen("picture.avif", "AVIF", lambda: encoded(fields(), "AVIF", quality=95)),
    Specimen(
        "turned.avif",
        "AVIF that says it is turned",
        lambda: encoded(
            fields().transpose(Image.Transpose.ROTATE_90), "AVIF", quality=95, exif=exif(6)
        ),
    ),
    Specimen("iphone.heic", "HEIC", heic),
    Specimen("iphone.heif", "HEIC under the general ending", heic),
    Specimen(
        "turned.heic",
        "HEIC that says it is turned",
        lambda: heic(fields().transpose(Image.Transpose.ROTATE_90), exif=exif(6).tobytes()),
    ),
    Specimen("picture.jxl", "JPEG XL", jxl),
    Specimen("turned.jxl", "JPEG XL made of a JPEG with EXIF orientation 6", jxl_of_a_turned_jpeg),
    Specimen("picture.jp2", "JPEG 2000", lambda: encoded(fields(), "JPEG2000")),
    Specimen("camera.dng", "a camera's raw picture (DNG)", dng),
    Specimen(
        "turned.dng",
        "a camera's raw picture, turned",
        lambda: dng(6, fields().transpose(Image.Transpose.ROTATE_90)),
    ),
    Specimen("picture.psd", "Photoshop", psd),
    Specimen(
        "favicon.ico", "icon", lambda: encoded(fields().resize((64, 64)), "ICO", sizes=[(64, 64)])
    ),
    Specimen("app.icns", "icon of macOS", lambda: encoded(fields().resize((128, 128)), "ICNS")),
    Specimen("picture.ppm", "PPM", lambda: encoded(fields(), "PPM")),
    Specimen(
        "sixteen.pgm",
        "PGM, grey, 16 bits",
        lambda: encoded(Image.fromarray(greys(np.uint16, 257)), "PPM"),
        GREY,
    ),
    Specimen("picture.tga", "TGA", lambda: encoded(fields(), "TGA")),
    Specimen("picture.pcx", "PCX", lambda: encoded(fields(), "PCX")),
    Specimen("drawing.svg", "SVG", lambda: SVG, UNSEEN),
    Specimen(
        "drawing.eps", "EPS", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNSEEN
    ),
    Specimen("drawing.wmf", "Windows metafile", lambda: b"\xd7\xcd\xc6\x9a" + bytes(60), UNSEEN),
    Specimen("layers.xcf", "GIMP", lambda: b"gimp xcf v011\0" + bytes(60), UNSEEN),
    Specimen("texture.dds", "DDS", lambda: encoded(fields(), "DDS"), UNSEEN),
    Specimen("picture.qoi", "QOI", lambda: b"qoif" + bytes(60), UNSEEN),
    Specimen("light.exr", "OpenEXR", lambda: b"\x76\x2f\x31\1" + bytes(60), UNSEEN),
    Specimen("paper.pdf", "PDF", lambda: encoded(fields(), "PDF"), UNSEEN),
    Specimen("clip.mp4", "video", lambda: b"\0\0\0\x18ftypisom" + bytes(60), UNSEEN),
    Specimen("notes.txt", "text", lambda: b"P2 is not a picture\n", UNSEEN),
    Specimen("README", "text without an ending", lambda: b"BM is where it begins\n", UNSEEN),
)
