"""How far the spectra after each scale step are from those after the last one."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.frames import PLACE


def gap_to_last(spectra: pd.DataFrame) -> pd.Series:
    """Return each amplitude's difference to the last step's, in the same picture and domain.

    Pictures of other models or guidance scales are others. `spectra` has the columns of
    `spectrum_frame`; nan for features, whose maps differ in size.

    >>> rows = {"picture": 0, "domain": "image", "frequency": 0.5, "step": [9, 8]}
    >>> gap_to_last(pd.DataFrame({**rows, "log10_amplitude": [2.0, 1.5]})).tolist()
    [0.0, -0.5]
    """
    alike = spectra[spectra.domain != "features"].sort_values("step")
    places = [column for column in PLACE if column in alike]
    place = alike.groupby([*places, "picture", "domain", "frequency"], dropna=False)
    gap = alike.log10_amplitude - place.log10_amplitude.transform("last")
    return gap.reindex(spectra.index)
