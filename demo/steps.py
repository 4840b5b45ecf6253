"""What the demonstrations have in common: they say what they do, and check what they claim."""

from tests.support import children
from tests.support.litefs_node import LitefsNode


class ClaimFailedError(Exception):
    """A step did not show what it claims."""


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
