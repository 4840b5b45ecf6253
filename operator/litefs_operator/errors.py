"""The exception tree of the operator.

OperatorError
├── SpecError        a LiteFSCluster is not what its schema promises; nothing was done with it
└── RefusedError     a pod is not injected and must not start; says what to change
"""


class OperatorError(Exception):
    """What the operator raises of its own accord."""


class SpecError(OperatorError):
    """A spec that the schema would have refused, or one of another version. Nothing was done with it."""


class RefusedError(OperatorError):
    """The pod cannot have a sidecar as it is. It was not changed.

    Attributes:
        reason: one word in CamelCase, for machines: the reason of the Event.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message} ({reason})")
        self.reason = reason
