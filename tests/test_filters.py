"""The filter tree and its two written forms; what filters select is in test_catalogue_filters."""

import json
from typing import ClassVar

import pytest
from generated_filters import trees
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import QueryError
from retrieval.filters import (
    And,
    Compare,
    Exists,
    In,
    Not,
    Or,
    Prefix,
    filter_as_json,
    filter_from_json,
    matches,
)
from retrieval.filters.dates import interval_of
from retrieval.filters.language import format_where, parse_where, read_where
from retrieval.filters.values import as_value
from retrieval.records import Picture, Record

YEAR = Compare("year", ">=", 2020)
TAG = Compare("tags", "=", "海边")
MAY_10 = 1_715_299_200_000_000_000  # 2024-05-10T00:00Z
HOUR = 3_600_000_000_000


def picture(image_id="2024/05/a.png", **changes):
    metadata = changes.pop("metadata", {})
    base = Picture(b"/p", b"/p/a", image_id, 1, MAY_10, b"", 640, None, None, json.dumps(metadata))
    return base._replace(**changes)


def holds(text, **changes):
    return matches(parse_where(text), Record(1, picture(**changes)))


class TestMeaning:
    META: ClassVar = {
        "year": 2020,
        "tags": ["海边", "狗"],
        "rated": True,
        "score": 1,
        "gps": {"lat": 1.5, "place": {"name": "青岛"}},
        "people": [{"name": "王"}, {"name": "李", "age": 3}],
        "gone": None,
        "none": [],
        "b.c": "dotted",
        "date": "2001",
        "x y": "1",
    }

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("year = 2020", True),
            ("year = 2020.0", True),
            ("year != 2020", False),
            ("year > 2020", False),
            ("year >= 2020 and year <= 2020", True),
            ('year != "2020"', True),
            ('year = "2020"', False),
            ('year < "3"', False),  # numbers and texts are not ordered
            ("tags = “狗”", True),  # any element
            ('tags != "狗"', False),  # no element
            ('tags != "猫"', True),
            ('not tags = "猫"', True),
            ('tags in ("猫", "海边")', True),
            ('tags startswith "海"', True),
            ('tags > "海边" and tags < "海边啊"', True),  # one element each
            ('tags > "狗"', False),
            ("rated = true", True),
            ("rated = 1", False),
            ("score = 1", True),
            ("score = true", False),
            ("gps.lat < 2", True),
            ('gps.place.name = "青岛"', True),
            ("exists(gps)", True),
            ("exists(gps.place)", True),
            ("exists(gp)", False),
            ('people.name in ("李")', True),
            ("people.age = 3", True),
            ("gone = null", True),
            ("exists(gone)", True),
            ("gone != 1", True),
            ("exists(none)", False),
            ("missing = 1", False),
            ("missing != 1", False),  # no value at all
            ("not missing = 1", True),  # plain negation
            ("missing = null", False),
            ('b.c = "dotted"', True),
            ('`x y` = "1"', True),
            ('metadata.date = "2001"', True),
            ('path startswith "2024/"', True),
            ('folder = "2024/05"', True),
            ('folder startswith "2024"', True),
            ('folder = "2024"', False),
            ("width >= 640 and not exists(height)", True),
            ("height != 3", False),
            ("exists(caption)", False),
            ("date >= 2024-05", True),
            ("date = 2024", True),
            ("date > 2024-05", False),  # not after all of May
            ("date <= 2024-05", True),
            ("date < 2024-05-10", False),
            ("date = 2024-05-10T00", True),
            ("date != 2024-05-10", False),
            ("date = 2024-05-09", False),
            ("date in (2023, 2024-05)", True),
            ("date < 2024-05-10T08:00:01+08:00", True),
        ],
    )
    def test_by_hand(self, text, expected):
        assert holds(text, metadata=self.META) is expected

    def test_numbers_beyond_what_floats_hold_are_the_outermost(self):
        huge = {"n": 10**400, "m": -(10**400)}
        assert holds(f"n > {2**70} and m < -{2**70}", metadata=huge)
        assert not holds("n < 0 or m > 0", metadata=huge)
        json.dumps([as_value(value)[1] for value in huge.values()], allow_nan=False)

    def test_a_file_at_the_top_is_in_the_folder_without_a_name(self):
        assert holds('folder = ""', image_id="a.png")
        assert not holds('folder = ""')

    def test_and_binds_tighter_than_or_and_not_tighter_than_both(self):
        assert parse_where("not a = 1 and b = 2 or c = 3") == Or(
            (
                And((Not(Compare("a", "=", 1)), Compare("b", "=", 2))),
                Compare("c", "=", 3),
            )
        )
        assert parse_where("not (a = 1 and (b = 2 or c = 3))") == Not(
            And((Compare("a", "=", 1), Or((Compare("b", "=", 2), Compare("c", "=", 3)))))
        )


class TestDates:
    @pytest.mark.parametrize(
        ("text", "start", "length"),
        [
            ("1970", 0, 365 * 24 * HOUR),
            (1972, 730 * 24 * HOUR, 366 * 24 * HOUR),
            ("1970-02", 31 * 24 * HOUR, 28 * 24 * HOUR),
            ("2024-02", 19_754 * 24 * HOUR, 29 * 24 * HOUR),
            ("1970-01-02", 24 * HOUR, 24 * HOUR),
            ("1970-01-01T01", HOUR, HOUR),
            ("1970-01-01T01:30", 3 * HOUR // 2, HOUR // 60),
            ("1970-01-01T00:00:01Z", HOUR // 3600, HOUR // 3600),
            ("1970-01-01T00:00:00.25", 250_000_000, 10_000_000),
            ("1970-01-01T00:00:00.000000001", 1, 1),
            ("1970-01-01T08:00+08:00", 0, HOUR // 60),
            ("1969-12-31T20-0330", -HOUR // 2, HOUR),
        ],
    )
    def test_as_long_as_they_are_vague(self, text, start, length):
        assert interval_of(text) == (start, start + length)

    def test_years_beyond_what_files_can_have_are_their_first_or_last_moment(self):
        assert interval_of("0001") == (-(2**63), -(2**63))
        assert interval_of("9999-12-31") == (2**63 - 1, 2**63 - 1)

    @pytest.mark.parametrize(
        "value",
        [
            *("", "yesterday", "24-05", "2024-13", "2023-02-29", "2024-05-01T25", "0000", "2024-5"),
            *("2024-05-01+08:00", "2024-05-01T10:30+99:00", "２０２４", True, None, 20.24, -5),
        ],
    )
    def test_what_is_none_is_refused(self, value):
        with pytest.raises(QueryError, match=r"expected a date in ISO 8601.*2024-05"):
            interval_of(value)


class TestLanguage:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('year >= 2020 and tags = "海边"', And((YEAR, TAG))),
            ("year≥2020 AND tags＝“海边”", And((YEAR, TAG))),
            ("（year＞＝２０２０）and（tags has ‘海边’）", And((YEAR, TAG))),
            ("a <> 1", Compare("a", "!=", 1)),
            ("a ！＝ 1", Compare("a", "!=", 1)),
            ("a == -1.5e-3", Compare("a", "=", -0.0015)),
            ("标签 in （“a”，'b'、null）", In("标签", ("a", "b", None))),
            (r'a = "\"\\\n" ', Compare("a", "=", '"\\n')),
            ("a = ''", Compare("a", "=", "")),
            ("taken >= 2024-05-01T10:30", Compare("taken", ">=", "2024-05-01T10:30")),
            ("in = 1 or `not` = true", Or((Compare("in", "=", 1), Compare("not", "=", True)))),
            ("order = 1 and android.x = FALSE", None),
            ("`a``b` startswith 'x'", Prefix("a`b", "x")),
            ("exists(dc:title) and exists ( gps.lat )", None),
        ],
    )
    def test_as_people_write_it(self, text, expected):
        parsed = parse_where(text)
        assert expected is None or parsed == expected
        assert parse_where(format_where(parsed)) == parsed

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "",
                "expected a condition such as year >= 2020 at column 1 of the filter, got the end",
            ),
            ("year >= ", "expected a value at column 8 of the filter, got the end"),
            ("year >= 海边", "a value at column 9 of the filter, got 海边. Put texts in quotes"),
            ("year 2020", r"a comparison \(= != .*\) at column 6 of the filter, got 2020"),
            (
                '"year" = 1',
                'condition.* at column 1 of the filter, got "year". Put the field first',
            ),
            ('tags = "海边', 'a value at column 8 of the filter, got "海边. Close the quotes'),
            ("(a = 1", r"expected \) at column 7 of the filter, got the end"),
            ("a = 1)", r"and, or, or the end at column 6 of the filter, got \)"),
            ("a = 1 b = 2", "and, or, or the end at column 7 of the filter, got b"),
            ("a = 1 & b = 2", "and, or, or the end at column 7 of the filter, got &"),
            ("a in (1", r"a comma or \) at column 8 of the filter, got the end"),
            ("a in ()", r"expected a value at column 7 of the filter, got \)"),
            ("a startswith 3", "a text in quotes at column 14 of the filter, got 3"),
            ("exists a", r"expected \( at column 8 of the filter, got a"),
            ("a = 1 or", "a condition such as .* at column 9 of the filter, got the end"),
            ("a = 1; DROP TABLE images", "and, or, or the end at column 6 of the filter, got ;"),
            ("a" * 20_001, "at most 20000 characters, got 20001"),
        ],
    )
    def test_what_cannot_be_read_is_told_with_its_column(self, text, message):
        with pytest.raises(QueryError, match=message) as caught:
            parse_where(text)
        assert "\n" not in str(caught.value)

    @given(trees())
    def test_what_is_written_is_read_again(self, where):
        assert repr(parse_where(format_where(where))) == repr(where)

    @given(st.text(st.sampled_from("ab1 =<>!()\"'`,.-“”（）＝andornti海\\\n"), max_size=30))
    def test_any_text_is_read_or_refused_in_our_words(self, text):
        try:
            where = parse_where(text)
        except QueryError:
            return
        assert repr(parse_where(format_where(where))) == repr(where)


class TestJson:
    def test_by_hand(self):
        where = And(
            (
                YEAR,
                Not(In("tags", ("海边", None))),
                Or((Prefix("path", "2024/"), Exists("gps"))),
            )
        )
        form = {
            "and": [
                {"field": "year", "op": ">=", "value": 2020},
                {"not": {"field": "tags", "op": "in", "value": ["海边", None]}},
                {
                    "or": [
                        {"field": "path", "op": "startswith", "value": "2024/"},
                        {"field": "gps", "op": "exists"},
                    ]
                },
            ]
        }
        assert filter_as_json(where) == form
        assert filter_from_json(form) == where
        assert read_where(form) == read_where(format_where(where)) == where

    @given(trees())
    def test_what_is_written_is_read_again(self, where):
        form = json.loads(json.dumps(filter_as_json(where)))
        assert repr(filter_from_json(form)) == repr(where)

    @pytest.mark.parametrize(
        ("form", "message"),
        [
            ([], "a condition in where, got a list"),
            (None, "a condition in where, got nothing"),
            ({}, "the name of a field in where.field, got nothing"),
            ({"field": 3, "op": "="}, "the name of a field in where.field, got 3"),
            ({"field": "a", "op": "~", "value": 1}, 'one of = != .* in where.op, got "~"'),
            ({"field": "a", "op": ["="], "value": 1}, r"one of = != .* in where.op, got a list"),
            ({"field": "a", "op": "="}, "a value in where.value, got nothing"),
            ({"field": "a", "op": "exists", "value": 1}, 'only field, op in where, got "value"'),
            ({"field": "a", "op": "=", "value": 1, "x": 1}, 'only field, op, value .* got "x"'),
            ({"field": "a", "op": "=", "value": [1]}, "a number, a text, .* for a, got a list"),
            ({"field": "a", "op": "in", "value": 1}, "a list in where.value, got 1"),
            ({"field": "a", "op": "in", "value": []}, "one value or more for a in, got none"),
            ({"field": "a", "op": "startswith", "value": 1}, "a text .* start with, got 1"),
            ({"field": "a", "op": "<", "value": None}, "a number or a text after a <, got null"),
            ({"field": "a", "op": "=", "value": float("nan")}, "a finite number for a, got NaN"),
            (
                {"field": "a", "op": "=", "value": 10**400},
                "a finite number for a, got a larger number",
            ),
            (
                {"field": "a", "op": "=", "value": "\ud800"},
                r"a number, a text, .* for a, got .\\ud800",
            ),
            ({"field": "\ud800", "op": "exists"}, r"the name of a field, got .\\ud800"),
            ({"field": "width", "op": "=", "value": "3"}, 'a number for width, got "3"'),
            ({"field": "height", "op": ">", "value": True}, "a number for height, got true"),
            ({"field": "path", "op": "=", "value": 3}, "a text for path, got 3"),
            ({"field": "caption", "op": "=", "value": None}, "a text for caption, got null"),
            ({"field": "width", "op": "startswith", "value": "3"}, 'a number for width, got "3"'),
            (
                {"field": "date", "op": "startswith", "value": "2"},
                "start with, got .2.. Ask for date =",
            ),
            ({"field": "date", "op": "=", "value": "may"}, "a date in ISO 8601, got .may"),
            ({"and": []}, "a list of conditions in where.and, got a list"),
            ({"and": {}}, "a list of conditions in where.and, got an object"),
            ({"or": [{"field": "a", "op": "exists"}, 3]}, r"a condition in where.or\[1\], got 3"),
            ({"not": {}, "and": []}, 'and alone in where, got "not"'),
            ({"not": [1]}, "a condition in where.not, got a list"),
        ],
    )
    def test_what_is_none_is_told_with_its_place(self, form, message):
        with pytest.raises(QueryError, match=message) as caught:
            filter_from_json(form)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250


class TestSize:
    def test_a_thousand_deep_is_refused_in_each_form(self):
        form, where = {"field": "a", "op": "exists"}, Exists("a")
        for _ in range(1_000):
            form, where = {"not": form}, Not(where)
        for deep in (
            lambda: filter_from_json(form),
            lambda: parse_where("not " * 1_000 + "a = 1"),
            lambda: parse_where("not (" * 1_000 + "a = 1" + ")" * 1_000),
            lambda: matches(where, Record(1, picture())),
        ):
            with pytest.raises(QueryError, match="at most 32 conditions in one another"):
                deep()

    def test_32_deep_is_not(self):
        text = "not " * 31 + "year = 2020"
        assert holds(text, metadata={"year": 2020}) is False
        assert filter_from_json(filter_as_json(parse_where(text))) == parse_where(text)
        with pytest.raises(QueryError, match="at most 32"):
            parse_where("not " + text)

    def test_more_conditions_or_values_than_anybody_means_are_refused(self):
        assert parse_where(" or ".join(["a = 1"] * 999))
        with pytest.raises(QueryError, match="at most 1000 conditions"):
            parse_where(" or ".join(["a = 1"] * 1_000))
        with pytest.raises(QueryError, match="10000 values"):
            matches(In("a", tuple(range(10_001))), Record(1, picture()))

    @pytest.mark.parametrize(
        "wrong",
        [lambda: And(()), lambda: Or([TAG]), lambda: Not("a = 1"), lambda: And((TAG, None))],
    )
    def test_what_joins_conditions_needs_some(self, wrong):
        with pytest.raises(QueryError, match=r"expected (one condition or more|conditions) for"):
            wrong()
