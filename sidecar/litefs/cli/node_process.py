"""Entry point of the node process: `python -m litefs.cli.node_process`.

Order: the port is bound and the node is joined to the filesystem process before the web framework is loaded,
for loading it takes longer than all the rest and nothing of it is needed to accept commits.

The process ends in good order on SIGTERM, on SIGINT and when the supervisor closes the control socket; it ends
with 1 when the filesystem process is gone, and is started anew.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

import msgspec
import uvloop

from litefs.cli.descriptors import allow_many_descriptors
from litefs.cli.exit_codes import FAILURE, exit_code_of
from litefs.cli.logs import configure
from litefs.errors import LinkClosedError, LiteFSError
from litefs.http.listener import listen
from litefs.link.settings import SETTINGS_VARIABLE, Leaving, NodeReady, NodeSettings, SteppedDown, SupervisorMessage
from litefs.node.node import Node

READY_CHECK_S = 0.02
"""How often a replica that has not caught up yet is asked whether it has."""

logger = logging.getLogger("litefs")


def main() -> int:
    """Runs the node until it is told to stop. Returns the exit code."""
    settings = msgspec.json.decode(os.environ[SETTINGS_VARIABLE], type=NodeSettings)
    configure(settings.log, "node")
    allow_many_descriptors()
    try:
        listener = listen(settings.http_host, settings.http_port)
    except OSError as error:
        logger.critical("http.addr %s:%d: %s", settings.http_host, settings.http_port, error.strerror or error)
        return FAILURE
    try:
        with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(settings, listener))
    except LinkClosedError:
        return FAILURE  # the supervisor says which process ended, and how
    except LiteFSError as error:
        logger.critical("%s", error)
        return exit_code_of(error) or FAILURE


class _Ending:
    """Whether the process is to end, and with which exit code."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.code = 0

    def stop(self) -> None:
        """Ends the process in good order."""
        self.stopping.set()

    def lose_link(self) -> None:
        """Ends the process as failed, unless it is ending: then we closed the link ourselves."""
        if not self.stopping.is_set():
            logger.warning("the filesystem process is gone")
            self.code = FAILURE
            self.stopping.set()


async def _run(settings: NodeSettings, listener: socket.socket) -> int:
    ending = _Ending()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.stop)
    node = Node(settings)
    node.on_link_closed(lambda: _call_on(loop, ending.lose_link))
    node.start()
    from litefs.http.replication import StreamSettings  # noqa: PLC0415 (see the docstring: the order)
    from litefs.http.service import serve  # noqa: PLC0415

    gc.collect()
    gc.freeze()  # what is loaded now stays; the collector need not walk it again and again
    stream_settings = StreamSettings(
        compress=settings.compress,
        snapshot_timeout_s=settings.snapshot_timeout_s,
        remembered_s=settings.replica_retention_s,
    )
    with socket.socket(fileno=settings.control_fd) as control:
        control.setblocking(False)
        loop.add_reader(control, _read_control, control, ending, node)
        node.on_leaving(lambda: _tell(control, Leaving()))
        announcing = asyncio.create_task(_announce(node, control, ending.stopping))
        try:
            await serve(
                node,
                listener,
                stream_settings,
                ending.stopping,
                node.attach_streams,
                token=settings.token,
                open_metrics=settings.open_metrics,
            )
        finally:
            announcing.cancel()
            loop.remove_reader(control)
            node.stop()
    return ending.code


def _call_on(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(function)


async def _announce(node: Node, control: socket.socket, stopping: asyncio.Event) -> None:
    """Tells the supervisor once that the node serves and has caught up."""
    while not node.status().ready:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_CHECK_S):
                await stopping.wait()
                return
    _tell(control, NodeReady())
    logger.info("node is ready")


def _tell(control: socket.socket, message: SupervisorMessage) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone, which ends us anyway, or waits no longer
        control.send(msgspec.json.encode(message) + b"\n")


def _read_control(control: socket.socket, ending: _Ending, node: Node) -> None:
    """Takes the one order of the supervisor, to step down, and notices its end."""
    try:
        if control.recv(4096):
            threading.Thread(target=_step_down, args=(node, control), name="step-down", daemon=True).start()
            return
    except BlockingIOError:
        return
    except OSError as error:
        logger.warning("control socket: %s", error)
    asyncio.get_running_loop().remove_reader(control)
    ending.stop()


def _step_down(node: Node, control: socket.socket) -> None:
    node.step_down()
    _tell(control, SteppedDown())


if __name__ == "__main__":
    sys.exit(main())
