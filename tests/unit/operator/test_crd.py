import re
from collections.abc import Iterator
from typing import Any

import pytest

from litefs.cli.units import parse_duration
from litefs_operator.crd import ClusterSpec, LeaseType, custom_resource_definition
from litefs_operator.errors import SpecError
from litefs_operator.schema import parse

Schema = dict[str, Any]


def spec_schema() -> Schema:
    version = custom_resource_definition()["spec"]["versions"][0]
    schema: Schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    items = schema.get("items", {})
    for name, inner in [*schema.get("properties", {}).items(), *items.get("properties", {}).items()]:
        yield from fields(inner, f"{path}.{name}")


def test_every_field_is_described_and_typed() -> None:
    properties = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    found = [*fields(spec_schema(), "spec"), *fields(properties["status"], "status")]
    assert len(found) > 40
    for path, schema in found:
        assert schema.get("description"), path
        assert schema.get("type") or schema.get("x-kubernetes-int-or-string"), path


def test_defaults_satisfy_their_own_limits() -> None:
    for path, schema in fields(spec_schema(), "spec"):
        default = schema.get("default")
        if "pattern" in schema and default is not None:
            assert re.search(schema["pattern"], default), path
        if "enum" in schema and default is not None:
            assert default in schema["enum"], path


def test_an_object_that_is_filled_in_has_no_required_fields() -> None:
    for path, schema in fields(spec_schema(), "spec"):
        assert not ("default" in schema and schema.get("required")), path


def test_an_empty_spec_is_the_defaults() -> None:
    assert parse(ClusterSpec, {}) == ClusterSpec()


def test_the_defaults_of_the_api_server_are_those_of_the_dataclasses() -> None:
    defaults = {name: inner["default"] for name, inner in spec_schema()["properties"].items()}
    assert defaults["sidecar"]["resources"]["cpuRequest"] == "50m"
    assert parse(ClusterSpec, defaults) == ClusterSpec()


@pytest.mark.parametrize("text", ["10s", "1m30s", "250ms", "1.5h"])
def test_durations_that_the_schema_lets_pass_are_read_by_the_sidecar(text: str) -> None:
    assert re.search(spec_schema()["properties"]["data"]["properties"]["retention"]["pattern"], text)
    assert parse_duration(text) > 0


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"lease": {"type": "raft"}}, "spec.lease.type"),
        ({"lease": {"type": "static", "static": {}}}, "spec.lease.static.primary"),
        ({"http": {"port": "80"}}, "spec.http.port"),
        ({"durability": "always"}, "spec.durability"),
        ({"metrics": {"scrape": "yes"}}, "spec.metrics.scrape"),
        ({"data": []}, "spec.data"),
        ({"data": {"compress": 1}}, "spec.data.compress"),
        ({"candidates": {"matchLabels": 1}}, "spec.candidates.matchLabels"),
        ({"service": {"ports": {"name": "web"}}}, "spec.service.ports"),
        ({"service": {"ports": [{"name": "web"}]}}, "spec.service.ports[0].port"),
        ({"service": {"ports": [{"name": "web", "port": 1}, 2]}}, "spec.service.ports[1]"),
        ({"service": {"ports": [{"name": "web", "port": 1, "targetPort": True}]}}, "spec.service.ports[0].targetPort"),
    ],
)
def test_says_where_a_spec_is_wrong(spec: Schema, place: str) -> None:
    with pytest.raises(SpecError, match=re.escape(place)):
        parse(ClusterSpec, spec)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert parse(ClusterSpec, {"new": 1, "lease": {"type": "consul", "new": 2}}).lease.type is LeaseType.CONSUL
