"""Who should have the lease when nobody has it: pure decisions over what the candidates published.

Strategy: replicas of one primary have prefixes of one history, so the sum of their TXIDs orders them. Who has most
goes first; the others wait for it, but not for ever, for it may be dead or cut off without its entry being gone.
"""

from collections.abc import Iterable, Mapping

from litefs.lease.lease import Candidate
from litefs.link.messages import DatabaseInfo

SETTLE_S = 0.1
"""From noticing that the lease is free to counting the candidates: all notice it within milliseconds, and publish."""

YIELD_MAX_S = 1.5
"""How long a candidate waits for a fresher one. Consul's lock-delay, 1 s by default, holds that one up too."""


def freshness(databases: Iterable[DatabaseInfo]) -> int:
    """Returns how much a node has: the transactions in its logs, over all databases."""
    return sum(max(database.txid, database.logged_txid) for database in databases)


def is_fresher_candidate(candidates: Iterable[Candidate], node_id: int, own: int) -> bool:
    """Whether another candidate has more than this node, which has `own`."""
    return any(candidate.freshness > own for candidate in candidates if candidate.node_id != node_id)


def successor(candidates: Iterable[Candidate], followers: Mapping[int, int]) -> int | None:
    """Chooses who is given the lease of a primary that leaves.

    Args:
        candidates: who may become primary.
        followers: transactions that each connected replica has been sent, by node id.

    Returns:
        The freshest replica that may; None if there is none.
    """
    able = {candidate.node_id for candidate in candidates} & followers.keys()
    # The id breaks ties, so that the choice can be repeated.
    return max(able, key=lambda node_id: (followers[node_id], node_id), default=None)
