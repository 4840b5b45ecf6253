"""Turns measured rounds into medians, a table and JSON."""

import json
import os
import platform
import sqlite3
import statistics
import subprocess
from pathlib import Path

Samples = dict[str, dict[str, dict[str, list[float]]]]
"""Workload → metric → column → one value per round."""


def table(samples: Samples) -> str:
    """Returns a text table: medians, and each column as a ratio of plain ext4 where that was measured."""
    columns = list(dict.fromkeys(column for rows in samples.values() for row in rows.values() for column in row))
    lines = [f"{'':52}" + "".join(f"{column:>20}" for column in columns)]
    for workload, metrics in samples.items():
        for metric, row in metrics.items():
            label = f"{workload}: {metric}"
            lines.append(f"{label:52}" + "".join(f"{_cell(row, column):>20}" for column in columns))
    return "\n".join(lines)


def _cell(row: dict[str, list[float]], column: str) -> str:
    if column not in row:
        return "-"
    value = statistics.median(row[column])
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    if column != "bare" and "bare" in row:
        text += f" ({value / statistics.median(row['bare']):.3g})"
    return text


def document(samples: Samples, parameters: dict[str, object]) -> str:
    """Returns the JSON of a run: machine, commit, `parameters`, all rounds and their medians."""
    results = {
        workload: {
            metric: {column: {"median": statistics.median(values), "rounds": values} for column, values in row.items()}
            for metric, row in metrics.items()
        }
        for workload, metrics in samples.items()
    }
    return json.dumps({"machine": machine(), "commit": _commit()} | parameters | {"results": results}, indent=2)


def machine() -> dict[str, str]:
    """Returns what a reader needs to know about the machine to judge the figures."""
    return {
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip()
