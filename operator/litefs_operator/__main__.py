"""`python -m litefs_operator crd` prints the CustomResourceDefinition, as `manifests/crd.yaml` has it."""

import sys

import yaml

from litefs_operator.crd import custom_resource_definition


def crd_yaml() -> str:
    """Returns the text of `manifests/crd.yaml`."""
    head = "# Generated from operator/litefs_operator/crd.py by `make manifests`.\n"
    return head + yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    if sys.argv[1:] != ["crd"]:
        sys.exit("usage: python -m litefs_operator crd")
    sys.stdout.write(crd_yaml())
