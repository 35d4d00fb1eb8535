"""Everyday Chinese words that may stand for each other in a description of a picture.

Curated by hand for this project. Within a group every word names the same thing, or so nearly
that a picture described by one is described by the others, and takes the same place in a
sentence. Words with a second everyday meaning (公车, a bus or an official's car) and words that
only overlap (衣服/衬衫, 海边/沙滩) are left out. Each word is one word to jieba, which is how they
are found, so 男子汉 is not touched by 男子.
"""

SYNONYMS: tuple[tuple[str, ...], ...] = (
    # people
    ("男人", "男子", "男士"),
    ("女人", "女子", "女士"),
    ("小孩", "孩子", "儿童"),
    ("男孩", "小男孩"),
    ("女孩", "小女孩"),
    ("婴儿", "宝宝"),
    ("年轻人", "青年"),
    ("老人", "老年人"),
    ("妈妈", "母亲"),
    ("爸爸", "父亲"),
    ("爷爷", "祖父"),
    ("奶奶", "祖母"),
    ("医生", "大夫"),
    ("老师", "教师"),
    ("农民", "农夫"),
    ("运动员", "选手"),
    # on the road
    ("自行车", "单车", "脚踏车"),
    ("摩托车", "机车"),
    ("公共汽车", "公交车", "巴士"),
    ("出租车", "的士", "计程车"),
    ("卡车", "货车"),
    ("火车站", "车站"),
    # in the house
    ("电脑", "计算机"),
    ("电视", "电视机"),
    ("照相机", "相机"),
    ("冰箱", "电冰箱"),
    ("房子", "房屋"),
    ("厕所", "卫生间", "洗手间"),
    ("雨伞", "伞"),
    ("钱包", "皮夹"),
    ("图片", "照片"),
    # food
    ("土豆", "马铃薯"),
    ("西红柿", "番茄"),
    ("红薯", "地瓜"),
    ("菠萝", "凤梨"),
    ("米饭", "白饭"),
    ("冰淇淋", "冰激凌"),
    # animals and nature
    ("狗", "犬"),
    ("小狗", "幼犬"),
    ("猫", "猫咪"),
    ("老鼠", "耗子"),
    ("海滩", "沙滩"),
    ("森林", "树林"),
    ("草地", "草坪"),
    ("鲜花", "花朵"),
    # doing, being, where
    ("奔跑", "跑步"),
    ("跳跃", "蹦跳"),
    ("玩耍", "嬉戏"),
    ("高兴", "开心", "快乐"),
    ("漂亮", "美丽", "好看"),
    ("巨大", "庞大"),
    ("旁边", "一旁"),
    ("附近", "周围"),
    ("和", "与"),
)
"""Groups of words; a word is in one group at most."""
