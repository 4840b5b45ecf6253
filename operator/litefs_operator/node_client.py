"""The only door to the nodes: `GET /status` of a pod's sidecar.

Source: the sidecar's docs, `GET /status`: a document that grows by fields; what is not known here is not read.
"""

import asyncio
import json
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
"""At once, over all nodes."""

BODY_BYTES_MAX = 1 << 20
"""A node with a thousand databases writes 200 kB."""


_NODE_ID = re.compile(r"[0-9A-F]{16}")
"""It becomes the value of a label."""


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
    """

    node_id: str
    role: str
    is_ready: bool
    obstacle: str
    lag_ms: int | None
    lease_remaining_s: float | None
    positions: Mapping[str, str]


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


class NodeClient:
    """Asks nodes. For one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, ip: str, port: int, token: str, before: Probe | None) -> Probe:
        """Returns what a node says now.

        Args:
            ip: of its pod.
            port: of its API.
            token: of its cluster.
            before: the probe before this one.
        """
        silence, message = Silence.UNREACHABLE, ""
        try:
            status, body = await self._get(f"http://{_host(ip)}:{port}/status", token)
            if status == HTTPStatus.OK:
                answer = read_answer(json.loads(body))
                return Probe(at=time.monotonic(), answer=answer, answered_at=time.time())
            silence = Silence.DENIED if status == HTTPStatus.UNAUTHORIZED else Silence.STRANGE
            message = f"HTTP {status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            message = str(error) or type(error).__name__
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            silence, message = Silence.STRANGE, f"{type(error).__name__}: {error}"
        last = before.answered_at if before is not None else 0.0
        return Probe(at=time.monotonic(), answer=None, silence=silence, message=message[:200], answered_at=last)

    async def _get(self, url: str, token: str) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=1.0),
                timeout=aiohttp.ClientTimeout(total=ANSWER_S),
                trust_env=False,
            )
        headers = {"Authorization": f"Bearer {token}"}
        async with asyncio.timeout(2 * ANSWER_S), self._session.get(url, headers=headers, allow_redirects=False) as got:
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
    lag_ms, remaining_s = document.get("lag_ms"), document.get("lease_remaining_s")
    return Answer(
        node_id=document["node_id"],
        role=str(document["role"]),
        is_ready=bool(document["ready"]),
        obstacle=str(document.get("obstacle") or ""),
        lag_ms=None if lag_ms is None else int(lag_ms),
        lease_remaining_s=None if remaining_s is None else float(remaining_s),
        positions={str(entry["name"]): str(entry["position"]) for entry in document.get("databases") or []},
    )


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
