"""Images in a replica's log that wait for their pages to come through the mount.

Strategy: pages are recognised by the state that they lead to. The applier may bring those of several images at once,
as one transaction: the position then goes to the last of them, and readers see one step. So that this is never
ambiguous, the applier brings no two images together that end in the same checksum, and none behind a drop.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from litefs.storage.log import LogRecord

AT_ONCE_MAX = 1000
"""Images that may be applied as one transaction: so many are looked at when pages are none of the next image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedImage:
    """An image that is in the log and not in the database.

    Attributes:
        sums: (pgno, page checksum) of all its pages, if it leaves the database's checksum where it was: it may then
            change nothing. None of other images.
    """

    txid: int
    pre_apply: int
    post_apply: int
    commit: int
    timestamp_ms: int
    record: LogRecord
    sums: list[tuple[int, int]] | None = None


def reached(expected: Iterable[ExpectedImage], post_apply: int, commit: int) -> ExpectedImage | None:
    """Returns the image that ends in a state; None if none does that may be applied now.

    Args:
        expected: in their order; the next one first.
        post_apply, commit: of the state.
    """
    is_next = True
    for image in islice(expected, AT_ONCE_MAX):
        if not (is_next or image.commit):
            return None
        if image.post_apply == post_apply and image.commit == commit:
            return image
        is_next = False
    return None


def holds(expected: Iterable[ExpectedImage], record: LogRecord | None) -> bool:
    """Says whether a record is that of an image that may be applied now."""
    return any(image.record is record for image in islice(expected, AT_ONCE_MAX))
