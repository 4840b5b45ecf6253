import asyncio
import socket

import uvloop

from litefs.http.listener import set_dead_after


class Noting(asyncio.Protocol):
    def __init__(self) -> None:
        self.is_lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost.set()


def test_a_connection_that_is_closed_already_takes_no_time_out_and_no_harm() -> None:
    async def close_one() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            transport, noting = await asyncio.get_running_loop().create_connection(Noting, sock=ours)
            transport.abort()
            await noting.is_lost.wait()
            set_dead_after(transport, 4.0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(close_one())
