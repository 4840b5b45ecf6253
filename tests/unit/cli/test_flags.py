"""The command line's syntax."""

import pytest

from litefs.cli.flags import Flag, HelpRequestedError, Usage
from litefs.errors import ConfigError

USAGE = Usage(
    synopsis="litefs x [flags] [WORD]",
    text="Does x.",
    flags=(
        Flag(name="config", value_name="PATH", help="a file", default="d"),
        Flag(name="fuse.debug", help="a switch"),
        Flag(name="v", help="another"),
    ),
    word_n=(0, 1),
    takes_command=True,
)
REQUIRED = Usage(
    synopsis="x", text="x", flags=(Flag(name="name", value_name="N", help="", required=True),), word_n=(1, 1)
)


@pytest.mark.parametrize("arguments", [["-config", "p"], ["-config=p"], ["--config", "p"], ["--config=p"]])
def test_takes_a_value_in_four_ways(arguments: list[str]) -> None:
    assert USAGE.parse(arguments).texts == {"config": "p"}


def test_a_value_may_be_empty_or_hold_an_equals_sign() -> None:
    assert USAGE.parse(["-config="]).texts["config"] == ""
    assert USAGE.parse(["-config=a=b"]).texts["config"] == "a=b"
    assert USAGE.parse(["-config", "-v"]).texts["config"] == "-v"


def test_without_flags_defaults_hold() -> None:
    parsed = USAGE.parse([])
    assert parsed.texts == {"config": "d"}
    assert parsed.switches == frozenset()
    assert (parsed.words, parsed.command) == ([], None)


@pytest.mark.parametrize(
    ("arguments", "switches"),
    [
        (["-fuse.debug"], {"fuse.debug"}),
        (["--fuse.debug", "-v=true"], {"fuse.debug", "v"}),
        (["-v", "-v=false"], set()),
        (["-v=0", "-fuse.debug=T"], {"fuse.debug"}),
    ],
)
def test_switches_are_on_or_off(arguments: list[str], switches: set[str]) -> None:
    assert USAGE.parse(arguments).switches == switches


def test_what_follows_two_dashes_is_the_command() -> None:
    parsed = USAGE.parse(["-v", "w", "--", "app", "-v", "--", "x"])
    assert parsed.words == ["w"]
    assert parsed.command == ["app", "-v", "--", "x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-nope"], "flag provided but not defined: -nope"),
        (["-config"], "flag needs an argument: -config"),
        (["-v=maybe"], 'invalid boolean value "maybe" for -v'),
        (["a", "b"], "too many arguments: b; a command goes behind --"),
        (["a", "-v"], "too many arguments: -v"),
        (["--"], "no command behind --"),
    ],
)
def test_refuses_what_it_does_not_know(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        USAGE.parse(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["p"], "required: -name N"),
        (["-name=n"], "too few arguments"),
        (["-name=n", "p", "--", "x"], "no command is taken behind --"),
    ],
)
def test_refuses_what_is_missing(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        REQUIRED.parse(arguments)


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_shows_every_flag(flag: str) -> None:
    with pytest.raises(HelpRequestedError) as caught:
        USAGE.parse([flag])
    text = str(caught.value)
    assert text.startswith("usage: litefs x [flags] [WORD]\n\nDoes x.\n")
    assert "  -config PATH\n        a file (default d)" in text
    assert "  -fuse.debug\n        a switch" in text
