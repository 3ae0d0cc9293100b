"""The SQL allowed in a filter: what both kinds of index interpret alike.

SQLite takes a text in double quotes for a text, compares text with numbers, and its LIKE knows no capitals; Lance does
none of that. So a filter is read here first, and what would mean two things is refused.
"""

import re
from collections.abc import Mapping, Sequence

TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))"""
    r"""|(?P<word>[A-Za-z_]\w*|`[^`]+`)|(?P<sign><=|>=|<>|!=|[=<>(),+*]|/(?!\*)|-(?!-))|(?P<other>--|/\*|\S))""",
    re.ASCII,
)
WORDS = {"and", "or", "not", "in", "like", "is", "null", "between", "true", "false", "lower", "upper"}
STATEMENTS = {"=", "<", ">", "<=", ">=", "<>", "!=", "in", "like", "is", "between", "true", "false"}
JOINING = {*STATEMENTS, "not", "("}  # what may stand between a column and the value that it is compared with


class FilterError(ValueError):
    """A filter that cannot be understood."""


def check_filter(where: str, columns: Mapping[str, type]) -> None:
    """Refuse what the two kinds of index do not understand alike.

    Args:
        where: a condition in SQL.
        columns: names and types.

    Raises:
        FilterError: (a ValueError) a word that is no column, a text in double quotes, text compared with a number, or
            no comparison.
    """
    tokens = [(match.lastgroup, match[match.lastgroup]) for match in TOKEN.finditer(where)]
    for kind, token in tokens:
        if kind == "other":
            hint = "texts are written in 'single quotes'" if token == '"' else "it is not known here"
            raise refusal(where, f"{token} cannot be used: {hint}", columns)
        if kind == "word" and token.strip("`").lower() not in WORDS | columns.keys():
            raise refusal(where, f"no column or operator {token}", columns)
    if not any(token.lower() in STATEMENTS for _, token in tokens):
        raise refusal(where, "it compares nothing", columns)
    _check_types(where, tokens, columns)


def _check_types(where: str, tokens: Sequence[tuple[str, str]], columns: Mapping[str, type]) -> None:
    """Refuse a text beside a column of numbers, and the other way round."""
    plain = [(kind, token.strip("`").lower() if kind == "word" else token) for kind, token in tokens]
    for place, (kind, token) in enumerate(plain):
        if kind != "word" or token not in columns:
            continue
        for kind_beside, value in _compared_with(plain, place):
            if kind_beside == ("number" if columns[token] is str else "text"):
                needed = "text, in 'single quotes'" if columns[token] is str else "a number"
                raise refusal(where, f"{token} is compared with {value}, and it is {needed}", columns)


def _compared_with(tokens: Sequence[tuple[str, str]], place: int) -> list[tuple[str, str]]:
    """Texts and numbers that the column at a place is compared with, before it or behind it."""
    found = []
    behind, ahead = tokens[place + 1 :], tokens[place - 1 :: -1] if place else []
    for beside, going_on in ((behind, {",", "-"}), (ahead, set())):
        is_compared, is_list = False, False
        for kind, token in beside:
            if token in JOINING:
                is_compared, is_list = is_compared or token in STATEMENTS, is_list or token in ("in", "between")
            elif kind in ("text", "number") and is_compared:
                found.append((kind, token))
                if not is_list:
                    break
            elif token not in going_on and not (is_list and token == "and" and len(found) == 1):
                break
    return found


def refusal(where: str, reason: str, columns: Mapping[str, type]) -> FilterError:
    """The sentence for a filter that cannot be understood."""
    return FilterError(
        f"The filter {where!r} cannot be understood ({reason}): write SQL over {', '.join(columns)}, such as "
        "\"date >= '2020' AND scene = 'airport'\"."
    )
