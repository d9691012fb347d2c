"""Regular expressions made exact; runs without vLLM."""

import re

import pytest

from vgate.engine.backends.json_schema.patterns import (
    MalformedError,
    UnsupportedError,
    searched,
    whole,
)

ANY = r"[^\x00]*"


@pytest.mark.parametrize(
    ("pattern", "exact"),
    [
        ("^ab$", "(?:ab)"),
        ("ab", f"(?:{ANY}ab{ANY})"),
        ("^a|b$", f"(?:a{ANY}|{ANY}b)"),
        ("(^a|b$)", f"(?:a{ANY}|{ANY}b)"),
        ("^(a|b)$", "(?:(?:a|b))"),
        ("", f"(?:{ANY}{ANY})"),
        ("^^a$$", "(?:a)"),
        ('^"$', r"(?:\x{22})"),
        ("^\n$", r"(?:\x{a})"),
        (r"^\n\t\\\/\-$", r"(?:\x{a}\x{9}\x{5c}\x{2f}\x{2d})"),
        (r"^\x41\u0042\u{43}\cA$", r"(?:ABC\x{1})"),
        (r"^\ud83d\ude00$", r"(?:\x{1f600})"),
        ("^a{2}b{3,}c{4,5}?d*?e+?$", "(?:a{2}b{3,}c{4,5}d*e+)"),
        ("^{a}]$", r"(?:\x{7b}a\x{7d}\x{5d})"),
        ("^(?:a)(?<n>b)(?P<m>c)$", "(?:(?:a)(?:b)(?:c))"),
    ],
)
def test_a_pattern_becomes_one_of_whole_texts(pattern: str, exact: str):
    assert searched(pattern) == exact


def test_a_whole_pattern_needs_no_anchors():
    assert whole("a|^b$") == "(?:a|b)"


@pytest.mark.parametrize(
    ("pattern", "members"),
    [
        (r"[\d]", "0-9"),
        (r"[^\d]", r"^\p{Nd}"),
        (r"[\D]", r"[^\p{Nd}]"),
        (r"[^\D]", "^[^0-9]"),
        (r"[a\-z&]", r"a-a\x{2d}-\x{2d}z-z\x{26}-\x{26}"),
        (r"[a-c\]\[]", r"a-c\x{5d}-\x{5d}\x{5b}-\x{5b}"),
        (r"[\x00-\x1f-]", r"\x{1}-\x{1f}\x{2d}-\x{2d}"),
    ],
)
def test_a_class_has_no_nul_and_what_all_dialects_have(pattern: str, members: str):
    shown = whole(pattern).removeprefix("(?:[[").removesuffix(r"]&&[^\x00]])")
    assert shown == members


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ("(?=a)b", "look-ahead (`(?=`)"),
        ("(?!a)b", "look-ahead (`(?!`)"),
        ("(?<=a)b", "look-behind (`(?<=`)"),
        ("(?<!a)b", "look-behind (`(?<!`)"),
        (r"(a)\1", r"back-references (`\1`)"),
        (r"(?<n>a)\k<n>", r"back-references (`\k`)"),
        (r"\bword\B", r"word boundaries (`\b`)"),
        ("(?i)a", "`(?i`"),
        ("(?>a)", "`(?>`"),
        ("a^b", "`^`"),
        ("a$b", "`$`"),
        ("(^a)+", "`^`"),
        ("x(^a|b)", "`^`"),
        (r"\Aa\Z", r"`\A`"),
        ("[]a]", "a class that begins with `]`"),
        ("a++", "after a quantifier"),
        ("a{,3}", "`{,`"),
        (r"\ud800", "surrogate"),
        (r"[\d-z]", "range"),
        (r"\x00", "NUL"),
        ("(" * 200 + ")" * 200, "nested"),
    ],
)
def test_what_cannot_be_followed_is_named(pattern: str, part: str):
    with pytest.raises(UnsupportedError, match=re.escape(part)):
        searched(pattern)


@pytest.mark.parametrize(
    "pattern", ["(a", "a)", "[a", "*a", "a{3,2}", "[z-a]", "a\\", r"\u{110000}"]
)
def test_what_is_no_regular_expression_is_malformed(pattern: str):
    with pytest.raises(MalformedError):
        searched(pattern)
