"""References to variables in litefs.yml, by the rules of Go's os.Expand and LiteFS."""

import pytest

from litefs.cli.expand_env import expand_env

ENVIRONMENT = {"NAME": "x", "OTHER": "x", "QUOTED": "it's", "EMPTY": "", "_U1": "u"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$NAME", "x"),
        ("${NAME}", "x"),
        ("${ NAME }", "x"),
        ("a${NAME}b$NAME.c", "axbx.c"),
        ("$_U1-", "u-"),
        ("# $NAME", "# x"),
        ("$UNSET|${UNSET}", "|"),
        ("${UNSET:-default}", ""),
        ("$$", ""),
        ("$$NAME", "NAME"),
        ("$1NAME", "NAME"),
        ("${*}", ""),
        ("${}", ""),
        ("${NAME", "NAME"),
        ("5$", "5$"),
        ("$ NAME $.", "$ NAME $."),
        ("\\$NAME", "\\x"),
        ("${NAME\n}", "x"),
        ("no reference", "no reference"),
    ],
)
def test_expands_as_go_does(text: str, expected: str) -> None:
    assert expand_env(text, ENVIRONMENT) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("NAME == 'x'", "true"),
        ("NAME == 'y'", "false"),
        ("NAME != 'y'", "true"),
        ('NAME == "x"', "true"),
        ('QUOTED == "it\'s"', "true"),
        ("NAME == OTHER", "true"),
        ("NAME != OTHER", "false"),
        ("NAME==OTHER", "true"),
        (" NAME  ==  'x' ", "true"),
        ("UNSET == ''", "true"),
        ("UNSET == EMPTY", "true"),
        ("NAME == 'x' ", "true"),
        ("NAME === 'x'", ""),
        ("NAME == 'x", ""),
    ],
)
def test_compares_in_braces(expression: str, expected: str) -> None:
    assert expand_env("${" + expression + "}", ENVIRONMENT) == expected


def test_compares_only_in_braces() -> None:
    assert expand_env("$NAME == 'x'", ENVIRONMENT) == "x == 'x'"


def test_does_not_expand_what_a_variable_holds() -> None:
    assert expand_env("$A", {"A": "$B ${B}", "B": "b"}) == "$B ${B}"
