"""SkipVAR: decides from each picture so far how many last steps to skip, or to run on one row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvar_lab.draws import sent
from fastvar_lab.errors import short
from fastvar_lab.files import digest, expanded, read_json
from fastvar_lab.methods.registry import method
from fastvar_lab.methods.spaces import Subject, space
from fastvar_lab.seam import Act, Grid, Handles, Rows, Runner, Site
from fastvar_lab.values import filled_in

RULES = Path(__file__).with_name("skipvar_rules.json")
"""The rules of the package: published ones, and those fitted on the shipped model."""


class Linear(NamedTuple):
    """A linear classifier of standardised features: the class of the largest `W z + b`."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    classes: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    def __call__(self, features: Sequence[float]) -> int:
        """Return the class of a picture's features."""
        z = [(f - m) / s for f, m, s in zip(features, self.mean, self.scale, strict=True)]
        values = [
            sum(w * value for w, value in zip(row, z, strict=True)) + bias
            for row, bias in zip(self.weights, self.bias, strict=True)
        ]
        return self.classes[values.index(max(values))]


class Origin(NamedTuple):
    """What a rule was fitted on: family, model, its weights in a precision, and guidance.

    What is not known is empty, and is not compared: the published rules know their family alone.
    """

    family: str = ""
    model: str = ""
    weights: str = ""
    precision: str = ""
    guidance: float | None = None


class Rule(NamedTuple):
    """A decision rule for schedules of `steps` steps, taken after step `decide`.

    Features come from the latents after `decide` and the step before it, decoded at the size of the
    map of step `look`. `skip` gives the number of last steps to skip; where it is 0, `rows` gives
    the number of last steps that run the conditional rows alone.
    """

    steps: int
    decide: int
    look: int
    skip: Linear
    rows: Linear
    origin: Origin = Origin()

    def tails(self, features: Sequence[float]) -> tuple[int, int]:
        """Return the number of last steps to skip, and to run on the conditional rows alone."""
        skipped = self.skip(features)
        return skipped, 0 if skipped else self.rows(features)


def read_rule(name: str) -> tuple[Rule, str]:
    """Return a rule of the package by its name, or one from a JSON file by its path.

    The second value is the digest of the file, empty for rules of the package. Raises ValueError
    for an unknown name and for a file that holds no rule.
    """
    rules = read_json(RULES.read_bytes())
    if name in rules:
        return as_rule(rules[name]), ""
    path = expanded(name)
    if path.suffix != ".json" and not path.exists():
        raise ValueError(
            f"a rule of SkipVAR is one of {', '.join(rules)} or a JSON file; not {name!r}"
        )
    try:
        content = path.read_bytes()
        return as_rule(read_json(content)), digest(content, length=8)
    except OSError as error:
        raise ValueError(f"cannot read the rule {name}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} holds no rule of SkipVAR: {short(error)}") from error


def fitted_rules(model: str, guidance: Any, steps: int) -> list[str]:
    """Return the package's rules that were fitted on a model at a guidance scale, mildest first.

    >>> fitted_rules("tiny", 2.0, 10)
    ['tiny-0.98', 'tiny-0.96', 'tiny-0.94', 'tiny-0.92', 'tiny-0.9', 'tiny-0.88']
    """
    return [
        name
        for name, rule in read_json(RULES.read_bytes()).items()
        if (rule.get("model"), rule.get("guidance"), rule["steps"]) == (model, guidance, steps)
    ]


def as_rule(values: Mapping[str, Any]) -> Rule:
    """Convert parsed JSON to a rule; raise KeyError, TypeError or ValueError for another shape."""
    parts = []
    for name in ("skip", "rows"):
        part = values[name]
        linear = Linear(
            tuple(map(float, part["mean"])),
            tuple(map(float, part["scale"])),
            tuple(map(int, part["classes"])),
            tuple(tuple(map(float, row)) for row in part["weights"]),
            tuple(map(float, part["bias"])),
        )
        if not len(linear.classes) == len(linear.weights) == len(linear.bias) > 0:
            raise ValueError(f"{name} needs weights and a bias for each of its classes")
        if {len(row) for row in (linear.mean, linear.scale, *linear.weights)} != {2}:
            raise ValueError(f"{name} needs two numbers for each class: one for each feature")
        parts.append(linear)
    steps, decide, look = (int(values[name]) for name in ("steps", "decide", "look"))
    most = max(label for part in parts for label in part.classes)
    if not (1 <= decide < steps and 0 <= look < steps and most < steps - decide):
        raise ValueError(f"its steps {steps}, {decide}, {look} do not fit tails of {most}")
    names = ("family", "model", "weights", "precision")
    family, model, weights, precision = (str(values.get(name, "")) for name in names)
    guidance = float(values["guidance"]) if "guidance" in values else None
    origin = Origin(family, model, weights, precision, guidance)
    return Rule(steps, decide, look, parts[0], parts[1], origin)


def write_rule(rule: Rule, **notes: Any) -> str:
    """Write a rule as JSON, with notes on how it was fitted."""
    values = {
        **{name: value for name, value in rule.origin._asdict().items() if value not in ("", None)},
        "steps": rule.steps,
        "decide": rule.decide,
        "look": rule.look,
        "skip": rule.skip._asdict(),
        "rows": rule.rows._asdict(),
    }
    return json.dumps({**notes, **values}, indent=1) + "\n"


def sobel(gray: Tensor) -> Tensor:
    """Return the magnitude of the 3 x 3 Sobel gradient of (n, h, w), zero-padded."""
    padded = F.pad(gray, (1, 1, 1, 1))
    along = padded[:, :, :-2] - padded[:, :, 2:]
    down = padded[:, :-2] - padded[:, 2:]
    x = along[:, :-2] + 2 * along[:, 1:-1] + along[:, 2:]
    y = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    return (x.square() + y.square()).sqrt()


def high_share(gray: Tensor, radius: float = 0.4) -> Tensor:
    """Return the share of the FFT amplitude of (n, h, w) outside a centred circle: (n,).

    The circle's radius is int(radius * min(h, w) / 2).
    """
    h, w = gray.shape[1:]
    y, x = ((torch.arange(n, device=gray.device) + n // 2) % n - n // 2 for n in (h, w))
    outside = (y.square().unsqueeze(1) + x.square()).sqrt() > int(radius * min(h, w) / 2)
    amplitude = torch.fft.fft2(gray).abs()
    return (amplitude * outside).sum((1, 2)) / (amplitude.sum((1, 2)) + 1e-6)


def features(before: Tensor, after: Tensor) -> Tensor:
    """Return the two features (n, 2) of pictures (n, 3, h, w) in [-1, 1], of two steps.

    The mean difference of their Sobel magnitudes, and the share of high frequencies of the newer.
    """
    old, new = before.float().mean(dim=1), after.float().mean(dim=1)
    change = (sobel(new) - sobel(old)).abs().mean((1, 2))
    return torch.stack((change, high_share(new)), dim=1)


def features_of_latents(
    before: Tensor, after: Tensor, grids: Sequence[Grid], look: int, decode: Any
) -> Tensor:
    """Return the features (n, 2) of latents (n, d, H, W), decoded at the size of step `look`."""
    cells = after.shape[-1] // grids[-1].w  # the latent may be finer than the map of tokens
    size = (cells * grids[look].h, cells * grids[look].w)
    small = F.interpolate(torch.cat((before, after)), size=size, mode="bilinear")
    return features(*(2 * decode(small) - 1).chunk(2))


@method
@dataclass(frozen=True)
class SkipVAR:
    """Skip last steps, or drop the null rows of last steps, as each picture so far decides.

    After one step the latents before and after it are shrunk, decoded, and reduced to two features:
    f1, the mean difference of their Sobel magnitudes, and f2, the share of the newer picture's FFT
    amplitude beyond 0.4 of the Nyquist radius. With z the standardised features, the class
    argmax(W z + b) of a first rule is the number of last steps to skip; where it is 0, a second
    rule gives the number of last steps that run the conditional rows alone. `rule` is a rule of the
    package ("infinity-0.84", "infinity-0.86", "infinity-0.88", "tiny-0.96" ...) or a JSON file that
    `python -m fastvar_lab calibrate skipvar` wrote; `digest` is that of a file, filled in.

    Source: SkipVAR (arXiv 2506.08908) and its released code (fakerone-li/SkipVAR 607be0e), whose
    logistic regressions for three SSIM targets are the three "infinity" rules; they belong to the
    1M schedule and Infinity's tokenizer, and mean nothing elsewhere. Those of "tiny", for six
    SSIM targets from 0.98 to 0.88 at guidance 2, and as "tiny-cfg4" at guidance 4, were fitted
    here, on prompts that nothing is judged on. What the released code does otherwise: one decision
    for a batch, which its loop cannot run anyway. Here every picture decides, and a batch runs what
    one of its pictures needs: pictures that skip add no codes (on VAR and HART, whose smoothing has
    a bias, that is nearly nothing); null rows run until no picture needs them.
    Largest difference to that code, under its rules: 1.2e-7 in the features, no bit. Guessed for
    rules fitted here: that a picture's class is its longest tail at the target, and the steps that
    are looked at, as far from the end as there. The decision waits for the device once, and the
    decoder, which checks its output, once. Counts are upper bounds: full generation's.

    Raises ValueError for an unknown rule, for a schedule of another number of steps, and for a
    model, weights or guidance that the rule is known not to be fitted on.

    >>> SkipVAR().settings.decide
    9
    """

    rule: str = "infinity-0.86"
    digest: str = filled_in("")
    settings: Rule = field(init=False, repr=False, compare=False)

    @classmethod
    def example(cls, grids: Sequence[Grid], depth: int) -> SkipVAR:
        """Return a method to begin with: the package's rule for schedules of as many steps.

        Raises ValueError if there is none.
        """
        rules = read_json(RULES.read_bytes())
        fitted = [name for name in sorted(rules) if as_rule(rules[name]).steps == len(grids)]
        if not fitted:
            raise ValueError(f"no rule of the package was fitted on {len(grids)} steps")
        return cls(fitted[(len(fitted) - 1) // 2])

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", str(self.rule))
        settings, code = read_rule(self.rule)
        if self.digest not in ("", code):
            now = (
                f"has changed: its digest is {code}"
                if code
                else "is the package's: it has no digest"
            )
            raise ValueError(f"the rule {self.rule} {now}; not {short(self.digest)}")
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "digest", code)

    def misfit(self, model: Any, sampling: Any) -> str:
        """Return why the rule means nothing on a model and its sampling; nothing if it does."""
        origin = self.settings.origin
        pairs = [("", origin.family, model.family), ("", origin.model, model.name)]
        if origin.guidance is not None:
            pairs.append(("guidance ", f"{origin.guidance:g}", f"{max(sampling.guidances):g}"))
        if origin.weights and origin.precision == model.precision:  # in others they hash otherwise
            pairs.append(("the weights ", origin.weights, model.fingerprint))
        for what, known, now in pairs:
            if known and known != now:
                return (
                    f"the rule {self.rule} was fitted for {what}{known}; not for {what}{now}; "
                    "`fastvar-lab calibrate skipvar` fits another"
                )
        return ""

    def check_model(self, model: Any, sampling: Any) -> None:
        """Raise ValueError for a model, or guidance, that the rule was not fitted on."""
        if misfit := self.misfit(model, sampling):
            raise ValueError(misfit)

    def cache_index(self, grids: Sequence[Grid]) -> int | None:
        return None

    def stateful_from(self, grids: Sequence[Grid]) -> int:
        """Return the number of steps: its runner carries latents alone, which it recalls."""
        return len(grids)

    def acts(self, grids: Sequence[Grid]) -> tuple[Act, ...]:
        if len(grids) != self.settings.steps:
            raise ValueError(
                f"the rule {self.rule} was fitted on schedules of {self.settings.steps} steps; "
                f"this one has {len(grids)}"
            )
        late = Act(rows=None, key=("SkipVAR", self.settings))
        return tuple(late if grid.index > self.settings.decide else Act() for grid in grids)

    def start(
        self,
        grids: Sequence[Grid],
        depth: int,
        held: Mapping[tuple[int, Site], Tensor] | None = None,
    ) -> Runner:
        self.acts(grids)  # raises for another number of steps
        return SkipRunner(self.settings, grids)


class SkipRunner(Runner):
    """One generation under `SkipVAR`."""

    def __init__(self, rule: Rule, grids: Sequence[Grid]) -> None:
        self.rule, self.grids = rule, grids
        self.handles: Handles | None = None
        self.latents: dict[int, Tensor] = {}
        self.tails: list[tuple[int, int]] | None = None  # by picture

    def prepare(self, handles: Handles) -> None:
        self.handles = handles

    def recall(self, grid: Grid, tokens: Tensor | None, canvas: Tensor) -> None:
        if grid.index in (self.rule.decide - 1, self.rule.decide):
            self.latents[grid.index] = canvas

    def after(
        self, grid: Grid, tokens: Tensor | None, canvas: Tensor, logits: Tensor | None = None
    ) -> None:
        self.recall(grid, tokens, canvas)

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        if grid.index <= self.rule.decide:
            return None
        if self.tails is None:
            self.tails = self.decide()
        rows = self.rows_by_picture(grid)
        if all(one is Rows.SKIP for one in rows):
            return Rows.SKIP
        return Rows.BOTH if Rows.BOTH in rows else Rows.COND

    def decide(self) -> list[tuple[int, int]]:
        """Return the tails of every picture: steps skipped, and steps on one row."""
        assert self.handles is not None
        before, after = (self.latents[step] for step in (self.rule.decide - 1, self.rule.decide))
        look, decode = self.rule.look, self.handles.decode
        values = features_of_latents(before, after, self.grids, look, decode)
        self.latents.clear()
        return [self.rule.tails(row) for row in values.tolist()]

    def rows_by_picture(self, grid: Grid) -> list[Rows]:
        """Return the rows that each picture needs at a step after the decision."""
        left = len(self.grids) - grid.index  # steps from this one on
        return [
            Rows.SKIP if left <= skipped else Rows.COND if left <= alone else Rows.BOTH
            for skipped, alone in self.tails or ()
        ]

    def places(self, grid: Grid, tokens: Tensor) -> Tensor | None:
        rows = self.rows_by_picture(grid) if grid.index > self.rule.decide else []
        if Rows.SKIP not in rows:
            return None
        drawn = torch.tensor([one is not Rows.SKIP for one in rows], device="cpu")
        return sent(drawn, tokens.device).unsqueeze(1).expand(-1, grid.tokens)


@space(
    "SkipVAR", "guidance",
    lambda subject: [SkipVAR(rule) for rule in subject.rules if rule.endswith("-0.88")],
    rule=tuple(range(16)),
)  # fmt: skip
def _skipvar(subject: Subject, rule: int) -> SkipVAR:
    """Take one of the rules that were fitted on the model, from the mildest target on."""
    if rule >= len(subject.rules):
        raise ValueError(f"{len(subject.rules)} rules were fitted on the model")
    return SkipVAR(subject.rules[rule])
