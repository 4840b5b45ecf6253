"""Where commands find the API of a node."""

from pathlib import Path

import pytest

from litefs.cli.api_client import DEFAULT_URL
from litefs.cli.flags import Usage
from litefs.cli.node_address import FLAGS, NodeAddress, node_address
from litefs.errors import ConfigError

TOKEN = "s3cret-s3cret-s3cret"
USAGE = Usage(synopsis="test", text="", flags=FLAGS)


def address_of(*arguments: str) -> NodeAddress:
    return node_address(USAGE.parse(arguments))


def test_without_flags_it_is_the_node_of_this_machine() -> None:
    assert address_of() == NodeAddress(url=DEFAULT_URL, token="")


def test_a_url_is_taken_as_it_is_with_the_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITEFS_TOKEN", TOKEN)
    assert address_of("-url", "http://replica:1") == NodeAddress(url="http://replica:1", token=TOKEN)


@pytest.mark.parametrize(
    ("listens_on", "url"),
    [
        (":20302", "http://localhost:20302"),
        ("0.0.0.0:20302", "http://localhost:20302"),
        ("[::]:20302", "http://localhost:20302"),
        ("127.0.0.1:20302", "http://127.0.0.1:20302"),
        ("[fd00::1]:20302", "http://[fd00::1]:20302"),
        ("10.0.0.7:1", "http://10.0.0.7:1"),
        ("node-1.litefs:1", "http://node-1.litefs:1"),
    ],
)
def test_the_configuration_says_where_the_node_listens(tmp_path: Path, listens_on: str, url: str) -> None:
    config = tmp_path / "litefs.yml"
    config.write_text(f'http:\n  addr: "{listens_on}"\nlease:\n  type: static\n')
    assert address_of("-config", str(config)).url == url


def test_the_configuration_says_which_token_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITEFS_TOKEN", "another-token-of-mine")
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    config = tmp_path / "litefs.yml"
    config.write_text(f'http:\n  token-file: "{token_file}"\nlease:\n  type: static\n')
    assert address_of("-config", str(config)).token == TOKEN


def test_a_token_file_that_is_gone_is_named(tmp_path: Path) -> None:
    config = tmp_path / "litefs.yml"
    config.write_text(f'http:\n  token-file: "{tmp_path}/gone"\nlease:\n  type: static\n')
    with pytest.raises(ConfigError, match="gone"):
        address_of("-config", str(config))
