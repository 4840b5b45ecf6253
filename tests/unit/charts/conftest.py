import subprocess
from pathlib import Path

import pytest

from charts.generated import CHART
from tests.unit.charts.rendering import Chart


@pytest.fixture(scope="session")
def helm() -> Path:
    where = subprocess.run(
        [CHART.parents[1] / "scripts" / "helm", "--where"], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()
    if not Path(where).exists():
        pytest.skip("no Helm: put one on the PATH, or run scripts/helm")
    return Path(where)


@pytest.fixture(scope="session")
def chart(helm: Path) -> Chart:
    return Chart(helm=helm)
