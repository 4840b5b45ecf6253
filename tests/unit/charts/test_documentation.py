"""What the guides tell people to type and look for is there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from charts import generated
from charts.generated import CHART
from litefs_operator.metrics import Metrics

ROOT = CHART.parents[1]
GUIDE = ROOT / "docs" / "kubernetes.md"
GUIDES = [ROOT / "README.md", GUIDE, CHART / "README.md", CHART / "templates" / "NOTES.txt"]
SECTIONS = {value.path.partition(".")[0] for value in generated.values()}


def commands(text: str) -> Iterator[str]:
    """Every command that a guide has people type, its lines joined."""
    for line in re.findall(r"^ +((?:helm|kubectl|docker|make) .*)$", text.replace("\\\n", ""), re.MULTILINE):
        yield " ".join(line.split())


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    named = set(re.findall(r"\b(?:manifests|charts|sidecar|operator)/[\w./-]*\w", path.read_text()))
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_values_that_are_named_exist(path: Path) -> None:
    known = {value.path for value in generated.values()}
    known |= {path.rpartition(".")[0] for path in known}
    text = path.read_text()
    named = set(re.findall(r"--set ([\w.]+)=", text)) | {
        name for name in re.findall(r"`([a-z]\w+\.[\w.]+)[=`]", text) if name.partition(".")[0] in SECTIONS
    }
    # `data.retention` and their like are keys of other things that begin with a word of ours.
    assert {name for name in named if name not in known and not name.startswith("data.")} == set()


def test_the_readme_has_people_type_what_the_guide_does() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Kubernetes\n")[2].partition("\n## ")[0]
    typed = set(commands(section))
    assert any(command.startswith("helm install") for command in typed)
    assert typed <= set(commands(GUIDE.read_text()))


def test_the_modes_are_those_of_the_schema() -> None:
    schema: Any = json.loads((CHART / "values.schema.json").read_text())["properties"]
    guide = GUIDE.read_text()
    for key, mode in (
        ("consul.mode", schema["consul"]["properties"]["mode"]),
        (
            "webhook.certificates.mode",
            schema["webhook"]["properties"]["certificates"]["properties"]["mode"],
        ),
    ):
        table = guide[guide.index(f"| `{key}` |") :].partition("\n\n")[0]
        assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(mode["enum"])


def test_every_reason_of_a_refusal_is_documented() -> None:
    sources = (ROOT / "operator" / "litefs_operator").rglob("*.py")
    reasons = {reason for path in sources for reason in re.findall(r'RefusedError\(\s*"(\w+)"', path.read_text())}
    guide = GUIDE.read_text()
    table = guide[guide.index("### Refusals") :].partition("\n## ")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", table)) == reasons


def test_every_metric_of_the_operator_is_documented() -> None:
    exposed = generate_latest(Metrics().registry).decode()
    reported = set(re.findall(r"^# TYPE (litefs_operator_\w+) ", exposed, re.MULTILINE))
    page = GUIDE.read_text()
    assert set(re.findall(r"^\| `(litefs_operator_\w+)`", page, re.MULTILINE)) == {
        name for name in reported if not name.endswith("_created")
    }
