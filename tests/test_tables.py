"""Tables as people have them: separators, quotation marks, rows over lines, Excel's workbooks."""

import sys
from datetime import datetime

import pytest
from openpyxl import Workbook

from clip_text.data.labelled_texts import Columns, read_labelled_texts
from clip_text.data.parallel import read_parallel
from clip_text.data.plain_text import read_lines, text_files
from clip_text.data.tables import is_table, read_table
from clip_text.errors import DataError


def rows(path, **options):
    return [row.fields for row in read_table(path, **options).rows]


def write(path, *lines, encoding="utf-8", end="\n"):
    path.write_bytes(end.join([*lines, ""]).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("a.csv", "Image,Caption", 'a.jpg,"狗, 猫; 鸟"'),
        ("a.csv", "Image;Caption", "a.jpg;狗, 猫; 鸟".replace("; ", "、")),
        ("a.csv", "Image;Caption", 'a.jpg;"狗, 猫; 鸟"'),
        ("a.csv", '"Image";"Caption, in one, or two; words"', 'a.jpg;"狗, 猫; 鸟"'),
        ("a.csv", "Image\tCaption", "a.jpg\t狗, 猫; 鸟"),
        ("a.csv", "sep=;\nImage;Caption", 'a.jpg;"狗, 猫; 鸟"'),
        ("a.csv", "sep=|\nImage|Caption", "a.jpg|狗, 猫; 鸟"),
        ("a.tsv", "Image\tCaption, or title; one", "a.jpg\t狗, 猫; 鸟"),
        ("a.tsv", "Image,Caption", 'a.jpg,"狗, 猫; 鸟"'),
        ("a.txt", "Image\tCaption", "a.jpg\t狗, 猫; 鸟"),
    ],
)
def test_the_separator_is_what_the_header_shows(name, header, row, tmp_path):
    path = write(tmp_path / name, header, row)
    assert is_table(path)
    (fields,) = rows(path)
    assert fields[0] == "a.jpg"
    assert fields[1].replace("、", "; ") == "狗, 猫; 鸟"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # quotation marks as text: what the file shows is that they do not quote
        (['0\t"一只羊驼', "1\t一片海滩"], ['"一只羊驼', "一片海滩"]),
        (['0\t"一只羊驼', "1\t一片海滩", '2\t猫"'], ['"一只羊驼', "一片海滩", '猫"']),
        (['0\t"小白"在睡觉', "1\t海滩"], ['"小白"在睡觉', "海滩"]),
        (['0\t"小白"', '1\t他说"好"'], ['"小白"', '他说"好"']),
        (['0\t"', "1\t海滩"], ['"', "海滩"]),
        # fields that are quoted as pandas and Excel do it
        (['0\t"狗, 猫"', "1\t海滩"], ["狗, 猫", "海滩"]),
        (['0\t"他说""好"""', '1\t"小白"'], ['他说"好"', "小白"]),
        (['0\t"狗\t猫"', "1\t海滩"], ["狗\t猫", "海滩"]),
        (['0\t"一只\n狗"', "1\t海滩"], ["一只\n狗", "海滩"]),
        (['0\t"他说""好""\n走了"', "1\t海滩", '2\t"猫"'], ['他说"好"\n走了', "海滩", "猫"]),
    ],
)
def test_quotation_marks_between_tabs(lines, expected, tmp_path):
    path = write(tmp_path / "a.tsv", "id\ttext", *lines)
    assert [fields[1] for fields in rows(path)] == expected
    labelled = write(tmp_path / "b.tsv", "label\ttext", *lines)
    assert read_labelled_texts(labelled).texts == expected
    corpus = [line.text for line in read_lines(path)]
    assert corpus == [line for text in expected for line in text.splitlines()]
    both = write(tmp_path / "c.tsv", "en\tzh", *lines)
    assert read_parallel(both, ["en", "zh"]).by_language["zh"] == expected


def test_quotation_marks_without_a_header(tmp_path):
    lines = ['"小白"在睡觉\tpets', '他说"好\ttalk', '"海滩\tpets']
    found = read_labelled_texts(write(tmp_path / "a.tsv", *lines))
    assert found.texts == ['"小白"在睡觉', '他说"好', '"海滩']
    found = read_labelled_texts(write(tmp_path / "a.tsv", '"他说""好"""\ttalk', "海滩\tpets"))
    assert found.texts == ['他说"好"', "海滩"]


def test_broken_quotes_are_named(tmp_path):
    """Where a file shows that it is quoted, and in csv, which always is."""
    path = write(tmp_path / "a.tsv", "id\ttext", '0\t"他说""好"""', '1\t"小白"在睡觉', "2\t海滩")
    with pytest.raises(DataError, match=r"a broken line 3: .*a quotation mark that is text"):
        rows(path)
    path = write(
        tmp_path / "a.csv", "id,text", '0,"小白"在睡觉', "1,a,b", "2,海滩", '3,"一只', "4,x"
    )
    problems = []
    assert rows(path, problems=problems) == [["2", "海滩"]]
    told = [problem.message.partition(", got ")[2] for problem in problems]
    assert [one[:16] for one in told] == [
        "a broken line 2:",
        "3. Quote what ho",
        "a broken line 5:",
    ]
    assert "(a comma)" in told[1]


def test_blank_rows_and_places(tmp_path):
    path = write(
        tmp_path / "a.csv", "", ",", " Text ,b", ",", '"一\n二",x', ",,,", "三,y", end="\r\n"
    )
    table = read_table(path)
    assert table.header == ["Text", "b"]
    assert [row.place for row in table.rows] == ["line 5", "line 8"]


def test_headers_in_any_case_and_in_chinese(tmp_path):
    assert read_labelled_texts(write(tmp_path / "a.csv", "Label,TEXT", "1,好")).texts == ["好"]
    found = read_labelled_texts(write(tmp_path / "a.csv", "类别,评论", "好评,很快", encoding="gbk"))
    assert (found.texts, found.labels) == (["很快"], [("好评",)])
    path = write(tmp_path / "a.csv", "Text,text,label", "a,b,1")
    assert read_labelled_texts(path).texts == ["b"]  # spelt as asked
    assert read_labelled_texts(path, Columns(text="Text")).texts == ["a"]
    with pytest.raises(DataError, match="got 2 of that name among Text, TEXT, label"):
        read_labelled_texts(write(tmp_path / "a.csv", "Text,TEXT,label", "a,b,1"))


# --- workbooks ---


def workbook(path, *lines, empty_first=False):
    book = Workbook()
    if empty_first:
        book.create_sheet("captions")
    for line in lines:
        book.worksheets[-1].append(line)
    book.save(path)
    return path


def test_a_workbook(tmp_path):
    day = datetime(2024, 5, 1)
    lines = [["Text", "Label", None], [None], ["很好", 1, None], ["差, 的", 2.5], ["x", day]]
    path = workbook(tmp_path / "a.xlsx", *lines, empty_first=True)
    found = read_labelled_texts(path)
    assert found.texts == ["很好", "差, 的", "x"]
    assert found.labels == [("1",), ("2.5",), ("2024-05-01",)]
    assert found.places[0] == f"{path}, row 3"
    assert [line.text for line in read_lines(path)] == found.texts
    assert text_files([path]) == [path]


def test_workbooks_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.xlsx").write_text("image,caption", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"a workbook at .*a\.xlsx, got: File is not a zip .*as csv"
    ):
        read_table(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"columns in the header of .*, got none"):
        read_table(workbook(tmp_path / "a.xlsx"))
    workbook(tmp_path / "a.xlsx", ["text", "label"], ["", "x"])
    with pytest.raises(DataError, match=r"a text in .*a\.xlsx, row 2, got an empty one"):
        read_labelled_texts(tmp_path / "a.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ModuleNotFoundError, match=r"openpyxl .*pip install 'clip-text\[xlsx\]'"):
        read_table(tmp_path / "a.xlsx")
