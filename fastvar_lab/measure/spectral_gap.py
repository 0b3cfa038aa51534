"""How far the spectra after each scale step are from those after the last one."""

from __future__ import annotations

import pandas as pd


def gap_to_last(spectra: pd.DataFrame) -> pd.Series:
    """Return each amplitude's difference to the last step's, in the same picture and domain.

    `spectra` has the columns of `spectrum_frame`; nan for features, whose maps differ in size.

    >>> rows = {"picture": 0, "domain": "image", "frequency": 0.5, "step": [9, 8]}
    >>> gap_to_last(pd.DataFrame({**rows, "log10_amplitude": [2.0, 1.5]})).tolist()
    [0.0, -0.5]
    """
    alike = spectra[spectra.domain != "features"].sort_values("step")
    place = alike.groupby(["picture", "domain", "frequency"])
    gap = alike.log10_amplitude - place.log10_amplitude.transform("last")
    return gap.reindex(spectra.index)
