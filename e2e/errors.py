"""What can go wrong while the test cluster is built, run and taken down.

E2eError
├─ SetupError     the machine lacks something; the message says what to install. Nothing was started.
├─ CommandError   a command failed, or did not end in time. What it had begun may be half done.
└─ NotYetError    a condition did not come true in its time
"""


class E2eError(Exception):
    """Any failure of the cluster itself, not of what is tested on it."""


class SetupError(E2eError):
    """The machine lacks something; the message says what to install. Nothing was started."""


class CommandError(E2eError):
    """A command failed, or did not end in its time and was killed."""


class NotYetError(E2eError):
    """A condition did not come true in its time."""
