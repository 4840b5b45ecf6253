"""What is generated is what its sources say, and everything in values.yaml is described and has a schema."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts import generated
from charts.generated import CHART
from litefs.version import VERSION

ROOT = CHART.parents[1]
METRIC = re.compile(r"\blitefs_[a-z_]+\b")
ALERT = re.compile(r"^\| `(LiteFS\w+)` \|", re.MULTILINE)
RULES = ["rules.yaml", "operator-rules.yaml"]
PAGES = [ROOT / "docs" / "metrics.md", ROOT / "docs" / "kubernetes.md"]
LABELS = {"litefs_io_cluster"}


def leaves(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> set[str]:
    """The paths that a schema knows, down to where values.yaml may not go on."""
    name = schema.get("$ref", "").removeprefix("#/definitions/")
    schema = definitions[name] if name else schema
    properties = schema.get("properties")
    if not properties or name == "resources":
        return {path}
    found = [leaves(below, definitions, f"{path}.{key}" if path else key) for key, below in properties.items()]
    return set().union(*found)


def test_the_chart_installs_the_generated_crd() -> None:
    assert (CHART / "files" / "crd.yaml").read_text() == (ROOT / "manifests" / "crd.yaml").read_text(), (
        "run `make manifests`"
    )


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_the_readme_is_generated_from_the_values() -> None:
    assert generated.README.read_text() == generated.readme(), "run `make manifests`"


def test_install_yaml_is_rendered_from_the_chart(helm: Path) -> None:
    assert generated.INSTALL.read_text() == generated.install_yaml(helm), "run `make manifests`"


def test_install_yaml_puts_everything_into_its_own_namespace() -> None:
    manifests = [one for one in yaml.safe_load_all(generated.INSTALL.read_text()) if one]
    assert manifests[0]["kind"] == "Namespace"
    assert {one["metadata"].get("namespace") for one in manifests} == {None, generated.NAMESPACE}
    assert "Helm" not in generated.INSTALL.read_text()


@pytest.mark.parametrize("value", tuple(generated.values()), ids=lambda value: value.path)
def test_a_value_is_described(value: generated.Value) -> None:
    assert value.description.endswith("."), value.description


def test_the_readme_names_every_value() -> None:
    def paths(values: Any, path: str) -> set[str]:
        if not isinstance(values, dict) or not values or path.endswith((".resources", ".dashboard.labels")):
            return {path}
        return set().union(*(paths(below, f"{path}.{key}" if path else key) for key, below in values.items()))

    written = yaml.safe_load((CHART / "values.yaml").read_text())
    assert {value.path for value in generated.values()} == paths(written, "")


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = leaves(schema, schema["definitions"]) - {"global"}
    open_ended = "webhook.certificates.certManager.issuerRef"
    known = {path for path in known if not path.startswith(f"{open_ended}.")} | {open_ended}
    assert {value.path for value in generated.values()} == known


@pytest.mark.parametrize("name", [*RULES, "dashboard.json"])
def test_only_metrics_that_exist_are_watched(name: str) -> None:
    documented = set(METRIC.findall("".join(page.read_text() for page in PAGES)))
    used = {metric.removesuffix("_bucket") for metric in METRIC.findall((CHART / "files" / name).read_text())} - LABELS
    assert used
    assert used <= documented


@pytest.mark.parametrize(("page", "name"), [*zip(PAGES, RULES, strict=True)])
def test_the_alerts_are_those_of_the_documentation(page: Path, name: str) -> None:
    (group,) = yaml.safe_load((CHART / "files" / name).read_text())
    assert ALERT.findall(page.read_text()) == [rule["alert"] for rule in group["rules"]]
