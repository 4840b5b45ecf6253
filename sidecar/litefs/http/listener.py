"""The listening socket of the API, whose time-outs every connection inherits.

Apart from `server`, because it is needed before the web framework is: a port that is taken is found out first.
"""

import socket
from asyncio import BaseTransport
from typing import Any

PEER_TIMEOUT_MS = 30_000
"""TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged, or the window shut, before the kernel resets."""

BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening TCP socket whose connections give up on peers that are gone.

    Args:
        host: address or name to listen on; "" is every address.
        port: 0 picks a free one.

    Raises:
        OSError: the address is in use or not ours.
    """
    failure: OSError | None = None
    for family, kind, protocol, _, address in _addresses(host, port):
        try:
            return _listen_at(socket.socket(family, kind, protocol), address)
        except OSError as error:
            failure = error
    raise failure or OSError(f"no address for {host!r}")


def set_dead_after(connection: BaseTransport, seconds: float) -> None:
    """Has the kernel reset a connection when sent bytes stay unacknowledged, or the window shut, for so long."""
    if connection.is_closing():
        return  # its socket may be closed already; whoever writes next finds out
    peer: socket.socket = connection.get_extra_info("socket")
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def _listen_at(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" is every address, IPv4 too
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_TIMEOUT_MS)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PEER_TIMEOUT_MS // 2000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PEER_TIMEOUT_MS // 6000)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _addresses(host: str, port: int) -> list[tuple[Any, ...]]:
    addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    if not host:  # the IPv6 wildcard first, for it takes IPv4 too
        addresses.sort(key=lambda address: address[0] != socket.AF_INET6)
    return addresses
