"""The gamma distribution's probability and quantile, which are Poisson's and chi-square's as well.

`lower` is the regularised incomplete gamma function P(a, x): by its series below the mean, by a continued fraction
above it (Abramowitz and Stegun 6.5.29 and 6.5.31; Lentz's way to sum it), each where it converges fast. The chance of
at most k events where `mean` are expected is 1 - P(k + 1, mean): it neither overflows nor cancels, however large the
mean.
"""

from __future__ import annotations

import math

_SMALL = 1e-16
_TINY = 1e-300
_MOST_TERMS = 1_000_000
"""The series needs some multiples of sqrt(a) terms: this is enough for a = 1e10."""


def lower(shape: float, x: float) -> float:
    """Return P(shape, x): the probability that a gamma variable of this shape and scale 1 is at most x.

    Raises:
        ValueError: a shape that is not positive, or a negative x.
    """
    return _series(shape, x) if _in_series(shape, x) else 1.0 - _fraction(shape, x)


def upper(shape: float, x: float) -> float:
    """Return Q(shape, x) = 1 - P(shape, x), without cancellation where it is small.

    Raises:
        ValueError: as `lower`.
    """
    return 1.0 - _series(shape, x) if _in_series(shape, x) else _fraction(shape, x)


def quantile(shape: float, probability: float) -> float:
    """Return the x with P(shape, x) = `probability`, to a relative precision of 1e-12, by bisection.

    Raises:
        ValueError: a shape that is not positive, or a probability outside (0, 1).
    """
    if not 0 < probability < 1:
        raise ValueError(f"a quantile of {probability} there is not: it lies between 0 and 1")
    low, high = 0.0, max(shape, 1.0)
    while lower(shape, high) < probability:
        low, high = high, 2 * high
    while high - low > 1e-13 * high and high > _TINY:
        middle = (low + high) / 2
        low, high = (middle, high) if lower(shape, middle) < probability else (low, middle)
    return (low + high) / 2


def poisson_at_most(count: int, mean: float) -> float:
    """Return the probability of at most `count` events where `mean` are expected; none can be fewer than 0.

    Raises:
        ValueError: a negative mean.
    """
    return upper(count + 1, mean) if count >= 0 else 0.0


def _in_series(shape: float, x: float) -> bool:
    if not (shape > 0 and 0 <= x < math.inf):
        raise ValueError(f"the gamma distribution of shape {shape} has no probability at {x}")
    return x < shape + 1


def _weight(shape: float, x: float) -> float:
    """x^a e^-x / Gamma(a): what both expansions are multiplied with."""
    return math.exp(shape * math.log(x) - x - math.lgamma(shape)) if x > 0 else 0.0


def _series(shape: float, x: float) -> float:
    term = total = 1.0 / shape
    for number in range(1, _MOST_TERMS):
        term *= x / (shape + number)
        total += term
        if term < total * _SMALL:
            break
    return min(total * _weight(shape, x), 1.0)


def _fraction(shape: float, x: float) -> float:
    b = x + 1.0 - shape
    c, d = 1.0 / _TINY, 1.0 / b
    found = d
    for number in range(1, _MOST_TERMS):
        a = -number * (number - shape)
        b += 2.0
        d = 1.0 / (_away_from_zero(a * d + b))
        c = _away_from_zero(b + a / c)
        found *= c * d
        if abs(c * d - 1.0) < _SMALL * 10:
            break
    return min(found * _weight(shape, x), 1.0)


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
