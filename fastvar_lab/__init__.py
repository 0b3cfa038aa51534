"""fastvar_lab: visual autoregressive image generation with cached token pruning (FastVAR).

>>> import fastvar_lab as fv
>>> model = fv.load("tiny")
>>> full = fv.generate(model, "a red striped circle", fv.Dense(), seed=1, snapshot=True)
>>> fast = fv.resume(model, full, fv.Prune({-2: 0.5, -1: 0.75}))
"""

from typing import Any

import lazy_loader

_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a public name of `__init__.pyi`, or a registered selector, restorer or method."""
    try:
        return _public_name(name)
    except AttributeError:
        if name[:1].isupper():
            from fastvar_lab.methods.registry import classes

            if name in classes():
                return classes()[name]
        raise
