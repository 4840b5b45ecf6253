"""Where a command finds the API of a node: by `-url`, or by the configuration of the node on this machine."""

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from litefs.cli import api_client
from litefs.cli.api_token import read_token
from litefs.cli.flags import Arguments, Flag
from litefs.errors import ConfigError

FLAGS = (
    Flag(name="url", value_name="URL", help=f"API of the node; default {api_client.DEFAULT_URL}"),
    Flag(name="config", value_name="PATH", help="configuration of the node on this machine, instead of -url"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAddress:
    """A node's API.

    Attributes:
        url: of the API.
        token: what it asks for; "" for nothing.
    """

    url: str
    token: str


def node_address(parsed: Arguments) -> NodeAddress:
    """Returns what `FLAGS` of a command line say.

    Raises:
        ConfigError: both were given, the configuration is refused, or the token cannot be read.
    """
    url, config_path = parsed.texts["url"], parsed.texts["config"]
    if url and config_path:
        raise ConfigError("-url and -config: expected one of them")
    if not config_path:
        return NodeAddress(url=url or api_client.DEFAULT_URL, token=read_token(os.environ))
    # Reading YAML takes a fifth of a second, which the other way need not pay.
    from litefs.cli.config import load_config  # noqa: PLC0415

    http = load_config(Path(config_path)).http
    return NodeAddress(url=_reachable_url(http.host, http.port), token=read_token(os.environ, http.token_file))


def _reachable_url(host: str, port: int) -> str:
    """Returns the URL, on this machine, of an API that listens on `host`."""
    if not host:
        return f"http://localhost:{port}"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        return f"http://localhost:{port}"
    return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"
