"""A cluster to test on."""

import os
from dataclasses import dataclass
from pathlib import Path

from e2e import images


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A cluster to test on, and the names of the images that it has.

    Attributes:
        is_own: whether it was started here or by `make e2e-up`, so that a test may look into its node.
    """

    kubectl: Path | str
    kubeconfig: Path
    is_own: bool
    sidecar_image: str = os.environ.get("E2E_IMAGE", images.SIDECAR)
    application_image: str = os.environ.get("E2E_APPLICATION_IMAGE", images.APPLICATION)
    operator_image: str = os.environ.get("E2E_OPERATOR_IMAGE", images.OPERATOR)
    consul_image: str = os.environ.get("E2E_CONSUL_IMAGE", images.CONSUL)
