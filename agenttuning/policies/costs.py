"""What one request costs, from its tokens and the recipe's prices: pure functions.

Sums by environment and per kept trajectory are made from what is stored; what a run spent in all, with the requests
whose answers were lost, is in the budget's own account (`budget.Reading`).
"""

from agenttuning.recipe import Prices

MILLION = 1e6


def price(
    prices: Prices | None, prompt_tokens: int | None, completion_tokens: int | None, cached_tokens: int | None
) -> float | None:
    """Return the cost of one request, or None where prices or tokens are unknown.

    Args:
        prices: per million tokens.
        prompt_tokens: all prompt tokens, the cached ones among them.
        completion_tokens: with those of reasoning, as endpoints count them.
        cached_tokens: unknown counts as none.
    """
    if prices is None or prompt_tokens is None or completion_tokens is None:
        return None
    cached = min(cached_tokens or 0, prompt_tokens)
    cached_price = prices.prompt if prices.cached is None else prices.cached
    fresh = (prompt_tokens - cached) * prices.prompt
    return (fresh + cached * cached_price + completion_tokens * prices.completion) / MILLION


def worst_price(prices: Prices | None, prompt_tokens: int, completion_tokens: int) -> float:
    """Return the most that a request can cost; 0 without prices."""
    if prices is None:
        return 0.0
    dearest = max(prices.prompt, prices.cached or 0.0)
    return (prompt_tokens * dearest + completion_tokens * prices.completion) / MILLION
