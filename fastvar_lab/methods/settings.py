"""The settings of methods: what their fields are, for controls that know no method by name.

A method says all of it itself: its fields and their types, what its docstring says of each, and,
where a value has no default that suits every model, a class method `example(grids, depth)`.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from fastvar_lab.methods.columns import family
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.registry import classes
from fastvar_lab.methods.restore import Restorer
from fastvar_lab.methods.select import Selector
from fastvar_lab.seam import Grid, Method

KINDS = (
    *("shares", "scale", "layers", "names", "selector", "restorer", "method", "switch"),
    *("integer", "number", "choice", "text", "lines", "literal"),
)
"""What a setting can be: shares pruned by scale, a scale step, a half-open range of layers, names
of sublayers, a rule, another method, a bool, an int, a float, one of `choices`, a string, what is
shown as lines of text and not set (`metadata["lines"]` of its field writes it), or any other value,
written as a Python literal."""


class Setting(NamedTuple):
    """One field of a method: its name, kind (of `KINDS`), and what its docstring says of it.

    `optional` means that it may be None; `choices` are the values of a "choice".
    """

    name: str
    kind: str
    text: str = ""
    optional: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def label(self) -> str:
        """The name as it is shown.

        >>> Setting("cache_step", "scale").label
        'cache step'
        """
        return self.name.replace("_", " ")


@cache
def settings(kind: type) -> tuple[Setting, ...]:
    """Return the settings of a method's class, in the order of its fields.

    Fields that do not take part in comparisons, or are filled in, are left out. Raises
    ValueError for a class that is no dataclass.

    >>> from fastvar_lab.methods.depthvar import DepthVAR
    >>> [(s.name, s.kind) for s in settings(DepthVAR)][:2]
    [('reference', 'scale'), ('shape', 'choice')]
    >>> settings(DepthVAR)[1].choices
    ('linear', 'constant', 'two-level')
    """
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"a method has settings if it is a dataclass; {kind.__name__} is none")
    try:
        hints = get_type_hints(kind)
    except NameError:  # a type that only the place of the class knows
        hints = {}
    return tuple(
        _setting(kind, field, hints.get(field.name, Any))
        for field in dataclasses.fields(kind)
        if field.init and field.compare and not field.metadata.get("filled")
    )


def _setting(kind: type, field: dataclasses.Field[Any], hint: Any) -> Setting:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    optional, choices = type(None) in members, tuple(field.metadata.get("choices", ()))
    members = tuple(member for member in members if member is not type(None))
    if get_origin(members[0]) is Literal:
        choices = choices or get_args(members[0])
    form = "choice" if choices else _form(field.name, members)
    form = "lines" if "lines" in field.metadata else form
    return Setting(field.name, form, explanation(kind, field.name), optional, choices)


def _form(name: str, members: tuple[Any, ...]) -> str:
    """Return the kind of a setting by the members of its type, without None."""
    if set(members) == set(get_args(ScaleName)):
        return "scale"
    if members[0] == Mapping[ScaleName, float]:
        return "shares"
    if members == (tuple[str, ...],) and name == "sublayers":
        return "names"
    if members == (tuple[int, int],) and name == "layers":
        return "layers"
    forms: dict[Any, str] = {bool: "switch", int: "integer", float: "number", str: "text"}
    forms |= {Selector: "selector", Restorer: "restorer", Method: "method"}
    return forms.get(members[0], "literal") if len(members) == 1 else "literal"


def lines(method: Method, name: str, grids: Sequence[Grid]) -> list[str]:
    """Return how a setting of the kind "lines" is shown, for the scale steps of a model."""
    (field,) = (f for f in dataclasses.fields(method) if f.name == name)  # type: ignore[arg-type]
    return list(field.metadata["lines"](getattr(method, name), grids))


def explanation(kind: type, name: str) -> str:
    """Return the first clause of a class's docstring, or a base's, that names a field.

    >>> from fastvar_lab.methods.prune import Prune
    >>> explanation(Prune, "ratios")
    'ratios maps scale names to the share of tokens pruned.'
    """
    for cls in kind.__mro__:
        prose = " ".join((cls.__dict__.get("__doc__") or "").split(">>>")[0].split())
        for sentence in re.split(r"(?<=[.;]) ", prose):
            if re.search(rf"`{name}\b", sentence):
                return sentence.replace("`", "").rstrip(".;") + "."
    return ""


def summary(kind: type) -> str:
    """Return the first sentence of a class's docstring, without its full stop."""
    return (kind.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").strip().rstrip(".")


def example(kind: type, grids: Sequence[Grid], depth: int) -> Method:
    """Return a method of a class to begin with, for a schedule and a number of layers.

    That is what its class method `example` returns, or the class called without arguments. Raises
    ValueError for a class that has neither, or whose example does not fit the model.

    >>> from fastvar_lab.methods.merge import Merge
    >>> from fastvar_lab.scales import TINY, grids
    >>> example(Merge, grids(TINY), depth=8).pairs
    ((-2, 0.5), (-1, 0.75))
    """
    make = getattr(kind, "example", None)
    try:
        method = kind() if make is None else make(grids, depth)
    except TypeError as error:
        raise ValueError(
            f"{kind.__name__} needs values that nothing gives by itself ({error})"
        ) from None
    check(method, grids, depth)
    return method


def check(method: Method, grids: Sequence[Grid], depth: int) -> None:
    """Raise ValueError for a method that does not fit a schedule or a number of layers."""
    method.acts(grids)
    method.start(grids, depth)


def examples(grids: Sequence[Grid], depth: int) -> dict[str, Method]:
    """Return a method of every registered family that suits a model, by the family's name.

    >>> from fastvar_lab.scales import TINY, grids
    >>> {"full", "FastVAR", "ToMe"} <= examples(grids(TINY), depth=8).keys()
    True
    """
    out: dict[str, Method] = {}
    for kind in classes().values():
        if not hasattr(kind, "acts"):
            continue  # a selector or restorer
        try:
            method = example(kind, grids, depth)
        except ValueError:
            continue  # needs a calibration, or another schedule
        out[family(method)] = method
    return out


def scales_that_fit(
    method: Method, name: str, grids: Sequence[Grid], depth: int
) -> tuple[ScaleName, ...]:
    """Return the scale steps, named from the end, that a method accepts as its field `name`.

    All of them if it accepts none: something else is wrong then.

    >>> from fastvar_lab.methods.prune import Prune
    >>> from fastvar_lab.scales import TINY, grids
    >>> scales_that_fit(Prune({-2: 0.5, -1: 0.75}), "cache_step", grids(TINY), 8)[-1]
    -3
    """
    every = tuple(range(-len(grids), 0))
    fitting: list[ScaleName] = []
    for step in every:
        try:
            check(dataclasses.replace(method, **{name: step}), grids, depth)  # type: ignore[type-var]
        except ValueError:
            continue
        fitting.append(step)
    return tuple(fitting) or every
