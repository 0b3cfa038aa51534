"""The controls of a method: its family, and that family's own settings.

No method is known here by name: `methods.settings` says which settings a method has, and a frozen
dataclass of the user's shows up with its own.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, cast

import ipywidgets as widgets

from fastvar_lab.methods import settings
from fastvar_lab.methods.ratios import ScaleName
from fastvar_lab.methods.schedule import find
from fastvar_lab.methods.select_painted import Painted
from fastvar_lab.methods.settings import Setting
from fastvar_lab.seam import Method
from fastvar_lab.widgets import fields
from fastvar_lab.widgets.fields import Choice, Field, Toggle
from fastvar_lab.widgets.lifetime import close_parts
from fastvar_lab.widgets.number_fields import Integer, Number, Share
from fastvar_lab.widgets.offer import Offer
from fastvar_lab.widgets.page import box, visible

SCALES = 4  # last scales whose shares stand in front; those of earlier ones are folded
FEW = 3  # settings that stand in front


class MethodPanel(widgets.Box):
    """Chooses a family and sets its fields; `changed` is called when the method has changed.

    `apply` sets the controls to a method. `shares` are the controls of pruned shares by scale, from
    the end, of a family that has them.
    """

    def __init__(
        self, offer: Offer, method: Method, changed: Callable[[], None], label: str = "method"
    ) -> None:
        self.offer, self.changed, self.label = offer, changed, label
        self.quiet = False
        self.family: Choice = Choice(
            label, self._family_of(method), "The family of the method; its settings follow.",
            [(name, name) for name in offer.families],
        )  # fmt: skip
        self.about = widgets.HTML()
        self.about.add_class("fv-quiet")
        self.front, self.folded = box("fv-fields"), box("fv-fields fv-hidden")
        self.more = Toggle("More settings", False, "Settings that are rarely changed.")
        super().__init__([self.family, self.about, self.front, self.more, self.folded])
        self.add_class("fv-method")
        self.add_class("fv-part-inner")
        self.controls: dict[str, Any] = {}
        self.shares: dict[int, Share] = {}
        self._build(method, self.family.value)
        self.family.observe(self._switched, "value")
        self.more.observe(lambda change: self._fold(not change.new), "value")

    def _family_of(self, method: Method) -> str:
        """Return the label of the offered family whose class a method has."""
        for name, known in self.offer.families.items():
            if type(known) is type(method):
                return name
        allowed = ", ".join(self.offer.families)
        raise ValueError(f"the controls know {allowed}; not {type(method).__name__}")

    @property
    def method(self) -> Method:
        """The method that the controls are set to; raises ValueError for what is none."""
        kind = type(self.offer.families[self.family.value])
        for name, control in self.controls.items():
            if getattr(control, "invalid", False):
                raise ValueError(f"{name}: {control.error}")
        values = {name: self._value(name) for name in self.controls}
        if any(share.invalid for share in self.shares.values()):
            raise ValueError("a share cannot be read")
        return kind(**values)

    @property
    def wrong(self) -> bool:
        """Whether an error stands under one of the controls."""
        inner = (c.wrong for c in self.controls.values() if isinstance(c, MethodPanel))
        return any(field.error for field in self._fields()) or any(inner)

    def _value(self, name: str) -> Any:
        control = self.controls[name]
        if control is self.shares:
            return {back: share.value for back, share in sorted(self.shares.items()) if share.value}
        return control.method if isinstance(control, MethodPanel) else control.value

    def apply(self, method: Method) -> None:
        """Set the controls to a method; raise ValueError if they cannot express it."""
        family = self._family_of(method)
        grids, depth = self.offer.model.grids(), self.offer.model.depth
        settings.check(method, grids, depth)
        self._express(method)
        self._build(method, family)

    def _express(self, method: Method) -> None:
        """Raise ValueError for a rule or an inner method that is not offered."""
        for setting in settings.settings(type(method)):
            value = getattr(method, setting.name)
            if setting.kind == "method" and value is not None:
                self._family_of(value)
                self._express(value)
            rules = self._rules(setting, value)
            if rules is not None and all(value != rule for rule in rules.values()):
                raise ValueError(
                    f"the {setting.kind} must be one of {', '.join(rules)}; not {value!r}"
                )

    def _rules(self, setting: Setting, value: Any) -> dict[str, Any] | None:
        """Return the rules to choose from; a painted one is offered while it is chosen."""
        offer = {"selector": self.offer.selectors, "restorer": self.offer.restorers}
        rules = offer.get(setting.kind)
        if rules is None:
            return None
        none = {fields.NONE: None} if setting.optional else {}
        painted = {Painted.family: value} if isinstance(value, Painted) else {}
        return {**none, **rules, **painted}

    def _build(self, method: Method, family: str) -> None:
        """Make the controls of a method's family, set to the method.

        Raises ValueError, and changes nothing, for a value that a control refuses.
        """
        old = [*self.front.children, *self.folded.children]
        controls: dict[str, Any] = {}
        shares: dict[int, Share] = {}
        front: list[Any] = []
        folded: list[Any] = []
        chosen = settings.settings(type(method))
        for place, setting in enumerate(chosen):
            value = getattr(method, setting.name)
            if setting.kind == "shares":
                controls[setting.name] = shares = self._shares(value)
                for back, share in sorted(shares.items(), reverse=True):
                    late = -back <= SCALES or share.value
                    (front if late else folded).append(share)
                continue
            control = self._control(setting, value, method)
            controls[setting.name] = control
            (front if place < FEW else folded).append(control)
        self.controls, self.shares = controls, shares
        self._name(family)
        for control in self._fields():
            control.observe(lambda change: self._set(change.owner), ["value", "invalid"])
        self.about.value = html.escape(settings.summary(type(method))) + "."
        self.front.children, self.folded.children = front, folded
        self._fold(not self.more.value)
        visible(self.more, bool(folded))
        for control in old:
            close_parts(control)
        self._offer_scales()

    def _fields(self) -> list[Field]:
        """Return all fields of the family, without those of a method inside it."""
        plain = [c for c in self.controls.values() if isinstance(c, Field)]
        return [*plain, *self.shares.values()]

    def _shares(self, pairs: Any) -> dict[int, Share]:
        grids = self.offer.model.grids()
        ratios = {find(name, grids) - len(grids): ratio for name, ratio in pairs}
        return {
            step - len(grids): Share(
                f"pruned at {grid.name}", ratios.get(step - len(grids), 0.0),
                "Share of the tokens of this step that is pruned: 30, 30 % and 0.3 mean 30 %. "
                "100 % skips the step.",
            )
            for step, grid in enumerate(grids)
            if not grid.prefix and (step or ratios.get(-len(grids)))
        }  # fmt: skip

    def _control(self, setting: Setting, value: Any, method: Method) -> Any:
        """Make the control of one setting."""
        label, text = setting.label, setting.text or f"The setting {setting.name}."
        rules = self._rules(setting, value)
        if rules is not None:
            label = setting.kind
            return Choice(label, value, text, list(rules.items()))
        if setting.kind == "method" and value is not None:
            return MethodPanel(self.offer, value, self._changed, "inner method")
        if setting.kind == "scale":
            return Choice(label, self._from_end(value), text, self._scales(setting))
        if setting.kind == "choice":
            none = [(fields.NONE, None)] if setting.optional else []
            return Choice(label, value, text, [*none, *((str(c), c) for c in setting.choices)])
        if setting.kind == "layers":
            depth = self.offer.model.depth
            return fields.Layers(label, value, text, depth=depth, optional=setting.optional)
        if setting.kind == "names":
            return fields.Names(
                label, value, text, options=list(self.offer.model.transformer.kinds)
            )
        if setting.kind == "lines":
            lines = settings.lines(method, setting.name, self.offer.model.grids())
            return fields.Lines(label, value, text, lines)
        if setting.kind == "switch":
            switch = [("on", True), ("off", False), (fields.NONE, None)]
            return (
                Choice(label, value, text, switch)
                if setting.optional
                else fields.Switch(label, value, text)
            )
        plain = {"text": Field, "integer": Integer, "number": Number}
        kind = plain.get(setting.kind, fields.Literal)
        return kind(label, value, text, nullable=setting.optional)

    def _from_end(self, name: ScaleName | None) -> int | None:
        grids = self.offer.model.grids()
        return None if name is None else find(name, grids) - len(grids)

    def _scales(self, setting: Setting, steps: Any = None) -> list[tuple[str, Any]]:
        grids = self.offer.model.grids()
        every = range(-len(grids), 0) if steps is None else steps
        none = [("by itself", None)] if setting.optional else []
        return [*none, *((grids[step].name, step) for step in every)]

    def _offer_scales(self) -> None:
        """Offer those scale steps alone that the method accepts as it is set."""
        kind = type(self.offer.families[self.family.value])
        grids, depth = self.offer.model.grids(), self.offer.model.depth
        for setting in settings.settings(kind):
            if setting.kind != "scale":
                continue
            try:
                steps = settings.scales_that_fit(self.method, setting.name, grids, depth)
            except ValueError:
                continue  # said under the field that is wrong
            cast(Choice, self.controls[setting.name]).offer(self._scales(setting, steps))

    def _set(self, control: Field) -> None:
        """Check the method that a control was set to, and pass the change on."""
        if self.quiet:
            return
        for other in [self.family, *self._fields()]:
            if not other.invalid:
                other.error = ""
        if not control.invalid:
            try:
                settings.check(self.method, self.offer.model.grids(), self.offer.model.depth)
                self._offer_scales()
            except ValueError as error:
                control.error = str(error)
        self.changed()

    def _changed(self) -> None:
        if not self.quiet:
            self.changed()

    def _name(self, family: str) -> None:
        """Show the name of a family, whose settings are there."""
        self.quiet = True
        try:
            self.family.value = family
        finally:
            self.quiet = False

    def _switched(self, change: Any) -> None:
        """Show the settings of another family, or why they cannot be shown."""
        if self.quiet:
            return
        try:
            self._build(self.offer.families[change.new], change.new)
        except ValueError as error:
            self._name(change.old)
            self.family.error = str(error)
            return
        self.changed()

    def _fold(self, closed: bool) -> None:
        visible(self.folded, not closed)
