"""`python -m e2e tools|up|load|down|shell`: the test cluster for people."""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext

from e2e import cluster, images
from e2e.errors import E2eError
from e2e.layout import KUBECONFIG, PROGRAMS_LINK
from e2e.tools import find_tools


def bring_up() -> None:
    """Builds what is missing and starts a new cluster in place of the one that is there."""
    tools = find_tools()
    cluster.up(tools, images.build_all(tools))


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    actions: dict[str, Callable[[], object]] = {
        "tools": find_tools,
        "up": bring_up,
        "load": _load,
        "down": cluster.down,
        "shell": _shell,
    }
    if len(arguments) != 1 or arguments[0] not in actions:
        print("usage: python -m e2e tools|up|load|down|shell", file=sys.stderr)
        return 2
    try:
        with cluster.claimed() if arguments[0] in {"up", "down"} else nullcontext():
            actions[arguments[0]]()
    except E2eError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    if arguments[0] == "up":
        print(f"export KUBECONFIG={KUBECONFIG} PATH={PROGRAMS_LINK}:$PATH")
    return 0


def _load() -> None:
    cluster.load(images.build_all(find_tools()))


def _shell() -> None:
    if cluster.init_pid() is None:
        with cluster.claimed():
            bring_up()
    shell = os.environ.get("SHELL", "/bin/sh")
    path = f"{PROGRAMS_LINK}:{os.environ.get('PATH', '')}"
    os.execve(shell, [shell], os.environ | {"KUBECONFIG": str(KUBECONFIG), "PATH": path})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
