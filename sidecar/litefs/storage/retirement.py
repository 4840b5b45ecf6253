"""Closing what a thread may still be using: not before it is done.

A descriptor that is closed under a thread may bear another file a moment later, and the thread's next write
would go there.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class Retirable:
    """Something with descriptors that is replaced while work on it may be under way. Used on the loop only.

    `is_retired`: it was replaced; its paths may be those of what took its place.
    """

    def __init__(self) -> None:
        """In use by nobody."""
        self._user_n = 0
        self.is_retired = False

    def close(self) -> None:
        """Closes the descriptors now; nobody uses them."""
        raise NotImplementedError

    def retire(self) -> None:
        """Closes the descriptors as soon as nobody uses them any more."""
        self.is_retired = True
        if not self._user_n:
            self.close()

    @property
    def is_used(self) -> bool:
        """Work off the loop goes on with the descriptors."""
        return self._user_n > 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the descriptors open while work off the loop goes on."""
        self._user_n += 1
        try:
            yield
        finally:
            self._user_n -= 1
            if self.is_retired and not self._user_n:
                self.close()
