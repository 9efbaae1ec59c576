"""Fit lmstack/routing/weights.py on the prompts that are not held out: ``python -m bench.routing.train``.

An ordinal logistic regression (one score, two cuts) by plain gradient descent; deterministic.
"""

from pathlib import Path

import numpy as np

from bench.routing.data import Prompt, load
from lmstack.routing import classify

TARGET = Path(classify.__file__).with_name("weights.py")
RIDGE, RATE, ROUNDS = 0.02, 0.3, 6000


def fit(prompts: list[Prompt]) -> tuple[dict[str, float], tuple[float, float]]:
    """Weights by feature, and the two cuts on the score that a wrong decision costs least at."""
    rows = [classify.features(p.text) for p in prompts]
    names = sorted(rows[0])
    x = np.array([[row[name] for name in names] for row in rows])
    level = np.array([p.level for p in prompts])
    w, cuts = np.zeros(len(names)), np.array([0.0, 1.0])
    share = 1 / len(prompts)
    for _ in range(ROUNDS):
        gradient, slope = RIDGE * w, np.zeros(2)
        for place in (0, 1):
            miss = 1 / (1 + np.exp(cuts[place] - x @ w)) - (level > place)
            gradient = gradient + share * (x.T @ miss)
            slope[place] = -share * miss.sum()
        w, cuts = w - RATE * gradient, cuts - RATE * slope
    return {n: round(float(v), 3) for n, v in zip(names, w, strict=True)}, (round(float(cuts[0]), 3), round(float(cuts[1]), 3))  # fmt: skip


def main() -> None:
    """Write the module."""
    weights, cuts = fit([p for p in load() if not p.held_out])
    lines = [
        '"""Fitted by `python -m bench.routing.train`; do not edit. `make bench-routing` measures it."""\n',
        "WEIGHTS = {",
        *(f'    "{name}": {value},' for name, value in weights.items()),
        "}",
        "# Scores below the first cut are for cheap, below the second for standard, the rest for premium.",
        f"CUTS = ({cuts[0]}, {cuts[1]})",
    ]
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TARGET}: {len(weights)} weights, cuts {cuts}")


if __name__ == "__main__":
    main()
