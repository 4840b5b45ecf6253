"""The limit of open files."""

import os
import resource
from collections.abc import Iterator

import pytest

from litefs.cli.descriptors import allow_many_descriptors


@pytest.fixture
def few() -> Iterator[int]:
    """This process may open two files more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_of_ours_may_open_as_many_files_as_the_machine_allows(few: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.dup2(0, few)
    allow_many_descriptors()
    os.close(os.dup2(0, few))
