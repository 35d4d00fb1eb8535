"""Sentences to put a class name into: one name says less of a picture than many sentences do.

``original`` is Chinese-CLIP's list (MIT, cn_clip/eval/imagenet_zeroshot_templates.py), two of whose
eighty come twice; it was taken from Wukong (arXiv:2202.06767), and that from the English one of
CLIP (Radford et al. 2021, arXiv:2103.00020). ``elevater`` is Chinese-CLIP's longer one for ELEVATER
(cn_clip/eval/cvinw_zeroshot_templates.py). The sets by domain are our own.
"""

from pathlib import Path

from clip_text.data.collection import refuse
from clip_text.data.text_files import read_entries
from clip_text.errors import DataError

SLOT = "{}"
"""Where the name goes."""


def _list(templates: str) -> tuple[str, ...]:
    return tuple(templates.split())


ORIGINAL = _list(
    """
    {}的照片。 质量差的{}的照片。 许多{}的照片。 {}的雕塑。 难以看到{}的照片。
    {}的低分辨率照片。 {}的渲染。 涂鸦{}。 {}的糟糕照片。 {}的裁剪照片。 {}的纹身。
    {}的刺绣照片。 很难看到{}的照片。 {}的明亮照片。 一张干净的{}的照片。 一张包含{}的照片。
    {}的深色照片。 {}的手绘画。 我的{}的照片。 不自然的{}的照片。 一张酷的{}的照片。
    {}的特写照片。 {}的黑白照片。 一幅{}的画。 一幅{}的绘画。 一张{}的像素照片。 {}的雕像。
    一张{}的明亮照片。 {}的裁剪照片。 人造的{}的照片。 一张关于{}的照片。 损坏的{}的jpeg照片。
    {}的模糊照片。 {}的相片。 一张{}的好照片。 {}的渲染照。 视频游戏中的{}。 一张{}的照片。
    {}的涂鸦。 {}的近距离照片。 {}的折纸。 {}在视频游戏中。 {}的草图。 {}的涂鸦照。
    {}的折纸形状。 低分辨率的{}的照片。 玩具{}。 {}的副本。 {}的干净的照片。 一张大{}的照片。
    {}的重现。 一张漂亮的{}的照片。 一张奇怪的{}的照片。 模糊的{}的照片。 卡通{}。
    {}的艺术作品。 {}的素描。 刺绣{}。 {}的像素照。 {}的拍照。 {}的损坏的照片。
    高质量的{}的照片。 毛绒玩具{}。 漂亮的{}的照片。 小{}的照片。 照片是奇怪的{}。 漫画{}。
    {}的艺术照。 {}的图形。 大{}的照片。 黑白的{}的照片。 {}毛绒玩具。 一张{}的深色照片。
    {}的摄影图。 {}的涂鸦照。 玩具形状的{}。 拍了{}的照片。 酷酷的{}的照片。 照片里的小{}。
    {}的刺青。
    """
)

_BARE = (
    *(template.removesuffix("。") for template in ORIGINAL),
    *_list("{}的可爱的照片 一张{}可爱的照片 {}可爱图片 {}酷炫图片 一张{}的酷炫的照片"),
    *_list("一张{}的酷炫图片 这是{} {}的好看照片 一张{}的好看的图片 {}的好看图片"),
)

SETS: dict[str, tuple[str, ...]] = {
    "original": ORIGINAL,
    "deduplicated": tuple(dict.fromkeys(ORIGINAL)),
    "elevater": (
        *_BARE,
        *(f"{template}。" for template in _BARE),
        *_list("一种叫{}的花的照片 一种叫{}的食物的照片 {}的卫星照片"),
    ),
    "none": (SLOT,),
    "photo": _list("{}的照片。 一张{}的照片。 {}的特写照片。 {}的模糊照片。 很多{}的照片。"),
    "drawing": _list("一幅{}的画。 {}的插画。 {}的素描。 {}的简笔画。 卡通{}。 {}的手绘图。"),
    "emoji": _list("{} {}的表情符号。 {}表情。 {}的图标。 表示{}的表情符号。 卡通{}。"),
    "food": _list("{}的照片，一种食物。 一盘{}。 一份{}。 美食{}的照片。 一道叫{}的菜。"),
    "animals": _list("{}的照片，一种动物。 一只{}。 野外的{}。 {}的特写照片。 一群{}。"),
    "pets": _list("{}的照片，一种宠物。 一只可爱的{}。 家里养的{}。 {}的特写照片。"),
    "flowers": _list("{}的照片，一种花。 盛开的{}。 一朵{}。 {}的特写照片。 一束{}。"),
    "vehicles": _list("{}的照片，一种交通工具。 一辆{}。 停着的{}。 行驶中的{}。"),
    "scenes": _list("{}的照片。 在{}拍的照片。 {}的风景。 {}的全景照片。 {}里面。"),
    "satellite": _list("{}的卫星照片。 从空中看到的{}。 {}的航拍照片。 {}的遥感图像。"),
    "texture": _list("{}的纹理。 {}的图案。 {}的表面。 {}纹理的特写照片。 {}材质的物体。"),
    "digits": _list("数字{}。 手写数字{}。 一张数字{}的照片。 图中的数字是{}。"),
    "faces": _list("{}的表情。 一张{}的脸。 看起来很{}的人。 一个人感到{}。"),
    "actions": _list("一个人正在{}。 {}的照片。 人们在{}。 正在{}的人的照片。"),
}
"""Templates by the name of their set; ``none`` is the name alone."""


def read_templates(source: str | Path) -> tuple[str, ...]:
    """Find a set of templates by its name, or read a file of them.

    Args:
        source: A name of :data:`SETS`, or a file with one template a line, each with ``{}``
            where the name goes; empty lines are passed over.

    Raises:
        DataError: If it is neither, or the file has no template, or lines without ``{}``.
        OSError: If the file cannot be read.
    """
    if str(source) in SETS:
        return SETS[str(source)]
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"expected a file or one of {', '.join(SETS)}, got {str(source)!r}. "
            "Name one of them, or a file with one template a line."
        )
    found = tuple(read_entries(path))
    check_templates(found, str(path))
    return found


def check_templates(templates: tuple[str, ...], name: str = "the templates") -> None:
    """Refuse templates with no place for a name, and no templates at all.

    Raises:
        DataError: With the number of offenders and the first few.
    """
    if not templates:
        raise DataError(f"expected a template in {name}, got none. Use the set 'none'.")
    without = [template for template in templates if SLOT not in template]
    refuse(name, f"a {SLOT} for the name", without, "Put one into")


def fill(template: str, name: str) -> str:
    """Put a name into a template; braces in the name stay as they are."""
    return template.replace(SLOT, name)
