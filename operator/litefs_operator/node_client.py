"""The only door to the nodes: `GET /status` of a pod's sidecar.

Strategy: a node that is asked for news answers when it has some, or when the time is over: so its silence costs a
request now and then, and a change is heard of at once.

Source: the sidecar's docs, `GET /status`: a document that grows by fields; what is not known here is not read.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import aiohttp

ANSWER_S = 2.0
"""A node answers from memory, in milliseconds; slower is silent."""

CONNECTIONS = 64
"""To nodes that are asked for an answer at once."""

WAITING_MAX = 900
"""Nodes that are asked for news, over a connection each: below the 1,024 files that a process may have open by default.
More of them are asked from time to time."""

BODY_BYTES_MAX = 1 << 20
"""A node with a thousand databases writes 200 kB."""


_NODE_ID = re.compile(r"[0-9A-F]{16}")
"""It becomes the value of a label."""

_STANDING = re.compile(r"[0-9A-Za-z]{0,64}")
"""It becomes part of a URL."""


class Silence(StrEnum):
    """Why a node did not say anything that counts."""

    UNREACHABLE = "Unreachable"
    DENIED = "TokenRefused"
    STRANGE = "NotUnderstood"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node says of itself.

    Attributes:
        node_id: 16 hexadecimal digits.
        role: what it plays now; "primary" is the one that counts.
        is_ready: it is primary, or has caught up with one.
        obstacle: why it is not, in words; "" if it is, or if it does not say.
        lag_ms: age of the newest sign of the primary; None before the first, and on the primary.
        lease_remaining_s: how long commits go on without a renewal; None with a static lease.
        positions: TXID/CHECKSUM of each database.
        standing: a word of its own that is another one when there is news; "" if it has none.
    """

    node_id: str
    role: str
    is_ready: bool
    obstacle: str
    lag_ms: int | None
    lease_remaining_s: float | None
    positions: Mapping[str, str]
    standing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One attempt to hear from a node.

    Attributes:
        at: when it was over, in monotonic seconds.
        answer: what the node said; None if nothing.
        silence: why nothing; None if it answered.
        message: the same for people.
        answered_at: Unix time of the last answer, of this attempt or one before; 0 if there was none.
    """

    at: float
    answer: Answer | None
    silence: Silence | None = None
    message: str = ""
    answered_at: float = 0.0

    def is_news_after(self, before: "Probe | None") -> bool:
        """Returns whether more than positions and lags is another than before."""
        return before is None or (self.silence, self.standing) != (before.silence, before.standing)

    @property
    def standing(self) -> str:
        """What the node calls its standing; "" if it did not say."""
        return self.answer.standing if self.answer is not None else ""


class NodeClient:
    """Asks nodes. For one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._asking = asyncio.Semaphore(CONNECTIONS)
        self._waiting_n = 0

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, ip: str, port: int, token: str, before: Probe | None, wait_s: float = 0.0) -> Probe:
        """Returns what a node says: now, or as soon as it is news.

        Args:
            ip: of its pod.
            port: of its API.
            token: of its cluster.
            before: the probe before this one.
            wait_s: how long to wait for news, in seconds.
        """
        url, end = f"http://{_host(ip)}:{port}/status", time.monotonic() + wait_s
        known = before.standing if before is not None else ""
        if wait_s and known and self._waiting_n < WAITING_MAX:
            self._waiting_n += 1
            try:
                probe = await self._probe(f"{url}?wait={wait_s:g}&unlike={known}", token, before, wait_s)
            finally:
                self._waiting_n -= 1
        else:
            async with self._asking:
                probe = await self._probe(url, token, before, 0.0)
        if not probe.is_news_after(before):
            # It does not wait, or is silent: to ask it again at once would not end.
            await asyncio.sleep(max(end - time.monotonic(), 0.0))
        return probe

    async def _probe(self, url: str, token: str, before: Probe | None, wait_s: float) -> Probe:
        silence, message = Silence.UNREACHABLE, ""
        try:
            status, body = await self._get(url, token, wait_s + ANSWER_S)
            if status == HTTPStatus.OK:
                answer = read_answer(json.loads(body))
                return Probe(at=time.monotonic(), answer=answer, answered_at=time.time())
            silence = Silence.DENIED if status == HTTPStatus.UNAUTHORIZED else Silence.STRANGE
            message = f"HTTP {status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            message = _reason(error)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            silence, message = Silence.STRANGE, f"{type(error).__name__}: {error}"
        last = before.answered_at if before is not None else 0.0
        return Probe(at=time.monotonic(), answer=None, silence=silence, message=message[:200], answered_at=last)

    async def _get(self, url: str, token: str, timeout_s: float) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0),
                timeout=aiohttp.ClientTimeout(sock_connect=ANSWER_S),
                trust_env=False,
            )
        headers = {"Authorization": f"Bearer {token}"}
        async with asyncio.timeout(timeout_s), self._session.get(url, headers=headers, allow_redirects=False) as got:
            body = bytearray()
            async for chunk in got.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise ValueError("the answer is too long")
            return got.status, bytes(body)


def read_answer(document: Mapping[str, Any]) -> Answer:
    """Reads the JSON of `GET /status`.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    if _NODE_ID.fullmatch(document["node_id"]) is None:
        raise ValueError(f"{document['node_id']!r} is no node id")
    standing: str = document.get("standing") or ""
    if _STANDING.fullmatch(standing) is None:
        raise ValueError(f"{standing!r} is no standing")
    lag_ms, remaining_s = document.get("lag_ms"), document.get("lease_remaining_s")
    return Answer(
        node_id=document["node_id"],
        role=str(document["role"]),
        is_ready=bool(document["ready"]),
        obstacle=str(document.get("obstacle") or ""),
        lag_ms=None if lag_ms is None else int(lag_ms),
        lease_remaining_s=None if remaining_s is None else float(remaining_s),
        positions={str(entry["name"]): str(entry["position"]) for entry in document.get("databases") or []},
        standing=standing,
    )


def _reason(error: Exception) -> str:
    """Returns a few words: aiohttp adds address and TLS, which change or do not matter."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error) or type(error).__name__


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
