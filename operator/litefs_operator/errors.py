"""The exception tree of the operator.

OperatorError
├── SpecError            a LiteFSCluster is not what its schema promises; nothing was done with it
├── RefusedError         a pod is not injected and must not start; says what to change
├── CertificateError     a certificate or its key cannot be read; the one before it goes on being used
├── KubeError            the API server refused a request; nothing was changed
│   ├── NotFoundError    404: there is no such object
│   ├── ConflictError    409: it is there already, or somebody was quicker
│   ├── NamespaceEndingError 403: the namespace is being deleted: nothing can be created in it
│   └── ExpiredError     410: a watch fell too far behind; list again
├── KubeUnavailableError no answer from the API server: whether something was changed is not known
└── ConsulError          Consul cannot tell who holds the lease
    └── ConsulDeniedError the operator's token does not suffice; Consul itself works
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


class CertificateError(OperatorError):
    """A certificate or its key is not one. Nothing was put in its place."""


class KubeError(OperatorError):
    """The API server refused a request, which changed nothing.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(KubeError):
    """There is no such object."""


class ConflictError(KubeError):
    """An object of this name is there already, or somebody else changed it first."""


class NamespaceEndingError(KubeError):
    """The namespace is being deleted: nothing can be created in it any more, and what was wanted is pointless."""


class ExpiredError(KubeError):
    """The place in the history from which a watch was to go on is gone."""


class KubeUnavailableError(OperatorError):
    """The API server did not answer. What was asked of it may have been done."""


class ConsulError(OperatorError):
    """Consul did not answer, or has no leader."""


class ConsulDeniedError(ConsulError):
    """Consul answers, but not to the operator: its token is missing or too weak."""
