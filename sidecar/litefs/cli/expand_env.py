"""Environment variables in the text of litefs.yml, replaced before the YAML is read.

Strategy: the rules are those of LiteFS 0.5, quirks included, for existing files depend on them. There is no default
syntax (`:-`) and no escape; comments are expanded like everything else.

    $NAME, ${NAME}                     the variable; empty when unset
    ${NAME == 'x'}, ${NAME == "x"}     true or false; != likewise
    ${NAME == OTHER}                   compares two variables
    $$, $1, $?, …                      empty: one special character is a name that is never set
    ${} and an unclosed ${             swallowed
    $ before anything else             stays

Source: Go's `os.Expand` and LiteFS 0.5.14, `cmd/litefs/config.go`.
"""

import re
from collections.abc import Mapping

_REFERENCE = re.compile(
    r"\$(?:\{(?P<braced>[^}]*)\}|(?P<unclosed>\{)|(?P<special>[*#$@!?\-0-9])|(?P<plain>\w+))", re.ASCII
)
_COMPARISON = re.compile(r"""(\w+)\s*(==|!=)\s*(?:'(.*)'|"(.*)"|(\w+))""", re.ASCII)


def expand_env(text: str, environment: Mapping[str, str]) -> str:
    """Replaces every reference in `text` by its value in `environment`."""
    return _REFERENCE.sub(lambda match: _value_of(match, environment), text)


def _value_of(match: re.Match[str], environment: Mapping[str, str]) -> str:
    expression = (match["braced"] or match["plain"] or "").strip()
    comparison = _COMPARISON.fullmatch(expression)
    if comparison is None:
        return environment.get(expression, "")
    name, operator, single_quoted, double_quoted, other = comparison.groups()
    literals = [literal for literal in (single_quoted, double_quoted) if literal is not None]
    expected = literals[0] if literals else environment.get(other, "")
    equal = environment.get(name, "") == expected
    return "true" if equal == (operator == "==") else "false"
