"""Who may use the API: everybody, or where a token is set, who knows it. And what is logged of those who may not.

Health endpoints are open, for a kubelet has no secrets, and metrics where that is wanted. Everything else is refused
with 401 before anything of the request is read but its head.
"""

import hmac
import logging
import time
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
METRICS_PATH = "/metrics"

REPEATED_AFTER_S = 600.0
"""How soon the log names the same refusal again. A peer that is refused asks every few seconds."""

REFUSALS_MAX = 256
"""Kept in memory; with more of them at once the oldest is logged again when it comes back."""

REASON_CHARS_MAX = 200
"""Of a reason that is logged and kept; the path in it is the peer's, and may be as long as a head of HTTP."""

logger = logging.getLogger(__name__)


class RefusalLog:
    """Says each refusal once, however often the peer asks."""

    def __init__(self) -> None:
        """Begins with nothing said."""
        self._said_at: dict[tuple[str, str], float] = {}

    def note(self, peer: str, reason: str, level: int = logging.INFO) -> None:
        """Logs that `peer` was refused for `reason`, unless that was said a short time ago."""
        now = time.monotonic()
        reason = reason[:REASON_CHARS_MAX]
        key = (peer, reason)
        if now - self._said_at.pop(key, -REPEATED_AFTER_S) < REPEATED_AFTER_S:
            level = logging.DEBUG
        while len(self._said_at) >= REFUSALS_MAX:
            del self._said_at[next(iter(self._said_at))]
        self._said_at[key] = now
        logger.log(level, "refused %s: %s", peer, reason)


def peer_of(scope: Scope) -> str:
    """Returns the address that a request came from, without the port, which differs each time."""
    client = scope.get("client")
    return str(client[0]) if client else "a peer"


class TokenGate:
    """Lets requests through that carry the token, as `Authorization: Bearer TOKEN`."""

    def __init__(self, app: ASGIApp, token: str, refusals: RefusalLog, *, open_metrics: bool) -> None:
        """Args: app: what is behind the gate; token: not empty; open_metrics: they need none."""
        self._app = app
        self._open_paths = OPEN_PATHS | {METRICS_PATH} if open_metrics else OPEN_PATHS
        self._expected = f"Bearer {token}".encode()
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("authorization", "")
        # In constant time, so that a wrong token does not tell how much of it is right.
        if hmac.compare_digest(given.encode("latin-1"), self._expected):
            await self._app(scope, receive, send)
            return
        reason = "wrong token" if given else "token required"
        self._refusals.note(peer_of(scope), f"{scope['method']} {scope['path']}: {reason}", logging.WARNING)
        refusal = PlainTextResponse(
            f"{reason}\n", HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer", "Connection": "close"}
        )
        await refusal(scope, receive, send)
