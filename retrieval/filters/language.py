"""Filters as people write them: ``year >= 2020 and tags = "海边"``.

    condition   field = value      also != < <= > >=
                field has value    the same as =, for arrays
                field in (value, value)
                field startswith "text"
                exists(field)
    joined by   not, and, or (in this order), and parentheses
    value       "text", 'text', “text”, 12, -1.5e3, 2024-05 (a date), true, false, null
    field       a key of the metadata, with dots into objects; `any key` where it has spaces

Signs and parentheses may be full-width, as an input method for Chinese types them. The grammar is
lark's, whose parser needs no recursion and knows the column of what it cannot read.
"""

import functools
import json
import re
import unicodedata
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, UnexpectedToken, v_args
from lark.exceptions import UnexpectedCharacters

from retrieval.errors import QueryError
from retrieval.filters.json_form import filter_from_json
from retrieval.filters.shown import clipped
from retrieval.filters.tree import (
    And,
    Compare,
    Exists,
    Filter,
    In,
    Leaf,
    Not,
    Or,
    Prefix,
    Scalar,
    check_size,
)

__all__ = ["MAX_CHARACTERS", "format_where", "parse_where", "read_where"]

MAX_CHARACTERS = 20_000
"""How long a filter may be as a text."""

# A name, or a word of the language, ends where none of these stands.
_NAME = r"[\w:@-]"

_GRAMMAR = rf"""
?start: either
?either: both | both (OR both)+                  -> either
?both: one | one (AND one)+                      -> both
?one: NOT one                                    -> negate
    | LEFT either RIGHT                          -> inner
    | field COMPARISON value                     -> compare
    | field HAS value                            -> compare
    | field IN LEFT value (COMMA value)* RIGHT   -> within
    | field STARTSWITH TEXT                      -> starts
    | EXISTS LEFT field RIGHT                    -> exists
field: NAME | QUOTED_NAME
value: TEXT | NUMBER | DATE | WORD

OR.2: /or(?!{_NAME}|\.)/i
AND.2: /and(?!{_NAME}|\.)/i
NOT.2: /not(?!{_NAME}|\.)/i
HAS.2: /has(?!{_NAME}|\.)/i
IN.2: /in(?!{_NAME}|\.)/i
STARTSWITH.2: /startswith(?!{_NAME}|\.)/i
EXISTS.2: /exists(?!{_NAME}|\.)/i
WORD.2: /(true|false|null)(?!{_NAME}|\.)/i
COMPARISON: /[!！][=＝]|[<＜][=＝>＞]|[>＞][=＝]|[=＝]{{1,2}}|[<＜>＞≤≥≦≧≠]/
LEFT: /[(（]/
RIGHT: /[)）]/
COMMA: /[,，、]/
TEXT: /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[“”][^“”]*[“”]|[‘’][^‘’]*[‘’]|＂[^＂]*＂|＇[^＇]*＇/s
NUMBER: /[-+－＋]?(\d+([.．]\d+)?|[.．]\d+)([eE][-+]?\d+)?(?!{_NAME}|\.)/
DATE.1: /\d{{4}}-\d\d(-\d\d(T\d\d(:\d\d(:\d\d(\.\d+)?)?)?(Z|[+-]\d\d(:?\d\d)?)?)?)?(?!{_NAME}|\.)/
NAME: /[^\W\d]{_NAME}*(\.{_NAME}+)*/
QUOTED_NAME: /`(?:[^`]|``)*`/s
%ignore /\s+/
"""

_BARE_NAME = re.compile(rf"[^\W\d]{_NAME}*(\.{_NAME}+)*")
_RESERVED = frozenset(
    {"or", "and", "not", "has", "in", "startswith", "exists", "true", "false", "null"}
)
_OPERATORS = {"==": "=", "<>": "!=", "≤": "<=", "≥": ">=", "≦": "<=", "≧": ">=", "≠": "!="}
_WORDS: dict[str, Scalar] = {"true": True, "false": False, "null": None}

# What can stand where something else does, in the order in which messages name it.
_EXPECTED = (
    ({"NAME", "NOT"}, "a condition such as year >= 2020"),
    ({"NAME"}, "a field"),
    ({"COMPARISON"}, "a comparison (= != < <= > >= has in startswith)"),
    ({"NUMBER"}, "a value"),
    ({"TEXT"}, "a text in quotes"),
    ({"AND"}, "and, or, or the end"),
    ({"OR"}, "and, or, or the end"),
    ({"$END"}, "and, or, or the end"),
    ({"COMMA"}, "a comma or )"),
    ({"LEFT"}, "("),
    ({"RIGHT"}, ")"),
)


def parse_where(text: str) -> Filter:
    """Read a filter in the language of this module.

    Args:
        text: Such as ``year >= 2020 and tags = "海边"``.

    Raises:
        QueryError: If it cannot be read; the message says at which column, counted from 1.
    """
    if len(text) > MAX_CHARACTERS:
        raise QueryError(
            f"expected a filter of at most {MAX_CHARACTERS} characters, got {len(text)}. "
            "Ask for less at once."
        )
    try:
        where: Filter = _parser().parse(text)  # type: ignore[assignment]  # by _Builder, a filter
    except UnexpectedInput as error:
        raise _unreadable(text, error) from error
    check_size(where)
    return where


def read_where(form: str | dict[str, Any]) -> Filter:
    """Read a filter in whichever form it is written: a text in the language, or parsed JSON.

    Raises:
        QueryError: If it cannot be read.
    """
    return parse_where(form) if isinstance(form, str) else filter_from_json(form)


def format_where(where: Filter) -> str:
    """Write a filter in the language; :func:`parse_where` reads the same filter from it."""
    match where:
        case And():
            return " and ".join(map(_inner, where.operands))
        case Or():
            return " or ".join(map(_inner, where.operands))
        case Not():
            return f"not {_inner(where.operand)}"
        case _:
            return _format_leaf(where)


def _inner(operand: Filter) -> str:
    """Write a condition within another, in parentheses if it joins some itself."""
    written = format_where(operand)
    return f"({written})" if isinstance(operand, And | Or) else written


def _format_leaf(leaf: Leaf) -> str:
    field = _format_name(leaf.field)
    match leaf:
        case Exists():
            return f"exists({field})"
        case Compare():
            return f"{field} {leaf.op} {_format_value(leaf.value)}"
        case In():
            return f"{field} in ({', '.join(map(_format_value, leaf.values))})"
        case Prefix():
            return f"{field} startswith {_format_value(leaf.prefix)}"


def _format_name(name: str) -> str:
    if _BARE_NAME.fullmatch(name) and name.lower() not in _RESERVED:
        return name
    return "`" + name.replace("`", "``") + "`"


def _format_value(value: Scalar) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return json.dumps(value)


@v_args(inline=True)
class _Builder(Transformer[Token, Filter]):
    """Makes the tree while the text is read."""

    def field(self, token: Token) -> str:
        name = str(token)
        return name[1:-1].replace("``", "`") if token.type == "QUOTED_NAME" else name

    def value(self, token: Token) -> Scalar:
        text = str(token)
        if token.type == "WORD":
            return _WORDS[text.lower()]
        if token.type == "TEXT":
            return _unquoted(text)
        if token.type == "DATE":
            return text
        text = unicodedata.normalize("NFKC", text)
        try:
            return int(text)
        except ValueError:
            return float(text)

    def compare(self, field: str, op: Token, value: Scalar) -> Filter:
        sign = "=" if op.type == "HAS" else unicodedata.normalize("NFKC", str(op))
        return Compare(field, _OPERATORS.get(sign, sign), value)  # type: ignore[arg-type]

    def within(self, field: str, _in: Token, _left: Token, *rest: Scalar) -> Filter:
        return In(field, tuple(rest[:-1:2]))  # commas stand between

    def starts(self, field: str, _startswith: Token, text: Token) -> Filter:
        return Prefix(field, _unquoted(str(text)))

    def exists(self, _exists: Token, _left: Token, field: str, _right: Token) -> Filter:
        return Exists(field)

    def negate(self, _not: Token, operand: Filter) -> Filter:
        return Not(operand)

    def inner(self, _left: Token, operand: Filter, _right: Token) -> Filter:
        return operand

    def both(self, *operands: Filter | Token) -> Filter:
        return And(_conditions(operands))

    def either(self, *operands: Filter | Token) -> Filter:
        return Or(_conditions(operands))


def _conditions(operands: tuple[Filter | Token, ...]) -> tuple[Filter, ...]:
    """Leave out the words between conditions."""
    return tuple(operand for operand in operands if not isinstance(operand, Token))


@functools.cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", transformer=_Builder(), maybe_placeholders=False)


def _unquoted(text: str) -> str:
    inner = text[1:-1]
    return re.sub(r"\\(.)", r"\1", inner, flags=re.DOTALL) if text[0] in "\"'" else inner


def _unreadable(text: str, error: UnexpectedInput) -> QueryError:
    """Say what was expected in which column, and what stands there."""
    place = error.pos_in_stream if error.pos_in_stream is not None else len(text)
    rest = text[place:].split(maxsplit=1)
    got = clipped(rest[0]) if rest else "the end"
    if isinstance(error, UnexpectedToken):
        possible = set(error.accepts or error.expected)
        place = len(text.rstrip()) if error.token.type == "$END" else place
        got = "the end" if error.token.type == "$END" else got
    else:
        possible = set(error.allowed or ()) if isinstance(error, UnexpectedCharacters) else set()
    expected = next((what for names, what in _EXPECTED if names <= possible), "something else")
    remedy = "See docs/filters.md for the language"
    if got[:1] in set("\"'“”‘’"):
        remedy = "Close the quotes" if expected == "a value" else "Put the field first, unquoted"
    elif expected == "a value":
        remedy = "Put texts in quotes"
    return QueryError(
        f"expected {expected} at column {place + 1} of the filter, got {got}. {remedy}."
    )
