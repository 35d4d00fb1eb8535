"""Pictures with captions that a tiny model can learn: squares of a colour, named."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "红色": (220, 30, 30),
    "绿色": (30, 200, 40),
    "蓝色": (30, 50, 220),
    "黄色": (230, 220, 40),
    "黑色": (20, 20, 20),
    "白色": (240, 240, 240),
}


def coloured(folder: Path, name: str, shades: int, seed: int) -> Path:
    """Write a jsonl of so many shades of every colour, and their pictures; returns its path."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for word, colour in COLOURS.items():
        for shade in range(shades):
            noise = rng.integers(-20, 20, (40, 40, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            file = f"{name}-{word}-{shade}.png"
            Image.fromarray(pixels).save(folder / "images" / file)
            captions = [f"{word}的花", f"{word}的心 {shade}"]
            lines.append(json.dumps({"image": file, "zh": captions}, ensure_ascii=False))
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
