"""Follows the primary: one connection, its images into the local log, their pages through the mount.

Strategy: a thread with blocking sockets; what comes is verified, put into the log by the filesystem process,
and queued for the applier of its database. A peer that breaks the protocol, or is silent for
`SILENCE_MAX_S`, loses the connection; nothing of the image under way is kept.

Positions: the follower asks for what follows the last image in its log, applied or not. Where the primary
answers with a snapshot, the database is replaced as a whole.
"""

import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from litefs.deadline import Deadline
from litefs.errors import LinkClosedError, LiteFSError, PeerError, PeerRefusedError
from litefs.formats.stream import (
    DropDbFrame,
    EndFrame,
    Event,
    HandoffFrame,
    HeartbeatFrame,
    ReadyFrame,
    encode_position_map,
)
from litefs.formats.stream_channels import LIVE_CHANNEL, VERSION, VERSION_HEADER, ChannelDecoder
from litefs.link import messages as m
from litefs.node.caller import Caller
from litefs.node.replicas import Replicas
from litefs.node.signs_of_life import SignsOfLife
from litefs.node.stream_client import StreamResponse, post_http1, post_http2
from litefs.node.stream_intake import StreamIntake

SILENCE_MAX_S = 5.0
"""The primary sends a heartbeat each second."""

REASON_BYTES_MAX = 1024
RECONNECT_DELAY_S_MIN = 0.01
"""Without a pause, a primary that is away would cost its replicas a processor each."""

BACKOFF_MAX_FACTOR = 8

REFUSALS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT})
"""Statuses that say that this node is not wanted: it has another token, or belongs to another cluster."""

REFUSED_DELAY_S = 10.0
"""Pause after such an answer: somebody has to change a configuration first."""

LAG_EVERY_S = 0.1

UNKNOWN_NAMED_MAX = 10
"""Databases that the log names when the primary does not have them; of more it says how many."""

_log = logging.getLogger("litefs.node")


@dataclass(slots=True)
class FollowerState:
    """What the rest of the node may know.

    Attributes:
        is_connected: a stream is open.
        is_ready: the primary has said once that we have caught up.
        timestamp_ms: newest time stamp of the primary, Unix milliseconds; -1: none yet.
    """

    is_connected: bool = False
    is_ready: bool = False
    timestamp_ms: int = -1


class Follower:
    """Streams from one primary until it is stopped."""

    def __init__(
        self,
        url: str,
        hostname: str,
        caller: Caller,
        data_dir: Path,
        reconnect_delay_s: float,
        replicas: Replicas,
        on_handed: Callable[[str], None],
    ) -> None:
        """Args: caller: this node; on_handed: takes the lease."""
        parts = urlsplit(url)
        assert parts.hostname, "a URL that names no host is refused where it is read"
        self._host, self._port = parts.hostname, parts.port or 20202
        self._hostname = hostname
        self._caller = caller
        self._data_dir = data_dir
        self._reconnect_delay_s = max(reconnect_delay_s, RECONNECT_DELAY_S_MIN)
        self._replicas = replicas
        self._on_handed = on_handed
        self._taking = threading.Lock()
        """Held while something of the stream is taken in."""
        self._stopping = threading.Event()
        self._connection: socket.socket | None = None
        self._intakes: dict[int, StreamIntake] = {}
        self._complaint = ""
        self._has_progressed = False
        self._is_ready_said = False
        self._unknown_n = 0
        self._lag_said = 0.0
        self.state = FollowerState()
        replicas.on_taken_over = self._taken_over

    def start(self) -> None:
        """Begins to follow, on a thread."""
        threading.Thread(target=self._run, name="follower", daemon=True).start()

    def stop(self) -> None:
        """Ends the stream."""
        self._stopping.set()
        self.reconnect()

    def join(self, timeout_s: float) -> bool:
        """Waits until nothing of the stream is taken in any more, after `stop`. Returns whether that is so."""
        if not self._taking.acquire(timeout=timeout_s):
            return False
        self._taking.release()
        return True

    def reconnect(self) -> None:
        """Drops the connection, so that the positions are told anew. From any thread."""
        connection = self._connection
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._has_progressed = False
            delay_s = 0.0
            try:
                self._follow()
            except LinkClosedError:
                return
            except PeerRefusedError as error:
                delay_s = REFUSED_DELAY_S
                self._complain(error)
            except (LiteFSError, OSError) as error:
                self._complain(error)
            except Exception:  # noqa: BLE001 - without this thread the node would stand still for ever
                _log.exception("stream from %s:%d", self._host, self._port)
            finally:
                self._disconnected()
            failures = 0 if self._has_progressed else failures + 1
            delay_s = max(delay_s, self._reconnect_delay_s * min(2**failures, BACKOFF_MAX_FACTOR))
            self._stopping.wait(delay_s * random.uniform(0.5, 1.0))

    def _complain(self, error: Exception) -> None:
        """Says once why there is no stream, until there is one again or the reason is another one."""
        reason = str(error) or type(error).__name__
        if not self._stopping.is_set():
            level = logging.DEBUG if reason == self._complaint else logging.WARNING
            _log.log(level, "stream from %s:%d: %s", self._host, self._port, reason)
        self._complaint = reason

    def _disconnected(self) -> None:
        for intake in self._intakes.values():
            intake.abort()
        self._intakes.clear()
        self._is_ready_said = False
        self._unknown_n = 0
        self._close()
        if self.state.is_connected:
            self.state.is_connected = False
            if not self._stopping.is_set():  # else somebody else may be primary already
                self._replicas.tell(m.SetPrimary(""))

    # ---- one connection ----

    def _follow(self) -> None:
        response = self._ask()
        if response.status != HTTPStatus.OK:
            error = PeerRefusedError if response.status in REFUSALS else PeerError
            raise error(f"{response.status} {self._reason_of(response)}")
        self._caller.cluster.check(response.headers.get("litefs-cluster-id", ""))
        self.state.is_connected = True
        self._complaint = ""
        self._replicas.tell(m.SetPrimary(self._hostname or self._host))
        _log.info("following %s:%d", self._host, self._port)
        if response.headers.get(VERSION_HEADER.lower()) == VERSION:
            assert self._connection is not None
            with SignsOfLife(self._connection):
                self._take_channels(response)
        else:
            self._take_plain(response)

    def _take_plain(self, response: StreamResponse) -> None:
        intake = self._intake(LIVE_CHANNEL)
        while data := self._read(response):
            with self._taking:
                is_ended = self._stopping.is_set() or intake.feed(data)
            if is_ended:
                return
        intake.finish()

    def _take_channels(self, response: StreamResponse) -> None:
        decoder = ChannelDecoder()
        while data := self._read(response):
            with self._taking:
                is_ended = any(
                    self._stopping.is_set() or self._intake(channel).feed(part) for channel, part in decoder.feed(data)
                )
            if is_ended:
                return
        decoder.finish()
        for intake in self._intakes.values():
            intake.finish()

    def _read(self, response: StreamResponse) -> bytes:
        started = time.monotonic()
        data = response.read()
        waited_s = time.monotonic() - started
        for intake in self._intakes.values():
            intake.note_wait(waited_s)
        return data

    def _intake(self, channel: int) -> StreamIntake:
        intake = self._intakes.get(channel)
        if intake is None:
            intake = StreamIntake(self._data_dir, self._replicas, self._take_frame, self._take_image)
            self._intakes[channel] = intake
        return intake

    def _ask(self) -> StreamResponse:
        """Returns the answer to our positions: of HTTP/1.1, or of HTTP/2 where the primary wants that."""
        body = encode_position_map(self._replicas.positions())
        headers = self._caller.headers() | {"Content-Type": "application/octet-stream", VERSION_HEADER: VERSION}
        authority = f"{self._host}:{self._port}"
        response = post_http1(self._connect(), authority, headers, body)
        if response.status == HTTPStatus.UPGRADE_REQUIRED:
            response = post_http2(self._connect(), authority, headers, body)
        return response

    def _reason_of(self, response: StreamResponse) -> str:
        """Returns what a primary says with a refusal, or nothing where it cannot be had."""
        assert self._connection is not None
        try:
            with Deadline(self._connection, SILENCE_MAX_S, "reason"):
                return response.read()[:REASON_BYTES_MAX].decode("utf-8", "replace").strip()
        except (PeerError, OSError):
            return ""

    def _connect(self) -> socket.socket:
        self._close()
        connection = socket.create_connection((self._host, self._port), timeout=SILENCE_MAX_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        if self._stopping.is_set():
            raise PeerError("stopped")  # `stop` may have looked before there was a connection
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take_frame(self, event: Event) -> bool:
        """Takes what is no image. Returns whether the stream is at its end, or was stopped."""
        match event:
            case HeartbeatFrame():
                self._heard(event.timestamp_ms)
            case ReadyFrame():
                self._has_progressed = self._is_ready_said = True
                if self._unknown_n > UNKNOWN_NAMED_MAX:
                    _log.info("the primary does not have %d databases of this node; kept", self._unknown_n)
                self._note_ready()
            case DropDbFrame():
                self._note_unknown(event.name)
            case HandoffFrame():
                self._on_handed(event.lease_id)
            case EndFrame():
                return True
            case _:
                pass  # the high-water mark of a backup, of which there are none
        return self._stopping.is_set()

    def _note_unknown(self, name: str) -> None:
        self._unknown_n += 1
        level = logging.INFO if self._unknown_n <= UNKNOWN_NAMED_MAX else logging.DEBUG
        _log.log(level, "%s: the primary does not have it; kept", name)

    def _note_ready(self) -> None:
        """The primary has sent all that there was; what came may yet be on its way to its place."""
        if self._is_ready_said and not self._replicas.is_taking_over:
            self.state.is_ready = True

    def _taken_over(self) -> None:
        self._has_progressed = True
        self._note_ready()

    def _take_image(self, timestamp_ms: int) -> None:
        self._has_progressed = True
        self._heard(max(timestamp_ms, self.state.timestamp_ms))

    def _heard(self, timestamp_ms: int) -> None:
        # What waits for an application is not shown yet: this node is as far behind as that.
        waiting_ms = self._replicas.waiting_since_ms()
        self.state.timestamp_ms = timestamp_ms = timestamp_ms if waiting_ms is None else min(timestamp_ms, waiting_ms)
        now = time.monotonic()
        if self.state.is_ready and now - self._lag_said >= LAG_EVERY_S:
            self._lag_said = now
            self._replicas.tell(m.SetLag(timestamp_ms))
