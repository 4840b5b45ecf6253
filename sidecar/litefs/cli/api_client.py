"""The commands' way to a node's HTTP API: plain HTTP/1.1 with the standard library, each wait with a bound."""

import http.client
import os
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from litefs.cli.api_token import read_token
from litefs.deadline import Deadline
from litefs.errors import ConfigError, PeerError

DEFAULT_URL = "http://localhost:20202"
# Between two pieces of an answer. The longest silence is a primary that takes in a large import before it answers.
SILENCE_S_MAX = 300.0
_ERROR_BODY_BYTES_MAX = 4096


class Readable(Protocol):
    """A request body."""

    def read(self, size: int = -1, /) -> bytes:
        """Returns the next bytes, none at the end."""


@contextmanager
def request(
    base_url: str,
    method: str,
    path: str,
    *,
    query: dict[str, str] | None = None,
    body: Readable | None = None,
    body_bytes: int = 0,
    silence_s: float | None = None,
    token: str | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """Sends one request and hands out the response, whose status is 200; closes the connection afterwards.

    Args:
        base_url: of the node, such as `http://localhost:20202`.
        method: GET or POST.
        path: of the endpoint.
        query: parameters.
        body: what to send.
        body_bytes: its length.
        silence_s: longest wait for a connection, for the answer's head, or for the next bytes; None: `SILENCE_S_MAX`.
        token: what the node's API asks for; None: the one of the environment, if there is one.

    Raises:
        ConfigError: `base_url` is no http URL, or the token in the environment is none.
        PeerError: the node cannot be reached, went silent, or answered with an error; the message carries its words.
    """
    wait_s = SILENCE_S_MAX if silence_s is None else silence_s
    connection = _connection(base_url, wait_s)
    headers = {"Content-Length": str(body_bytes)} if body is not None else {}
    if token is None:
        token = read_token(os.environ)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    target = path + ("?" + urllib.parse.urlencode(query) if query else "")
    where = f"{base_url}{path}"
    with ExitStack() as opened:
        opened.callback(connection.close)
        try:
            try:
                _send(connection, method, target, body, headers)
                response = _response(connection, wait_s, where, opened)
            except OSError as error:
                raise PeerError(f"{where}: {error.strerror or error}") from error
            yield response
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            # Of reading the response. Other OSErrors are the caller's, from what it does with the bytes.
            raise PeerError(f"{where}: {str(error) or type(error).__name__}") from error


def _connection(base_url: str, silence_s: float) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(base_url)
    try:
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"-url {base_url}: {error}") from error
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f'-url {base_url}: expected a URL such as "{DEFAULT_URL}"')
    return http.client.HTTPConnection(parts.hostname, port or 80, timeout=silence_s, blocksize=1 << 20)


def _send(
    connection: http.client.HTTPConnection, method: str, target: str, body: Readable | None, headers: dict[str, str]
) -> None:
    try:
        connection.request(method, target, body=body, headers=headers)
    except (BrokenPipeError, ConnectionResetError):
        if connection.sock is None:
            raise  # there never was a connection
        # The node answered before it had read everything, most likely with a refusal that says why.


def _response(
    connection: http.client.HTTPConnection, wait_s: float, where: str, opened: ExitStack
) -> http.client.HTTPResponse:
    with Deadline(connection.sock, wait_s, "answer"):
        response = opened.enter_context(connection.getresponse())
        if response.status != http.HTTPStatus.OK:
            text = response.read(_ERROR_BODY_BYTES_MAX).decode(errors="replace").strip()
            raise PeerError(f"{where}: {response.status} {text or response.reason}")
    return response
