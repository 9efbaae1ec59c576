"""Fitted by `python -m bench.routing.train`; do not edit. `make bench-routing` measures it."""

WEIGHTS = {
    "all": 0.868,
    "analyse": 1.054,
    "build": 0.954,
    "choices": 0.345,
    "clauses": 0.263,
    "code": 0.288,
    "deep": 1.353,
    "explain": 0.676,
    "fact": -0.318,
    "greeting": -0.488,
    "howto": -0.713,
    "long_words": 0.285,
    "make": 0.715,
    "maths": 0.463,
    "numbers": -0.151,
    "pasted": -0.764,
    "prove": 1.017,
    "quoted": 0.006,
    "size": 0.64,
    "story": 0.706,
    "tiny": -0.509,
    "trivial": -1.268,
    "trivial_only": -0.8,
}
# Scores below the first cut are for cheap, below the second for standard, the rest for premium.
CUTS = (0.934, 2.952)
