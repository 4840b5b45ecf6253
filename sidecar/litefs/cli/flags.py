"""Command-line flags in the syntax of Go's `flag` package, which scripts written for LiteFS 0.5 use.

    -name VALUE   -name=VALUE   --name VALUE   --name=VALUE      text
    -name   -name=false                                          switch
    --                                                           everything after it is the command

The first word ends the flags.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from litefs.errors import ConfigError

_TRUE_WORDS = frozenset({"1", "t", "true"})
_FALSE_WORDS = frozenset({"0", "f", "false"})


class HelpRequestedError(ConfigError):
    """The usage was asked for; the message is the usage text. Nothing was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag.

    Attributes:
        name: without dashes.
        help: what it does, for the usage text.
        value_name: what stands for its value there; empty makes it a switch.
        default: of a text flag.
        required: a text flag that must be given.
    """

    name: str
    help: str
    value_name: str = ""
    default: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What a command line said.

    Attributes:
        texts: value of every text flag.
        switches: names of the switches that are on.
        words: what is no flag.
        command: what follows `--`, None without it.
    """

    texts: dict[str, str]
    switches: frozenset[str]
    words: list[str]
    command: list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A command: its flags and its usage text.

    Attributes:
        synopsis: the line after "usage:".
        text: what it does, with examples and exit codes.
        flags: in the order of the usage text.
        word_n: how many words it takes: (at least, at most); None for no upper bound.
        takes_command: `-- CMD…` is allowed.
    """

    synopsis: str
    text: str
    flags: Sequence[Flag] = ()
    word_n: tuple[int, int | None] = (0, 0)
    takes_command: bool = False

    def render(self) -> str:
        """Returns the usage text."""
        lines = [f"usage: {self.synopsis}", "", self.text.strip()]
        if self.flags:
            lines += ["", "flags:"]
        for flag in self.flags:
            default = f" (default {flag.default})" if flag.default else ""
            lines += [f"  -{flag.name} {flag.value_name}".rstrip(), f"        {flag.help}{default}"]
        return "\n".join(lines)

    def parse(self, arguments: Sequence[str]) -> Arguments:
        """Reads a command line.

        Raises:
            HelpRequestedError: -h or -help was given.
            ConfigError: an unknown flag, a missing value, or words that the command does not take.
        """
        rest = list(arguments)
        command = None
        if "--" in rest:
            command = rest[rest.index("--") + 1 :]
            del rest[rest.index("--") :]
        known = {flag.name: flag for flag in self.flags}
        texts = {flag.name: flag.default for flag in self.flags if flag.value_name}
        switches: set[str] = set()
        while rest and rest[0].startswith("-") and rest[0] != "-":
            name, equals, value = rest.pop(0).removeprefix("-").removeprefix("-").partition("=")
            if name in {"h", "help"}:
                raise HelpRequestedError(self.render())
            if name not in known:
                raise ConfigError(f"flag provided but not defined: -{name}\n\n{self.render()}")
            if not known[name].value_name:
                _set_switch(switches, name, value if equals else "true")
                continue
            if not equals and not rest:
                raise ConfigError(f"flag needs an argument: -{name}")
            texts[name] = value if equals else rest.pop(0)
        self._check(texts, rest, command)
        return Arguments(texts=texts, switches=frozenset(switches), words=rest, command=command)

    def _check(self, texts: dict[str, str], words: list[str], command: list[str] | None) -> None:
        for flag in self.flags:
            if flag.required and not texts[flag.name]:
                raise ConfigError(f"required: -{flag.name} {flag.value_name}\n\n{self.render()}")
        at_least, at_most = self.word_n
        if at_most is not None and len(words) > at_most:
            hint = "; a command goes behind --" if self.takes_command else ""
            raise ConfigError(f"too many arguments: {' '.join(words[at_most:])}{hint}\n\n{self.render()}")
        if len(words) < at_least:
            raise ConfigError(f"too few arguments\n\n{self.render()}")
        if command is not None and not (self.takes_command and command):
            problem = "no command behind --" if self.takes_command else "no command is taken behind --"
            raise ConfigError(f"{problem}\n\n{self.render()}")


def _set_switch(switches: set[str], name: str, value: str) -> None:
    if value.lower() in _TRUE_WORDS:
        switches.add(name)
    elif value.lower() in _FALSE_WORDS:
        switches.discard(name)
    else:
        raise ConfigError(f'invalid boolean value "{value}" for -{name}')
