"""Where the token comes from, and what is none."""

from pathlib import Path

import pytest

from litefs.cli.api_token import TOKEN_BYTES_MAX, read_token
from litefs.errors import ConfigError

TOKEN = "correct-horse-battery"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


def test_there_need_be_none() -> None:
    assert read_token({}) == ""


def test_it_comes_from_the_file_the_variable_or_the_file_that_a_variable_names(path: Path) -> None:
    assert read_token({"LITEFS_TOKEN": "of-the-environment"}, str(path)) == TOKEN
    assert read_token({"LITEFS_TOKEN": "of-the-environment", "LITEFS_TOKEN_FILE": str(path)}) == "of-the-environment"
    assert read_token({"LITEFS_TOKEN_FILE": str(path)}) == TOKEN


@pytest.mark.parametrize("text", ["", "short", "fifteen-letters", "a" * (TOKEN_BYTES_MAX + 1), "two words of it all",
                                  "schlüssel-zum-cluster", "a\nb-a-token-of-two-lines"])  # fmt: skip
def test_what_is_no_token_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"^token: "):
        read_token({}, str(path))


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_token({"LITEFS_TOKEN_FILE": f"{path}-not"})
