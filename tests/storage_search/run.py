"""A long search: `python -m tests.storage_search.run [--seed N] [--steps M] [--seconds S] [--root DIRECTORY]`.

Takes one seed after the other, so many half-steps each, until the time is over. A finding prints its seed, which
repeats it, and the half-steps before it; the exit code is 1 then.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.storage_search.search import Finding, Search

MEMORY = Path("/dev/shm")
ROOT = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
"""In memory where that is to be had: nine tenths of the time would go into directories."""


def main() -> int:
    """Searches, and says what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.storage_search.run", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=None, help="the first one (default: the time)")
    parser.add_argument("--steps", type=int, default=2000, help="half-steps for each seed (default: 2000)")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long; 0: one seed (default)")
    parser.add_argument("--root", type=Path, default=ROOT, help=f"where stores lie (default: {ROOT})")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # of torn images, each time
    begun = time.monotonic()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    step_n = cut_n = life_n = committed_n = refused_n = seed_n = 0
    while True:
        with tempfile.TemporaryDirectory(dir=arguments.root) as directory:
            search = Search(seed, Path(directory))
            try:
                search.run(arguments.steps)
            except Finding as finding:
                print(f"seed {seed}, half-step {search.step_n}, after {time.monotonic() - begun:.1f} s:\n{finding}")
                return 1
        seed, seed_n = seed + 1, seed_n + 1
        step_n, cut_n, life_n = step_n + search.step_n, cut_n + search.cut_n, life_n + search.life_n
        committed_n, refused_n = committed_n + search.committed_n, refused_n + search.refused_n
        if time.monotonic() - begun >= arguments.seconds:
            break
    print(
        f"{seed_n} seeds through {seed - 1}: {step_n} half-steps, {committed_n} transactions, {refused_n} refused, "
        f"{life_n} lives, {cut_n} power cuts judged, {time.monotonic() - begun:.1f} s: nothing found"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
