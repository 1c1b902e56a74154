"""``python -m tests.bench.repeat N``: times of N calls, at random phases, one a line."""

from __future__ import annotations

import random
import sys
import time

from tests.bench.on_cluster import call_time


def main() -> None:
    """Print the seconds of each call."""
    once = call_time()
    once()
    for _ in range(int(sys.argv[1])):
        time.sleep(random.uniform(0.3, 1.3))
        print(once(), flush=True)


if __name__ == "__main__":
    main()
