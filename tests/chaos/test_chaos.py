"""Some minutes of random faults on three nodes with a real Consul, in network namespaces of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.consul import find_consul
from tests.support.filesystem_node import REPOSITORY

SECONDS = int(os.environ.get("CHAOS_SECONDS", "90"))
SEED = int(os.environ.get("CHAOS_SEED", time.time()))
SLOWEST = 4
"""A machine with other load may need this many times as long: faults wait until the cluster is whole again."""


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_clients_see_what_a_correct_cluster_shows(tmp_path: Path, mode: str, request: pytest.FixtureRequest) -> None:
    if find_consul() is None:
        pytest.skip("there is no consul on the PATH, and scripts/consul was not run")
    path = os.pathsep.join([str(REPOSITORY / "sidecar"), str(REPOSITORY)])
    options = ["--seconds", SECONDS, "--seed", SEED, "--journal-mode", mode]
    experiment = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.run", "--root", tmp_path, *map(str, options)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = experiment.communicate(timeout=SECONDS * SLOWEST + 300)
    except subprocess.TimeoutExpired:
        experiment.terminate()  # it ends its nodes first
        out, err = experiment.communicate(timeout=120)
    for log in tmp_path.glob("*/litefs.log"):
        request.node.add_report_section("call", f"log of {log.parent.name}", log.read_text(errors="replace")[-20000:])
    assert experiment.returncode == 0, f"{out[-8000:]}\n{err[-4000:]}"
