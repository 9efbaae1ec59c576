"""route: explain where a prompt would go."""

from typing import Annotated

import typer

from lmstack.cli.app import Context, command
from lmstack.cli.options import OneOf, model_names
from lmstack.operate.explain import Explanation, explain_route
from lmstack.result import Result, usd
from lmstack.routing.candidates import AUTO, GROUPS
from lmstack.routing.weights import CUTS


@command("route", 'lm route "Prove that there are infinitely many primes"')
def route(
    context: Context,
    prompt: Annotated[str, typer.Argument(help="The text that a user would send.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model that the request asks for.", autocompletion=model_names)] = AUTO,
    tier: Annotated[str | None, typer.Option("--tier", help="The value of header x-lm-tier."), OneOf(tuple(GROUPS))] = None,
    max_cost: Annotated[float | None, typer.Option("--max-cost", help="The value of header x-lm-max-cost, in USD.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="The longest answer, in tokens.")] = None,
) -> Result:  # fmt: skip
    """Explain which models a prompt would go to.

    Shows the score, its signals, the group, the models in their order, and the estimated cost. Calls no provider.
    """
    found = explain_route(context.project, prompt, model, tier, max_cost, max_tokens)
    complexity, first, needs = found.complexity, found.first, found.needs
    data = {
        "asked": model, "score": round(complexity.score, 3), "cuts": list(CUTS), "group": complexity.group,
        "signals": {name: round(share, 3) for name, share in complexity.signals},
        "model": first.name, "provider": first.provider, "tier": first.tier, "fallbacks": found.models[1:],
        "tokens_in": needs.tokens_in, "tokens_out": needs.tokens_out, "estimate_usd": found.estimate,
    }  # fmt: skip
    return Result("route", data, _lines(model, found))


def _lines(model: str, found: Explanation) -> tuple[str, ...]:
    complexity, first, fallbacks = found.complexity, found.first, found.models[1:]
    signals = ", ".join(f"{name} {share:+.2f}" for name, share in complexity.signals[:6])
    return (
        f"score      {complexity.score:.2f}, so {complexity.group} (cheap < {CUTS[0]:g} <= standard < {CUTS[1]:g} <= premium)",
        f"signals    {signals or 'none'}",
        f"asked for  {model}{'' if model == AUTO else ', so the score does not matter'}",
        f"model      {first.name} ({first.provider}, {first.group})",
        f"fallbacks  {', '.join(fallbacks[:4]) or 'none'}{', …' if len(fallbacks) > 4 else ''}",
        f"estimate   {usd(found.estimate)} ({found.needs.tokens_in} tokens in, {found.needs.tokens_out} out)",
    )
