"""Intervals of proportions."""

from scipy.stats import binomtest


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a binomial proportion (scipy).

    Example:
        >>> clopper_pearson(5, 10)
        (0.187..., 0.812...)
    """
    interval = binomtest(hits, n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)
