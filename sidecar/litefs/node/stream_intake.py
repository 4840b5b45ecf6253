"""One stream of a primary, taken in: images go to the databases, all other frames to whoever follows.

Strategy: an image is verified whole (`ImageReceiver`) before the log or a replacement gets it. Small images go to the
log together, as many as came in one piece: a replica that is behind gets hundreds at once, one that is not gets each by
itself and at once. A follower has one intake for each channel of its connection; an intake that is dropped in the
middle of an image leaves nothing of it.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from litefs.errors import FormatError, PeerError
from litefs.formats.position import Checksum, Pos, Txid
from litefs.formats.stream import Event, LtxChunk, LtxEnd, LtxFrame, StreamDecoder
from litefs.link import messages as m
from litefs.node.image_receiver import ImageReceiver
from litefs.node.replicas import Replicas
from litefs.node.takeover import ArrivedImage
from litefs.storage.disk import disk_from_environment

PROGRESS_EVERY_S = 5.0

DRIP_S = 20.0
DRIP_BYTES = 32 << 10
"""Who sends less of a frame or an image than this in so long, while we wait for it, will never be done. Time in which
we wait for our own disk does not count, and a network that carries anything carries more."""

ARRIVED_BYTES_MAX = 4 << 20
"""Images and their pages that wait to be put into a log together; with one more they fit a message of the link."""

_log = logging.getLogger("litefs.node")


class StreamIntake:
    """Takes the bytes of one stream, on the follower's thread."""

    def __init__(
        self, data_dir: Path, replicas: Replicas, on_frame: Callable[[Event], bool], on_image: Callable[[int], None]
    ) -> None:
        """Args: on_frame: gets what is no image, returns whether to stop; on_image: the time stamp of one taken in."""
        self._data_dir = data_dir
        self._replicas = replicas
        self._on_frame = on_frame
        self._on_image = on_image
        self._disk = disk_from_environment()
        self._decoder = StreamDecoder()
        self._receiver: ImageReceiver | None = None
        self._name = ""
        self._begun = self._said = 0.0
        self._begun_ms = 0
        self._waited_s = 0.0
        self._bytes_since = 0
        self._arrived: dict[str, list[ArrivedImage]] = {}
        self._arrived_bytes = self._newest_ms = 0

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes. Returns whether the follower is to stop here.

        Raises:
            PeerError, FormatError: the peer broke the protocol. The images before that are taken in.
            LiteFSError, OSError: an image could not be taken in.
        """
        try:
            return self._take(data)
        finally:
            self._hand_on()

    def note_wait(self, seconds: float) -> None:
        """Takes note that the follower waited for bytes, of this stream or another one of the connection.

        Raises:
            PeerError: what was begun is not going to end.
        """
        if self._decoder.is_between_frames or self._bytes_since >= DRIP_BYTES:
            self._waited_s, self._bytes_since = 0.0, 0
        self._waited_s += seconds
        if self._waited_s > DRIP_S:
            what = f"an image of {self._name}" if self._receiver is not None else "a frame"
            raise PeerError(f"{self._bytes_since} bytes in {self._waited_s:.0f} s in the middle of {what}")

    def _take(self, data: bytes) -> bool:
        self._bytes_since += len(data)
        for event in self._decoder.feed(data):
            match event:
                case LtxChunk():
                    self._take_chunk(event.data)
                case LtxEnd():
                    self._take_image()
                case LtxFrame():
                    self._begin(event.name)
                case _:
                    self._hand_on()
                    if self._on_frame(event):
                        return True
        return False

    def finish(self) -> None:
        """Says that the stream has ended.

        Raises:
            FormatError: in the middle of a frame or an image.
        """
        self._decoder.finish()

    def abort(self) -> None:
        """Removes what there is of an image."""
        if self._receiver is not None:
            self._receiver.abort()
            self._receiver = None

    def _begin(self, name: str) -> None:
        arrived = self._arrived.get(name)
        position = arrived[-1].to if arrived else self._replicas.position(name)
        self._name = name
        self._receiver = ImageReceiver(name, self._data_dir, position, self._disk)
        self._begun = self._said = time.monotonic()
        self._begun_ms = time.time_ns() // 1_000_000

    def _take_chunk(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            raise PeerError("a chunk outside an image")
        try:
            receiver.feed(data)
        except FormatError as error:
            raise PeerError(f"{self._name}: {error}") from error
        if receiver.is_replacement:
            self._report_progress(receiver)

    def _take_image(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            raise PeerError("the end of an image that did not begin")
        try:
            receiver.end()
            if receiver.is_replacement:
                self._hand_on()
                self._take_over(receiver)
            elif receiver.spool_path is None:
                self._keep(receiver)
            else:
                self._hand_on()
                self._replicas.append_spooled(self._name, receiver.spool_path, _position_after(receiver))
                receiver.discard_spool()
                self._on_image(receiver.header.timestamp_ms)
        except FormatError as error:
            receiver.abort()
            raise PeerError(f"{self._name}: {error}") from error
        except BaseException:
            receiver.abort()
            raise

    def _keep(self, receiver: ImageReceiver) -> None:
        """Has a small image wait for those that came with it."""
        image = receiver.image()
        arrived = ArrivedImage(encoded=receiver.encoded(), image=image, to=_position_after(receiver))
        self._arrived.setdefault(self._name, []).append(arrived)
        self._newest_ms = receiver.header.timestamp_ms
        self._arrived_bytes += receiver.size + (image.size_bytes if image is not None else 0)
        if self._arrived_bytes > ARRIVED_BYTES_MAX:
            self._hand_on()

    def _hand_on(self) -> None:
        """Puts what has arrived into the logs."""
        if not self._arrived:
            return
        databases, self._arrived = self._arrived, {}
        self._arrived_bytes = 0
        for name, arrived in databases.items():
            self._replicas.append(name, arrived)
        self._on_image(self._newest_ms)

    def _take_over(self, receiver: ImageReceiver) -> None:
        name, begun, header = self._name, self._begun, receiver.header

        def finish() -> m.PrepareReplacement:
            try:
                receiver.finish()
            except BaseException:
                receiver.abort()
                raise
            return m.PrepareReplacement(
                name=name,
                txid=header.max_txid,
                checksum=receiver.post_apply,
                page_size=header.page_size,
                page_n=header.commit,
                timestamp_ms=header.timestamp_ms,
                incoming=receiver.hand_over(),
                keeps_diverged=True,
            )

        def say_so() -> None:
            elapsed_s = max(time.monotonic() - begun, 1e-3)
            _log.info(
                "%s: snapshot at %016x taken over: %d pages, %.1f MB in %.1f s (%.0f MB/s)",
                name,
                header.max_txid,
                header.commit,
                receiver.size / 1e6,
                elapsed_s,
                header.commit * header.page_size / elapsed_s / 1e6,
            )

        self._replicas.take_over(name, _position_after(receiver), self._begun_ms, finish, say_so)

    def _report_progress(self, receiver: ImageReceiver) -> None:
        now = time.monotonic()
        if now - self._said >= PROGRESS_EVERY_S:
            self._said = now
            rate = receiver.size / (now - self._begun) / 1e6
            _log.info("%s: snapshot: %.0f MB received (%.0f MB/s)", self._name, receiver.size / 1e6, rate)


def _position_after(receiver: ImageReceiver) -> Pos:
    return Pos(txid=Txid(receiver.header.max_txid), checksum=Checksum(receiver.post_apply))
