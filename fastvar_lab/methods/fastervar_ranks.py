"""Published rank shares of FasterVAR for Infinity: by energy, side and chunk of four layers.

Source: sen-mao/FasterVAR at 0653b99a, Infinity/infinity/utils/rank_ratio.py, rounded to 5 digits.
Of the ten energies there, three are kept: 0.96 is the default of the demo, 0.98 and 0.90 bracket
it. The table of 0.95 repeats a row of 0.98. A share counts min(L, C) singular values, but is
applied to all L tokens, which are more than the C = 2048 channels at sides 48 and 64. The ranks
come from prompts of the benchmark (a review), not from a held-out set.
"""

from __future__ import annotations

RANKS: dict[float, dict[int, tuple[float, ...]]] = {
    0.98: {
        40: (0.01834, 0.20916, 0.31666, 0.37464, 0.38998, 0.30464, 0.23450, 0.28283),
        48: (0.01451, 0.18063, 0.28136, 0.33049, 0.35321, 0.27599, 0.19979, 0.24516),
        64: (0.01143, 0.10743, 0.17618, 0.17555, 0.17234, 0.10672, 0.10224, 0.15035),
    },
    0.96: {
        40: (0.01678, 0.13648, 0.21039, 0.25028, 0.25588, 0.19788, 0.15700, 0.19090),
        48: (0.01340, 0.11731, 0.18941, 0.22200, 0.23464, 0.18278, 0.13391, 0.16311),
        64: (0.00821, 0.05440, 0.08324, 0.06649, 0.05667, 0.02968, 0.03826, 0.05566),
    },
    0.90: {
        40: (0.01320, 0.06357, 0.11822, 0.15203, 0.16453, 0.12796, 0.10703, 0.13340),
        48: (0.01123, 0.05518, 0.09253, 0.09644, 0.09888, 0.08667, 0.06641, 0.07422),
        64: (0.01270, 0.04468, 0.08447, 0.08618, 0.08496, 0.08984, 0.06274, 0.07495),
    },
}


def published_ranks(energy: float = 0.96) -> dict[int, tuple[float, ...]]:
    """Return the published rank shares for an energy, by side; raise ValueError for another.

    >>> published_ranks(0.96)[40][:2]
    (0.01678, 0.13648)
    """
    if energy not in RANKS:
        known = ", ".join(str(known) for known in RANKS)
        raise ValueError(f"ranks are published for the energies {known}; not {energy}")
    return dict(RANKS[energy])
