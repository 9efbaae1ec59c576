"""How well each classifier tells easy prompts from hard ones: ``python -m bench.routing`` (or ``make bench-routing``).

APGR is the area under the performance-gap-recovered curve. Prompts go to the strong model in the order of their score, the
highest first. Recovered is the share of the prompts that are too hard for the weak model. Random order gives 0.50.
"""

import argparse
import bisect
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from unittest.mock import MagicMock

from litellm.router_strategy.complexity_router.complexity_router import ComplexityRouter
from litellm.router_strategy.complexity_router.evals.eval_complexity_router import EVAL_CASES

from bench.routing.data import HERE, Prompt, load
from lmstack.routing import classify
from lmstack.routing.needs import tokens_of

# What an answer costs per tier: the catalog's cheapest of each, USD per million tokens in and out; 500 tokens out.
RATES = ((0.1, 0.4), (0.75, 3.75), (2.0, 10.0))
TOKENS_OUT = 500
STOCK_LEVELS = {"SIMPLE": 0, "MEDIUM": 1, "COMPLEX": 2, "REASONING": 2}


@dataclass(frozen=True)
class Classifier:
    """A score for ranking, a level 0 to 2 for deciding (None: it only ranks)."""

    name: str
    score: Callable[[str], float]
    level: Callable[[str], int] | None = None


def stock(**config: object) -> ComplexityRouter:
    """Return LiteLLM's own router, outside of a proxy."""
    return ComplexityRouter("auto", MagicMock(), {"tiers": dict.fromkeys(STOCK_LEVELS, "m"), **config})


def calibrated_cuts(router: ComplexityRouter, fitted: list[Prompt]) -> tuple[float, float]:
    """Return the two boundaries on stock's score that are right for most of the fitting half."""
    scores = [(router.classify(p.text)[1], p.level) for p in fitted]
    steps = sorted({score for score, _ in scores})
    steps = steps[:: max(1, len(steps) // 60)]
    return max(
        ((a, b) for a, b in product(steps, steps) if a <= b),
        key=lambda cuts: sum(bisect.bisect_right(cuts, score) == level for score, level in scores),
    )


def classifiers(fitted: list[Prompt]) -> list[Classifier]:
    """Return the classifiers to compare."""
    first, second = stock(), stock(classifier_type="heuristic_v2")
    cuts = calibrated_cuts(first, fitted)

    def v2(text: str) -> tuple[float, int]:
        outcome = second._classify_with_heuristic_v2(text)
        assert outcome.heuristic_v2_forecast is not None
        return 1 - outcome.heuristic_v2_forecast["probabilities"]["SIMPLE"], STOCK_LEVELS[str(getattr(outcome.tier, "value", outcome.tier))]  # fmt: skip

    return [
        Classifier("prompt length", len),
        Classifier("stock, defaults", lambda t: first.classify(t)[1], lambda t: STOCK_LEVELS[first.classify(t)[0].value]),
        Classifier("stock, calibrated", lambda t: first.classify(t)[1], lambda t: bisect.bisect_right(cuts, first.classify(t)[1])),
        Classifier("stock heuristic_v2", lambda t: v2(t)[0], lambda t: v2(t)[1]),
        Classifier("lmstack (auto)", lambda t: classify.classify(t).score, lambda t: classify.GROUPS.index(classify.classify(t).group)),
    ]  # fmt: skip


def apgr(prompts: list[Prompt], score: Callable[[str], float]) -> float:
    """Return the mean over all thresholds. Prompts of equal score count with the mean of all their orders."""
    ranked = sorted(((score(p.text), p.level > 0) for p in prompts), key=lambda r: -r[0])
    hard = sum(flag for _, flag in ranked)
    area, recovered, place = 0.0, 0.0, 0
    while place < len(ranked):
        end = place
        while end < len(ranked) and ranked[end][0] == ranked[place][0]:
            end += 1
        caught = sum(flag for _, flag in ranked[place:end])
        area += (end - place) * (recovered + caught / 2)
        recovered, place = recovered + caught, end
    return area / (len(ranked) * hard)


def report(title: str, prompts: list[Prompt], compared: list[Classifier], matrix: bool) -> None:
    """Print one table."""
    print(f"\n{title}: {len(prompts)} prompts, {sum(p.level > 0 for p in prompts)} of them too hard for the weak model")
    print(f"{'':20} {'APGR':>6} {'right':>6} {'enough':>7} {'USD/1k':>8} {'us each':>8}")
    for c in compared:
        line = f"{c.name:20} {apgr(prompts, c.score):6.2f}"
        if c.level is not None:
            levels = [c.level(p.text) for p in prompts]
            right = statistics.fmean(level == p.level for level, p in zip(levels, prompts, strict=True))
            enough = statistics.fmean(level >= p.level for level, p in zip(levels, prompts, strict=True))
            line += f" {right:6.0%} {enough:7.0%} {cost(prompts, levels):8.2f}"
        print(f"{line} {microseconds(prompts, c.score):8.0f}" if c.level else line)
    for c in compared if matrix else []:
        if c.level is not None:
            print(f"\n{c.name}, rows: label, columns: decision (cheap, standard, premium)")
            for level in range(3):
                row = [c.level(p.text) for p in prompts if p.level == level]
                print(f"  {level}  " + " ".join(f"{row.count(column):4}" for column in range(3)))


def cost(prompts: list[Prompt], levels: list[int]) -> float:
    """Return the US dollars per thousand prompts."""
    each = [tokens_of(p.text) * RATES[v][0] + TOKENS_OUT * RATES[v][1] for p, v in zip(prompts, levels, strict=True)]
    return statistics.fmean(each) / 1000


def microseconds(prompts: list[Prompt], score: Callable[[str], float]) -> float:
    """Return the CPU time of one decision."""
    start = time.process_time()
    for p in prompts:
        score(p.text)
    return (time.process_time() - start) / len(prompts) * 1e6


def stocks_own_cases() -> list[Prompt]:
    """Return LiteLLM's evaluation cases, with its labels."""
    return [Prompt(STOCK_LEVELS[c.expected_tier.value], "litellm", "en", c.prompt) for c in EVAL_CASES]


def main() -> None:
    """Print every table; ``--data`` adds one for a file of your own with the same four columns."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing")
    parser.add_argument("--data", type=Path, help="level, kind, language, text, separated by tabs")
    given = parser.parse_args().data
    ours = load()
    compared = classifiers([p for p in ours if not p.held_out])
    report("Our prompts, held-out half", [p for p in ours if p.held_out], compared, matrix=True)
    for language in ("en", "de", "fr", "es", "zh"):
        held = [p for p in ours if p.held_out and p.language == language]
        scores = ", ".join(f"{c.name} {apgr(held, c.score):.2f}" for c in compared[1:])
        print(f"  {language} ({len(held)}): {scores}")
    report("LiteLLM's own evaluation cases, its labels", stocks_own_cases(), compared, matrix=False)
    report("MMLU, school against college and professional", load(HERE / "mmlu.tsv"), compared, matrix=False)
    if given:
        report(str(given), load(given), compared, matrix=False)
    long = "word " * 40_000
    for c in compared[1:]:
        print(
            f"a prompt of 200,000 characters, {c.name}: {microseconds([Prompt(0, '', '', long)], c.score) / 1000:.1f} ms"
        )


if __name__ == "__main__":
    main()
