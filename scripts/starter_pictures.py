"""What the starter learns from: photos and emoji, in many views, with their captions."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from clip_text.data.captions import read_captions
from clip_text.encoder import Encoder
from clip_text.evaluation import Text, retrieval_set
from clip_text.evaluation.measure import encode_set, measure
from clip_text.features import Pixels
from clip_text.images import load_image, squash
from scripts.sources import EmojiNames, Style, emoji_names, emoji_pictures, load_picture

__all__ = ["PHOTO_WEIGHTS", "STYLES", "Emoji", "Photos"]

SIZE = 224  # of training views, in pixels
STYLES: tuple[Style, ...] = ("google", "fluent-3d", "fluent-flat")  # never "twitter": the test
PHOTO_KINDS = ("zh", "zh_mt", "en")
# How often a batch asks for each kind of caption.
PHOTO_WEIGHTS = {"zh": 0.5, "zh_mt": 0.45, "en": 0.05}
# How often a batch asks for emoji names in a language; tags are Chinese keywords.
EMOJI_WEIGHTS = {"zh": 0.34, "zh tags": 0.22, "en": 0.12, "zh-hant": 0.06, "ja": 0.06}
OTHER_LANGUAGES_WEIGHT = 0.2


class Photos:
    """Flickr8k-CN's training photos, captions and views.

    Args:
        folder: Folder of ``train.jsonl``, ``val.jsonl`` and ``images/``.
        number: How many photos to take of each file; None takes all.
    """

    def __init__(self, folder: Path, number: int | None) -> None:
        self.images = folder / "images"
        self.records = read_captions(folder / "train.jsonl", PHOTO_KINDS)[:number]
        self.captions = [record.captions for record in self.records]
        validation = read_captions(folder / "val.jsonl", ["zh"])[:number]
        self.validation = retrieval_set(
            "validation",
            {record.image: self.images / record.image for record in validation},
            [
                Text(f"{record.image} {number}", caption, (record.image,))
                for record in validation
                for number, caption in enumerate(record.captions["zh"])
            ],
        )

    def load(self, photo: int, view: int, seed: int) -> Pixels:
        """Give one view: as it is, mirrored, or a random crop."""
        image = load_image(self.images / self.records[photo].image)
        if view == 1:
            image = ImageOps.mirror(image)
        elif view > 1:
            image = _random_crop(image, np.random.default_rng([seed, 1, view, photo]))
        return squash(image, SIZE)

    def measure(self, encoder: Encoder) -> dict[int, float]:
        """Recall@k of every ``zh`` caption of the validation photos, over all of them."""
        encoded = encode_set(encoder, self.validation)
        return measure(self.validation, encoded).by_direction["t2i"].recall


class Emoji:
    """Emoji pictures in the training styles, and their names.

    Args:
        cache: Folder for unpacked packages.
        number: How many emoji to take; None takes all.
    """

    def __init__(self, cache: Path, number: int | None) -> None:
        self.cache = cache
        self.names = emoji_names(cache)
        self.pictures = {style: emoji_pictures(style, cache) for style in STYLES}
        drawn = set().union(*self.pictures.values())
        # skin tones last: they are drawn less often, six near-equal pictures to a gesture
        known = sorted(drawn & self.names.keys(), key=lambda c: (self.names[c].skin_tone, c))
        self.codes = known[:number]
        self.first_toned = sum(not self.names[code].skin_tone for code in self.codes)
        self.captions = [_emoji_captions(self.names[code]) for code in self.codes]
        languages = {kind for captions in self.captions for kind in captions}
        others = sorted(languages - EMOJI_WEIGHTS.keys())
        share = OTHER_LANGUAGES_WEIGHT / max(1, len(others))
        self.weights = EMOJI_WEIGHTS | dict.fromkeys(others, share)

    def load(self, code: int, style: Style, view: int, seed: int) -> Pixels | None:
        """Give one view of a style: on white, or turned, moved and tinted at random."""
        file = self.pictures[style].get(self.codes[code])
        if file is None:
            return None
        drawing = load_picture(file)
        if view == 0:
            return squash(load_image(drawing), SIZE)
        rng = np.random.default_rng([seed, 2, STYLES.index(style), view, code])
        return np.asarray(_random_placement(drawing, rng))


def _emoji_captions(names: EmojiNames) -> dict[str, list[str]]:
    captions = {"zh": [names.labels["zh"]]} if "zh" in names.labels else {}
    # A toned hand's tags are its base's: they'd be right for six pictures, so they are left out.
    if not names.skin_tone and names.tags.get("zh"):
        captions["zh tags"] = names.tags["zh"]
    for language, label in names.labels.items():
        tags = [] if names.skin_tone or language == "zh" else names.tags.get(language, [])[:6]
        captions.setdefault(language, [label, *tags])
    return captions


def _random_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    area, ratio = rng.uniform(0.55, 1.0), rng.uniform(0.8, 1.25)
    width = min(image.width, int(image.width * (area * ratio) ** 0.5))
    height = min(image.height, int(image.height * (area / ratio) ** 0.5))
    x = int(rng.integers(image.width - width + 1))
    y = int(rng.integers(image.height - height + 1))
    image = image.crop((x, y, x + width, y + height))
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
    return ImageEnhance.Color(image).enhance(rng.uniform(0.7, 1.3))


def _random_placement(drawing: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draw an emoji on a canvas: another resolution, angle, size, place, ground and tint."""
    coarse = int(rng.choice([40, 56, 64, 72, 96, 128, 160, 256]))
    drawing = drawing.resize((coarse, coarse), Image.Resampling.BICUBIC)
    drawing = drawing.rotate(
        rng.uniform(-18, 18), resample=Image.Resampling.BICUBIC, expand=bool(rng.random() < 0.5)
    )
    width = int(rng.integers(140, 240))
    height = int(width * rng.uniform(0.88, 1.14))
    drawing = drawing.resize((width, height), Image.Resampling.BICUBIC)
    ground = (255,) * 3 if rng.random() < 0.6 else tuple(int(v) for v in rng.integers(180, 256, 3))
    canvas = Image.new("RGB", (SIZE, SIZE), ground)
    x, y = (int(rng.integers(min(0, SIZE - n), max(0, SIZE - n) + 1)) for n in (width, height))
    canvas.paste(drawing, (x, y), drawing)
    if rng.random() < 0.8:
        canvas = ImageEnhance.Color(canvas).enhance(rng.uniform(0.5, 1.6))
        canvas = ImageEnhance.Brightness(canvas).enhance(rng.uniform(0.8, 1.2))
        canvas = ImageEnhance.Contrast(canvas).enhance(rng.uniform(0.7, 1.3))
    if rng.random() < 0.3:
        hue, saturation, value = canvas.convert("HSV").split()
        turn = int(rng.integers(-8, 9))
        hue = hue.point([(level + turn) % 256 for level in range(256)])
        canvas = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return canvas
