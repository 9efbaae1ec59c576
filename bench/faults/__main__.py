"""``python -m bench.faults [--short] [NAME …]``: run campaigns, print their counts, fail on a loss."""

import sys
import time

from bench.faults.campaigns import CAMPAIGNS


def main(argv: list[str]) -> int:
    """Returns 1 when any campaign lost something."""
    names = [name for name in argv if not name.startswith("-")] or list(CAMPAIGNS)
    lost = 0
    for name in names:
        began = time.monotonic()
        counts = CAMPAIGNS[name]("--short" in argv)
        lost += int(counts["lost"])
        print(f"{name} ({time.monotonic() - began:.0f} s)")
        for key, value in counts.items():
            print(f"    {key:24} {value}")
        sys.stdout.flush()
    print("0 lost" if not lost else f"LOST: {lost}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
