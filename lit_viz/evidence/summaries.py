"""How sure is a share that was counted?"""

from __future__ import annotations

import math

from lit_viz.errors import LitVizError


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval of a proportion by Wilson's score (Wilson 1927, equation 1; Newcombe 1998, method 3).

    Unlike the mean plus or minus its standard error it never leaves [0, 1], and has a width at 0 of n and n of n, too.

    Args:
        successes: how many of ``n`` trials.
        n: trials; of none nothing is known, and the interval is (0, 1).
        z: quantile of the normal distribution; 1.96 for 95 %.

    Returns:
        (low, high), both in [0, 1].

    Raises:
        LitVizError: there are fewer than no successes or more than trials.
    """
    if not 0 <= successes <= n:
        raise LitVizError(f"of {n} trials {successes} can't have succeeded")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    middle = share + z**2 / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * reach) / (1 + z**2 / n) for sign in (-1, 1))
    # Exact at the ends, where rounding would leave a last bit.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)
