import asyncio
import socket

import uvloop

from litefs.http.listener import set_dead_after


def test_a_connection_that_is_closed_already_takes_no_time_out_and_no_harm() -> None:
    async def close_one() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
            transport.abort()
            while ours.fileno() >= 0:
                await asyncio.sleep(0)
            set_dead_after(transport, 4.0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(close_one())
