"""The only door to Consul: the few requests that a lease needs, each with a time limit and one kind of error.

Strategy: python-consul2's standard client, one per thread, for it is one `requests` session. What it gets wrong is
put right here: environment variables that override its arguments, a session TTL in whole seconds of at least ten,
transport errors that are those of `requests`, time-outs for each wait that nothing bounds together, and an index that
a proxy may have stripped.

Source: Consul 1.22 HTTP API, /v1/kv, /v1/session, /v1/catalog; LiteFS 0.5.14, consul/consul.go.
"""

import base64
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

from litefs.deadline import Deadline
from litefs.errors import ConfigError, LeaseLostError, LeaseUnavailableError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # invalid escapes in its docstrings
    import consul
    import requests
    from consul.base import CB
    from requests.adapters import HTTPAdapter

DEFAULT_PORTS = {"http": 8500, "https": 8501}
_EXPECTED_URL = (
    "lease.consul.url: expected http://HOST:PORT or https://HOST:PORT, and / ? # of a token written as %2F %3F %23"
)
WAIT_SLACK_S = 3.0
"""A blocking query may take a sixteenth longer than asked for; this is for the way there and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulAddress:
    """Where Consul is and how to get in.

    Attributes:
        base_url: scheme, host and port.
        prefix: leads every key, and names the catalog's node that sessions belong to; "" for the agent's own node.
        token: of the ACL; "" for none.
        verify: the file of the certificate authority, or whether to verify at all.
        certificate: files of this client's certificate and key; None for none.
    """

    base_url: str
    prefix: str = ""
    token: str = ""
    verify: str | bool = True
    certificate: tuple[str, str] | None = None

    @classmethod
    def parse(cls, url: str, environment: Mapping[str, str]) -> "ConsulAddress":
        """Reads `http(s)://user:TOKEN@host:port/prefix`, and what LiteFS takes from Consul's own variables.

        Args:
            url: the user's.
            environment: CONSUL_HTTP_TOKEN, CONSUL_CACERT, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY and
                CONSUL_HTTP_SSL_VERIFY count; a token in the URL wins.

        Raises:
            ConfigError: it is no such URL, or the token is none. The token is not named.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ConfigError(_EXPECTED_URL) from None  # the reason may quote a part of the token
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ConfigError(_EXPECTED_URL)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        verify: str | bool = environment.get("CONSUL_CACERT") or True
        if environment.get("CONSUL_HTTP_SSL_VERIFY", "").lower() in ("false", "0"):
            verify = False
        certificate_path = environment.get("CONSUL_CLIENT_CERT", "")
        key_path = environment.get("CONSUL_CLIENT_KEY", "")
        if bool(certificate_path) != bool(key_path):
            raise ConfigError("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY must be set together")
        token = (unquote(parts.password or "") or environment.get("CONSUL_HTTP_TOKEN", "")).strip()
        if not all("!" <= character <= "~" for character in token):
            raise ConfigError("the token for Consul: expected printable ASCII characters without spaces")
        return cls(
            base_url=f"{parts.scheme}://{host}:{port or DEFAULT_PORTS[parts.scheme]}",
            prefix=unquote(parts.path).strip("/"),
            token=token,
            verify=verify,
            certificate=(certificate_path, key_path) if certificate_path else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key of the KV store.

    Attributes:
        session: that has it locked; "" for none.
        index: of its last change; what `cas` compares.
    """

    key: str
    value: bytes
    session: str
    index: int


class ConsulClient:
    """One connection to Consul, for one thread."""

    def __init__(self, address: ConsulAddress, timeout_s: float) -> None:
        """Args: timeout_s: longest time that a request may take, with its answer."""
        hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("CONSUL_HTTP_")}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of parts that are not used here
                client = consul.Consul(verify=address.verify, cert=address.certificate, timeout=timeout_s)
        finally:
            os.environ.update(hidden)
        self._http: Any = client.http
        self._http.base_uri = address.base_url
        # A lease must not depend on the variables for proxies, nor on a .netrc.
        self._http.session.trust_env = False
        self._http.session.mount(address.base_url, _WholeAnswers(pool_connections=1, pool_maxsize=1))
        self._headers = {"X-Consul-Token": address.token} if address.token else {}
        self._timeout_s = timeout_s
        self._base_url = address.base_url

    # ---- sessions ----

    def create_session(self, body: Mapping[str, object]) -> str:
        """Makes a session and returns its id. Source: PUT /v1/session/create."""
        answer = self._request(self._http.put, CB.json(), "/v1/session/create", data=json.dumps(body))
        return str(answer["ID"])

    def renew_session(self, session: str) -> bool:
        """Renews a session. Returns False if there is no such session any more."""
        return bool(self._request(self._http.put, _is_found, f"/v1/session/renew/{session}"))

    def has_session(self, session: str) -> bool:
        """Returns whether a session is alive. Source: GET /v1/session/info."""
        self._http.timeout = self._timeout_s
        return bool(self._request(self._http.get, CB.json(), f"/v1/session/info/{session}"))

    def destroy_session(self, session: str) -> None:
        """Ends a session: the keys that it has locked are deleted."""
        self._request(self._http.put, CB.bool(), f"/v1/session/destroy/{session}")

    def register_node(self, name: str) -> None:
        """Puts a node into the catalog that sessions can belong to."""
        body = json.dumps({"Node": name, "Address": "localhost"})
        self._request(self._http.put, CB.bool(), "/v1/catalog/register", data=body)

    # ---- keys ----

    def get(self, key: str) -> Entry | None:
        """Returns one key, as the leader has it."""
        return self.wait_for(key, 0, 0.0)[1]

    def wait_for(self, key: str, index: int, wait_s: float) -> tuple[int, Entry | None]:
        """Returns one key once it has moved on from `index`, or after about `wait_s` seconds.

        Returns:
            The index to ask with next, 0 where the answer has none; and the key.
        """
        wait_ms = round(wait_s * 1000)  # 0 would be five minutes to Consul
        params = {"index": index, "wait": f"{wait_ms}ms"} if index and wait_ms else {}
        self._http.timeout = self._timeout_s + (wait_s * 17 / 16 + WAIT_SLACK_S if params else 0.0)
        answer: tuple[int, Entry | None] = self._request(self._http.get, _indexed_entry, f"/v1/kv/{key}", params=params)
        return answer

    def list(self, prefix: str) -> list[Entry]:
        """Returns all keys below a prefix."""
        self._http.timeout = self._timeout_s
        entries: list[Entry] = self._request(self._http.get, _entries, f"/v1/kv/{prefix}", params={"recurse": ""})
        return entries

    def put(self, key: str, value: bytes, **params: str | int) -> bool:
        """Writes a key: `acquire`, `release` (sessions) or `cas` (an index) make it a question. Returns the answer.

        Raises:
            LeaseLostError: there is no such session.
        """
        return bool(self._request(self._http.put, CB.json(), f"/v1/kv/{key}", params=params, data=value))

    def delete(self, key: str, **params: int) -> bool:
        """Deletes a key: `cas` (an index) makes it a question. Returns the answer."""
        return bool(self._request(self._http.delete, CB.json(), f"/v1/kv/{key}", params=params))

    def _request(self, method: Callable[..., Any], callback: Callable[..., Any], path: str, **arguments: Any) -> Any:
        try:
            return method(callback, path, headers=self._headers, **arguments)
        except consul.ACLPermissionDenied as error:
            raise LeaseUnavailableError(f"Consul at {self._base_url} denies access: {error}") from error
        except consul.ConsulException as error:
            if "invalid session" in str(error):
                raise LeaseLostError("Consul does not know the session any more") from error
            raise LeaseUnavailableError(f"Consul at {self._base_url}: {_reason(error)}") from error
        except (requests.RequestException, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise LeaseUnavailableError(f"Consul at {self._base_url}: {_reason(error)}") from error


class _WholeAnswers(HTTPAdapter):
    """Counts the time-out for a request as a whole, from connecting to the last byte of its answer."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        pool = self.get_connection_with_tls_context(request, verify, proxies, cert)
        # The pool of a session that one thread uses has one connection: the request gets the same.
        connection = pool._get_conn()  # noqa: SLF001 - no other way to shut it down before it has answered
        pool._put_conn(connection)  # noqa: SLF001
        with Deadline(_Line(connection), timeout, "answer"):
            response = super().send(request, stream, timeout, verify, cert, proxies)
            assert response.content is not None  # read to its end
            return response


class _Line:
    """The socket that a connection has when it is to be shut down; making a connection may take several."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def shutdown(self, how: int, /) -> None:
        if self._connection.sock is not None:
            self._connection.sock.shutdown(how)


def _indexed_entry(response: Any) -> tuple[int, Entry | None]:
    entries = _entries(response)
    index = response.headers.get("X-Consul-Index") or "0"
    return int(index) if index.isdigit() else 0, entries[0] if entries else None


def _is_found(response: Any) -> bool:
    CB.json()(response)  # raises for everything but success and 404
    return bool(response.code != HTTPStatus.NOT_FOUND)


def _entries(response: Any) -> list[Entry]:
    items = CB.json()(response) if response.code != HTTPStatus.NOT_FOUND else None
    return [
        Entry(
            key=item["Key"],
            value=base64.b64decode(item["Value"] or ""),
            session=item.get("Session", ""),
            index=int(item["ModifyIndex"]),
        )
        for item in items or []
    ]


def _reason(error: Exception) -> str:
    """Returns one short line: `requests` nests the cause several objects deep."""
    cause: object = error
    while isinstance(cause, Exception) and cause.args and isinstance(cause.args[0], Exception):
        cause = cause.args[0]
    cause = getattr(cause, "reason", cause)
    return f"{type(error).__name__}: {str(cause).strip()[:200]}"
