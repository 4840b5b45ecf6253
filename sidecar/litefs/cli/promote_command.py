"""`litefs promote`: makes a node the primary."""

from collections.abc import Sequence

from litefs.cli import api_client, node_address
from litefs.cli.flags import Flag, Usage
from litefs.cli.units import parse_positive_duration

USAGE = Usage(
    synopsis="litefs promote [-url URL | -config PATH] [-timeout DURATION]",
    text="""
Has the primary hand its lease to a node, and returns when that accepts commits. The present primary refuses commits
for some ten milliseconds, and nothing is lost. Nothing happens on a node that is the primary already.

examples:
  litefs promote
  litefs promote -url http://node-2:20202

exit codes: 0 the node is primary; 1 failed: no candidate, no primary to take over from, it does not follow yet, or the
primary refuses; 2 wrong usage
""",
    flags=(
        *node_address.FLAGS,
        Flag(name="timeout", value_name="DURATION", help="longest wait for the answer", default="30s"),
    ),
)


def run(arguments: Sequence[str]) -> int:
    """Promotes.

    Raises:
        ConfigError: wrong usage, or the configuration is refused.
        PeerError: the node cannot be reached, or cannot become primary.
    """
    parsed = USAGE.parse(arguments)
    timeout_s = parse_positive_duration(parsed.texts["timeout"], "-timeout")
    address = node_address.node_address(parsed)
    with api_client.request(address.url, "POST", "/promote", silence_s=timeout_s, token=address.token) as response:
        response.read()
    print("this node is primary")
    return 0
