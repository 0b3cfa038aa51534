"""What the controls of methods offer: families and rules of the library, and given ones."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from fastvar_lab.audit import check_model, check_value
from fastvar_lab.errors import short
from fastvar_lab.methods import registry, settings
from fastvar_lab.methods.calibrated_keys import ORDERS
from fastvar_lab.methods.columns import family
from fastvar_lab.methods.heatkv import HeatKV
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Method


@dataclasses.dataclass
class Offer:
    """What the panels of one Explorer offer: a model, and families and rules by their labels."""

    model: Model
    families: dict[str, Method]
    selectors: dict[str, Any]
    restorers: dict[str, Any]


def offered(
    model: Model,
    selectors: Mapping[str, Any],
    restorers: Mapping[str, Any],
    methods: Mapping[str, Method],
    plans: Iterable[Method] = (),
) -> Offer:
    """Return what is offered for a model: families and rules of the library, and given ones.

    Those of the model's preset and of `plans` come with them, the rules of given methods and the
    methods inside them, and HeatKV where it was calibrated for the model. A given method that does
    not fit the model is left out.
    """
    grids = model.grids()
    examples = settings.examples(grids, model.depth)
    if model.name in ORDERS:
        examples[HeatKV.family] = HeatKV(0.5, ORDERS[model.name])
    families = {name: method for name, method in examples.items() if not misfit(method, model)}
    fitting = {name: method for name, method in methods.items() if not misfit(method, model)}
    offer = Offer(
        model, families | fitting,
        {**registry.selectors(), **selectors}, {**registry.restorers(), **restorers},
    )  # fmt: skip
    for method in [*([model.preset] if model.preset else []), *plans, *fitting.values()]:
        _add(offer, method)
    return offer


def misfit(method: Method, model: Model) -> str:
    """Return why a method does not fit a model; nothing if it does."""
    try:
        check_value(method)
        settings.settings(type(method))
        settings.check(method, model.grids(), model.depth)
        check_model(method, model, model.sampling)
        _check_comparable(method)
    except ValueError as error:
        return str(error)
    return ""


def _check_comparable(method: Method) -> None:
    """Raise ValueError for a method with a field, such as an array, that compares to no bool."""
    try:
        bool(method == copy.deepcopy(method))
    except (ValueError, RuntimeError):
        raise ValueError(
            f"the fields of {type(method).__name__} do not compare; hold arrays as tuples"
        ) from None


def _add(offer: Offer, method: Method) -> None:
    """Offer a method, if none of its class is, and the rules and methods inside it."""
    if all(type(method) is not type(known) for known in offer.families.values()):
        name = family(method)
        offer.families[short(method, 60) if name in offer.families else name] = method
    for setting in settings.settings(type(method)):
        value = getattr(method, setting.name)
        if setting.kind == "method" and value is not None:
            _add(offer, value)
        rules = {"selector": offer.selectors, "restorer": offer.restorers}.get(setting.kind)
        if rules is not None and value is not None and value not in rules.values():
            rules[short(value, 60)] = value
