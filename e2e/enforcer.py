"""Enforces NetworkPolicies on a node, as a network plug-in does: one of the components.

    python -m e2e.enforcer NODE_ADDRESS

Strategy: everything is listed once and then watched; each change gives the whole filter anew. Whatever goes wrong, as a
watch that ends, ends the process: it is started again, and the filter stays as it is meanwhile.
"""

import http.client
import json
import queue
import ssl
import sys
import threading
from typing import Any

from e2e import packet_filter
from e2e.commands import run
from e2e.layout import NODE_ADDRESS, STATE

_PATHS = {
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
}
_CONNECT_TIMEOUT_S = 5.0

_Object = dict[str, Any]
_Change = tuple[str, _Object]
"""What has changed, a key of `_PATHS`, and how: an event of a watch."""


def main(node_address: str) -> None:
    """Never returns: it ends with an error."""
    known: dict[str, dict[str, _Object]] = {}
    changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
    for kind, path in _PATHS.items():
        listed = json.load(_get(path))
        known[kind] = {item["metadata"]["uid"]: item for item in listed["items"]}
        watched = f"{path}?watch=true&resourceVersion={listed['metadata']['resourceVersion']}"
        threading.Thread(target=_watch, args=(kind, watched, changes), daemon=True).start()
    applied = ""
    while True:
        rules = packet_filter.rules(node_address, **{kind: list(objects.values()) for kind, objects in known.items()})
        if rules != applied:
            run(["iptables-restore"], stdin=rules)
            applied = rules
        change = changes.get()
        if change is None:
            sys.exit("a watch has ended")
        kind, event = change
        uid = event["object"]["metadata"]["uid"]
        if event["type"] == "DELETED":
            known[kind].pop(uid, None)
        else:
            known[kind][uid] = event["object"]


def _watch(kind: str, path: str, changes: "queue.SimpleQueue[_Change | None]") -> None:
    try:
        for line in _get(path):
            changes.put((kind, json.loads(line)))
    finally:
        changes.put(None)


def _get(path: str) -> http.client.HTTPResponse:
    keys = STATE / "pki"
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
    connection = http.client.HTTPSConnection(NODE_ADDRESS, 6443, context=context, timeout=_CONNECT_TIMEOUT_S)
    connection.connect()
    # A watch is silent for as long as nothing changes.
    connection.sock.settimeout(None)
    connection.request("GET", path)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        sys.exit(f"{path}: {response.status} {response.reason}")
    return response


if __name__ == "__main__":
    main(sys.argv[1])
