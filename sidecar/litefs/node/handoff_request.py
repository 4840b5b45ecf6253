"""Asks a primary over HTTP to hand its lease to this node: `POST /handoff`, as LiteFS does."""

import http.client
from urllib.parse import urlsplit

from litefs.deadline import Deadline
from litefs.errors import HandoffRefusedError
from litefs.node.caller import Caller

TIMEOUT_S = 15.0
"""For the connection, and then for the whole answer. Longer than the primary allows itself."""

REASON_BYTES_MAX = 1024


def request_handoff(url: str, caller: Caller) -> None:
    """Asks the primary at `url` to hand the lease to `caller`, this node. Returns when it has agreed.

    Raises:
        HandoffRefusedError: it refused, or could not be asked.
    """
    parts = urlsplit(url)
    assert parts.hostname, "a URL that names no host is refused where it is read"
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 20202, timeout=TIMEOUT_S)
    try:
        connection.connect()
        with Deadline(connection.sock, TIMEOUT_S, "answer"):
            connection.request("POST", f"/handoff?nodeID={caller.node_id:016X}", headers=caller.headers())
            with connection.getresponse() as response:
                reason = response.read(REASON_BYTES_MAX).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise HandoffRefusedError(f"the primary at {url} cannot be asked: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise HandoffRefusedError(f"the primary refused with {response.status}: {reason}")
