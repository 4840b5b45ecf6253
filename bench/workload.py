"""What a workload is, and the list of them all.

A workload measures one target for one round and returns numbers by metric. Rounds of all targets alternate, so that
a slow minute of the machine falls on every column alike.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from bench.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a workload is told about the round it measures.

    Attributes:
        number: 0-based; a part of file names, so that each round has a database of its own.
        seconds: how long a rate is measured.
    """

    number: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One or more rows of the table.

    Attributes:
        name: how `--only` finds it.
        measure: measures one round on one target.
        replica: needs a second node.
        bare: can be measured on plain ext4, too.
        rounds_max: for workloads that take long: no more rounds than this.
        environment: of the nodes, by column.
    """

    name: str
    measure: Callable[[Target, Round], dict[str, float]]
    replica: bool = False
    bare: bool = True
    rounds_max: int = 1000
    environment: dict[str, str] = field(default_factory=dict)
