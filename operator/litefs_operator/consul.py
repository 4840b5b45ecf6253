"""The only door to Consul: who holds the leases, by one blocking query for all keys below a prefix.

Strategy: python-consul2's standard client, in a thread of its own. What it gets wrong is put right here: environment
variables that override its arguments, proxies and .netrc, errors that are those of `requests`, time-outs for each wait
that nothing bounds together, and an index that a proxy may have stripped.

Source: Consul 1.22 HTTP API, /v1/kv; the value of a lease is that of LiteFS 0.5.14, consul/consul.go.
"""

import base64
import json
import os
import re
import socket
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

from litefs_operator.errors import ConsulDeniedError, ConsulError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # invalid escapes in its docstrings
    import consul
    import requests
    from consul.base import CB
    from requests.adapters import HTTPAdapter

_CANDIDATE_KEY = re.compile(r"/nodes/[0-9A-F]{16}$")
"""A candidate's entry below a lease: its node's id. No cluster is called so: names have small letters."""

DEFAULT_PORTS = {"http": 8500, "https": 8501}
REQUEST_S = 2.0
"""For connecting, and for a whole answer beyond the time that the query waits in Consul."""
AGAIN_S = 0.1
"""A connection that is being made when its time is over is shut down when it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulAddress:
    """Where a Consul is, and how to get in.

    Attributes:
        base_url: scheme, host and port.
        prefix: leads every key; "" for none.
        token: of the ACL; "" for none.
        ca: file of the authority that signed its certificate; "" for those of the system.
    """

    base_url: str
    prefix: str
    token: str
    ca: str

    @classmethod
    def parse(cls, url: str, *, token: str = "", ca: str = "") -> "ConsulAddress":
        """Reads `http(s)://user:TOKEN@host:port/prefix`, as the sidecars do; a token in the URL wins.

        Raises:
            ConsulError: it is no such URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConsulError(f"{url}: {error}") from error
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ConsulError(f"{url}: expected http://HOST:PORT or https://HOST:PORT")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(
            base_url=f"{parts.scheme}://{host}:{port or DEFAULT_PORTS[parts.scheme]}",
            prefix=unquote(parts.path).strip("/"),
            token=unquote(parts.password or "") or token,
            ca=ca,
        )

    def key(self, name: str) -> str:
        """Returns the key of that name in this Consul."""
        return "/".join(part for part in (self.prefix, name.strip("/")) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lease.

    Attributes:
        hostname: of the node, which is the name of its pod.
        advertise_url: where the others reach it.
    """

    hostname: str
    advertise_url: str


class ConsulClient:
    """One connection, for one thread."""

    def __init__(self, address: ConsulAddress) -> None:
        hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("CONSUL_HTTP_")}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of parts that are not used here
                client = consul.Consul(verify=address.ca or True, timeout=REQUEST_S)
        finally:
            os.environ.update(hidden)
        self._http: Any = client.http
        self._http.base_uri = address.base_url
        self._http.session.trust_env = False
        for scheme in DEFAULT_PORTS:
            self._http.session.mount(f"{scheme}://", _WholeAnswers(pool_maxsize=1))
        self._headers = {"X-Consul-Token": address.token} if address.token else {}
        self._url = address.base_url

    def holders(self, prefix: str, index: int, wait_s: float) -> tuple[int, dict[str, Holder]]:
        """Returns who holds the locked keys below `prefix`, once they moved on from `index` or after `wait_s`.

        Returns:
            The index to ask with next, 0 where the answer has none; and the holders by key.

        Raises:
            ConsulDeniedError: the token does not suffice.
            ConsulError: there is no answer, or Consul has no leader.
        """
        params: dict[str, str | int] = {"recurse": ""}
        if index:
            params |= {"index": index, "wait": f"{wait_s:.0f}s"}
        # Consul waits up to a sixteenth longer than it is told to.
        self._http.timeout = REQUEST_S + (wait_s * 17 / 16 if index else 0.0)
        try:
            answer: tuple[int, dict[str, Holder]] = self._http.get(
                self._holders, f"/v1/kv/{prefix}", params=params, headers=self._headers
            )
        except consul.ACLPermissionDenied as error:
            raise ConsulDeniedError(f"Consul at {self._url} denies access: {error}") from error
        except (consul.ConsulException, requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise ConsulError(f"Consul at {self._url}: {_reason(error)}") from error
        return answer

    def _holders(self, response: Any) -> tuple[int, dict[str, Holder]]:
        items = None
        if response.code != HTTPStatus.NOT_FOUND:
            items = CB.json()(response)
        elif self._may_hide(response.headers):
            raise consul.ACLPermissionDenied("nothing that the token may read")
        holders = {
            item["Key"]: _holder(item)
            for item in items or []
            if item.get("Session") and _CANDIDATE_KEY.search(item["Key"]) is None
        }
        index = response.headers.get("X-Consul-Index") or "0"
        return int(index) if index.isdigit() else 0, holders

    def _may_hide(self, headers: Mapping[str, str]) -> bool:
        """Keys that a token may not read are left out of an answer. Whether there are any, only tokens are told."""
        if self._headers:
            return headers.get("X-Consul-Results-Filtered-By-ACLs") == "true"
        return headers.get("X-Consul-Default-ACL-Policy") == "deny"


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
        connection: Any = pool._get_conn()  # noqa: SLF001 - no other way to shut it down before it has answered
        pool._put_conn(connection)  # noqa: SLF001
        ended, late = threading.Event(), threading.Event()

        def watch() -> None:
            seconds = timeout
            while not ended.wait(seconds):
                late.set()
                seconds = AGAIN_S
                if connection.sock is not None:
                    with suppress(OSError):  # it is closed already
                        connection.sock.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=watch, name="time limit of a query", daemon=True).start()
        try:
            response = super().send(request, stream, timeout, verify, cert, proxies)
            assert response.content is not None  # read to its end
        finally:
            ended.set()
            if late.is_set():  # what was cut may read like an answer
                raise requests.Timeout(f"no answer within {timeout:g} s")
        return response


def _holder(item: Mapping[str, Any]) -> Holder:
    """A value that cannot be read is a lease held by a stranger, not a free one."""
    try:
        fields = json.loads(base64.b64decode(item["Value"] or ""))
        return Holder(hostname=str(fields["hostname"]), advertise_url=str(fields["advertise-url"]))
    except (ValueError, TypeError, KeyError):
        return Holder(hostname="", advertise_url="")


def _reason(error: Exception) -> str:
    """Returns one short line: `requests` nests the cause several objects deep."""
    cause: object = error
    while isinstance(cause, Exception) and cause.args and isinstance(cause.args[0], Exception):
        cause = cause.args[0]
    cause = getattr(cause, "reason", cause)
    return f"{type(error).__name__}: {str(cause).strip()[:200]}"
