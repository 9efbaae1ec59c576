"""``python -m bench.faults``: run campaigns, print their counts, and fail when something was lost."""

import argparse
import sys
import time

from bench.faults.campaigns import CAMPAIGNS


def main() -> int:
    """Run the campaigns that are named. Return 1 when one of them lost something."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(CAMPAIGNS)}")
    parser.add_argument("--short", action="store_true", help="a few seconds each, as in the tests")
    given = parser.parse_args()
    if unknown := set(given.names) - set(CAMPAIGNS):
        parser.error(f"no such campaign: {', '.join(sorted(unknown))}; there are {', '.join(CAMPAIGNS)}")
    lost = 0
    for name in given.names or CAMPAIGNS:
        began = time.monotonic()
        counts = CAMPAIGNS[name](given.short, None)
        lost += int(counts["lost"])
        print(f"{name} ({time.monotonic() - began:.0f} s)")
        for key, value in counts.items():
            print(f"    {key:24} {value}")
        sys.stdout.flush()
    print("0 lost" if not lost else f"LOST: {lost}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
