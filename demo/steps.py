"""What the demonstrations have in common: they say what they do, check what they claim, and leave nothing behind."""

import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from tests.support import children
from tests.support.litefs_node import LitefsNode


class ClaimFailedError(Exception):
    """A step did not show what it claims."""


class Stage(Protocol):
    """The nodes of a demonstration."""

    @property
    def nodes(self) -> Sequence[LitefsNode]:
        """All of them."""

    def stop(self) -> None:
        """Ends them, and what they need, in good order; from any state."""


S = TypeVar("S", bound=Stage)


def perform(make: Callable[[Path], S], steps: Callable[[S], None], *, timeout_s: float) -> int:
    """Runs a demonstration.

    Args:
        make: makes the nodes below a directory that goes with them; starts nothing.
        steps: starts and shows them; raises where a claim does not hold.
        timeout_s: then all nodes are killed, and whatever step hangs fails.

    Returns:
        The exit code.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="litefs-demo-", ignore_cleanup_errors=True) as directory:
        stage = make(Path(directory))
        watchdog = threading.Timer(timeout_s, _kill_all, args=[stage])
        watchdog.daemon = True
        watchdog.start()
        try:
            steps(stage)
        except KeyboardInterrupt:
            print("\ninterrupted; stopping the nodes", file=sys.stderr)
            return 130
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the logs of the nodes tell more
            print(f"\nFAILED: {error}", file=sys.stderr)
            for node in stage.nodes:
                print(f"--- log of {node.root.name}\n{node.log_tail()}", file=sys.stderr)
            return 1
        finally:
            watchdog.cancel()
            stage.stop()
    say("That was all of it; nothing is left behind.")
    return 0


def _kill_all(stage: Stage) -> None:
    for node in reversed(stage.nodes):
        node.kill()


def say(text: str) -> None:
    """Prints a line of commentary."""
    print(f"\n# {text}", flush=True)


def expect(claim: str, holds: bool, seen: str = "") -> None:
    """Prints a claim that held; raises for one that did not."""
    if not holds:
        raise ClaimFailedError(f"{claim}\n  seen: {seen}")
    print(f"  ok: {claim}", flush=True)


def sqlite(node: LitefsNode, database: str, script: str) -> str:
    """Feeds a script to the sqlite3 program on a node's mount; prints and returns what it says."""
    for line in script.strip().splitlines():
        print(f"  {node.root.name}$ sqlite3 {database} {line!r}")
    done = children.run(["sqlite3", "-batch", node.mount_dir / database], free=node.free, stdin=script + "\n")
    text = (done.out + done.err).strip()
    if text:
        print("    " + text.replace("\n", "\n    "), flush=True)
    return text


def position(node: LitefsNode, database: str) -> str:
    """Returns what `<database>-pos` says on a node."""
    return node.read(f"{database}-pos").strip()
