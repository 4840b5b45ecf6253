"""`litefs handoff`: hands the lease of a primary to another node."""

import re
from collections.abc import Sequence

from litefs.cli import api_client, node_address
from litefs.cli.flags import Flag, Usage
from litefs.cli.units import parse_positive_duration
from litefs.errors import ConfigError, PeerError

USAGE = Usage(
    synopsis="litefs handoff [-url URL | -config PATH] [-node ID] [-timeout DURATION] [-leave]",
    text="""
Makes another node primary, in place of this one: the candidate that has most, or the one that -node names. Commits go
on until it is found, are refused for some ten milliseconds, and nothing is lost. Returns when the other node has the
lease. Without -node, a replica has nothing to hand over, and a primary that nobody can replace stays primary: neither
is a failure.

With -leave this node does not become primary again before LiteFS is started anew. That is for a node that is about to
end, as before the end of a container; the mount and its databases stay as they are.

examples:
  litefs handoff
  litefs handoff -node 9C3F01A2B3C4D5E6
  litefs handoff -url http://localhost:20202 -timeout 5s -leave     # preStop of a container

exit codes: 0 handed over, or nothing to hand over; 1 failed, and -node: not the primary, or that node does not follow;
2 wrong usage
""",
    flags=(
        *node_address.FLAGS,
        Flag(name="node", value_name="ID", help="who gets the lease; node ids are in `litefs status`"),
        Flag(name="timeout", value_name="DURATION", help="longest wait for another node", default="5s"),
        Flag(name="leave", help="and be no candidate any more"),
    ),
)

MARGIN_S = 1.0
"""For the answer, beyond what the node may wait."""

_NODE_ID = re.compile(r"[0-9A-Fa-f]{1,16}", re.ASCII)


def run(arguments: Sequence[str]) -> int:
    """Hands over.

    Raises:
        ConfigError: wrong usage, or the configuration is refused.
        PeerError: the node cannot be reached, or the lease could not be handed over.
    """
    parsed = USAGE.parse(arguments)
    node, leaves = parsed.texts["node"], "leave" in parsed.switches
    if node and leaves:
        raise ConfigError("-node and -leave: expected one of them; a node that leaves is replaced by the freshest")
    if node and not _NODE_ID.fullmatch(node):
        raise ConfigError(f"-node {node}: expected up to 16 hexadecimal digits")
    timeout_s = parse_positive_duration(parsed.texts["timeout"], "-timeout")
    address = node_address.node_address(parsed)
    query = {"nodeID": node or "freshest"}
    if not node:
        query["timeout"] = f"{timeout_s:g}"
    if leaves:
        query["leave"] = "true"
    with api_client.request(
        address.url, "POST", "/handoff", query=query, silence_s=timeout_s + MARGIN_S, token=address.token
    ) as response:
        document = response.read()
    print(f"node {node.upper().zfill(16)} is primary" if node else _told(document, address.url))
    return 0


def _told(document: bytes, url: str) -> str:
    # Nobody waits for these any more: before the end of a container, writes wait for the request.
    import msgspec  # noqa: PLC0415

    from litefs.http.status import HandoffOutcome  # noqa: PLC0415

    try:
        outcome = msgspec.json.decode(document, type=HandoffOutcome)
    except msgspec.MsgspecError as error:
        raise PeerError(f"{url}/handoff: {error}") from error
    if outcome.node_id:
        return f"node {outcome.node_id} is primary"
    return "no candidate follows: this node stays primary" if outcome.was_primary else "this node is not the primary"
