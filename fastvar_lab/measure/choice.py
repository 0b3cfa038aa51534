"""A schedule for each picture: what features tell of its quality, and the best choice of them."""

from __future__ import annotations

import numpy as np
from scipy import optimize

WEIGHT = 1.0  # of the squared coefficients of a prediction, beside the sum of squared errors
SLACK = 1e-9


def predicted(features: np.ndarray, values: np.ndarray, weight: float = WEIGHT) -> np.ndarray:
    """Predict each picture's values (n, k) from its features (n, f), learned from the others.

    Ridge regression of standardised features, leaving one picture out. One picture alone is
    predicted as 0: there is nothing to learn from.

    >>> features = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> predicted(features, 10 * features, weight=0).round(6).ravel().tolist()
    [0.0, 10.0, 20.0, 30.0]
    """
    n = len(features)
    spread = features.std(0)
    z = (features - features.mean(0)) / np.where(spread > 0, spread, 1)
    z = np.column_stack((np.ones(n), z))
    penalty = weight * np.diag([0.0] + [1.0] * (z.shape[1] - 1))
    out = np.empty_like(values, dtype=float)
    for i in range(n):
        rest = np.arange(n) != i
        a, b = z[rest], values[rest]
        out[i] = z[i] @ np.linalg.lstsq(a.T @ a + penalty, a.T @ b, rcond=None)[0]
    return out


def best_choice(values: np.ndarray, costs: np.ndarray, budget: float) -> np.ndarray:
    """Choose a column for each row of `values` (n, k): the largest sum whose mean cost is met.

    `costs` (k,) are those of the columns. Returns (n,) columns. Raises ValueError if no column is
    as cheap as `budget`.

    >>> values = np.array([[9.0, 5.0, 1.0], [4.0, 3.9, 3.8]])
    >>> best_choice(values, np.array([3.0, 2.0, 1.0]), budget=2.0).tolist()
    [0, 2]
    """
    n, k = values.shape
    if costs.min() > budget + SLACK:
        raise ValueError(f"the cheapest choice costs {costs.min():g}, more than {budget:g}")
    once = np.kron(np.eye(n), np.ones(k))  # each row takes one column
    result = optimize.milp(
        -values.ravel(),
        integrality=np.ones(n * k),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(once, 1, 1),
            optimize.LinearConstraint(np.tile(costs, n)[None] / n, -np.inf, budget + SLACK),
        ],
    )
    return result.x.reshape(n, k).argmax(1)
