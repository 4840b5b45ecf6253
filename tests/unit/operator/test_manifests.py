from pathlib import Path

import yaml

from litefs_operator.crd import custom_resource_definition
from litefs_operator.main import crd_yaml

CRD = Path(__file__).parents[3] / "manifests" / "crd.yaml"


def test_the_manifest_of_the_crd_is_the_generated_one() -> None:
    assert CRD.read_text() == crd_yaml(), "run `make manifests`"


def test_the_manifest_reads_back_as_what_it_was_made_from() -> None:
    assert yaml.safe_load(crd_yaml()) == custom_resource_definition()
