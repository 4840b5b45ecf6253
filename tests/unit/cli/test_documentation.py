"""What the guides say about keys, commands and exit codes is what the code does."""

import re
from pathlib import Path

import pytest

from litefs.cli import exit_codes
from litefs.cli.config_models import NOT_BUILT_YET, Config, Section
from litefs.cli.main import _COMMAND_MODULES, _NOT_BUILT_YET

REPOSITORY = Path(__file__).parents[3]
CONFIGURATION = (REPOSITORY / "docs/configuration.md").read_text()
# Sections whose keys the guide names together.
DOCUMENTED_AS_A_WHOLE = ("proxy", "backup")


def dotted_keys(section: type[Section], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        dotted = prefix + name.replace("_", "-")
        inner = field.annotation
        if dotted in DOCUMENTED_AS_A_WHOLE or not (isinstance(inner, type) and issubclass(inner, Section)):
            keys.append(dotted)
        else:
            keys += dotted_keys(inner, dotted + ".")
    return keys


def rows() -> dict[str, str]:
    """Key → the rest of its row in the guide."""
    found = {}
    for line in CONFIGURATION.splitlines():
        if line.startswith("| `"):
            keys, rest = line.split(" | ", 1)
            found.update(dict.fromkeys(re.findall(r"`([^`]+)`", keys), rest))
    return found


def test_the_guide_lists_exactly_the_keys_that_exist() -> None:
    assert sorted(rows()) == sorted(dotted_keys(Config))


@pytest.mark.parametrize("key", NOT_BUILT_YET)
def test_the_guide_marks_what_is_refused(key: str) -> None:
    assert "*not yet*" in rows()[key]


def test_the_readme_shows_every_command() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert set(re.findall(r"^\| `litefs (\w+)", readme, re.MULTILINE)) == set(_COMMAND_MODULES)
    for name in _NOT_BUILT_YET:
        assert f"`litefs {name}`" in readme


def test_the_guide_lists_the_exit_codes() -> None:
    guide = (REPOSITORY / "docs/operation.md").read_text()
    codes = {line.split("|")[1].strip() for line in guide.splitlines() if re.match(r"\| (\d+|N) \|", line)}
    assert codes == {"0", "N", *map(str, (exit_codes.FAILURE, exit_codes.REFUSED, exit_codes.DISK_LOST))}
