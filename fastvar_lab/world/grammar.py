"""The prompt grammar: English over a closed vocabulary, parsed to values and written back.

prompt    = group ("and" group)* | one relation one
group     = count adjective* shape           count: a, an, one, two, three, four
relation  = "left of" | "right of" | "above" | "below"
adjective = a color or a texture, each at most once, in any order
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastvar_lab.errors import PromptError, short, split
from fastvar_lab.files import digest

SHAPES = ("circle", "square", "triangle", "ring", "cross", "star")
COLORS = {  # sRGB in [0, 1]
    "red": (0.86, 0.12, 0.12),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.95, 0.88, 0.12),
    "green": (0.13, 0.65, 0.20),
    "cyan": (0.10, 0.78, 0.82),
    "blue": (0.15, 0.25, 0.85),
    "purple": (0.52, 0.18, 0.75),
    "pink": (0.97, 0.45, 0.70),
}
TEXTURES = ("solid", "striped", "dotted", "checkered")
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
PLURALS = {s: "crosses" if s == "cross" else s + "s" for s in SHAPES}
MIRROR = {"right of": "left of", "below": "above"}

VOCABULARY = (
    *COUNTS,
    *("and", "left", "right", "of", "above", "below"),
    *COLORS,
    *TEXTURES,
    *SHAPES,
    *PLURALS.values(),
)


@dataclass(frozen=True)
class Group:
    """`count` objects of one look; a color or texture of None is unspecified."""

    count: int
    shape: str
    color: str | None = None
    texture: str | None = None

    @property
    def text(self) -> str:
        phrase = [w for w in (self.color, self.texture) if w]
        phrase.append(self.shape if self.count == 1 else PLURALS[self.shape])
        if self.count == 1:
            return ("an " if phrase[0][0] in "aeiou" else "a ") + " ".join(phrase)
        return " ".join([("two", "three", "four")[self.count - 2], *phrase])


@dataclass(frozen=True)
class Prompt:
    """The content of a picture: groups of objects, and for two single objects their relation."""

    groups: tuple[Group, ...]
    relation: str | None = None

    @property
    def text(self) -> str:
        joint = f" {self.relation} " if self.relation else " and "
        return joint.join(g.text for g in self.groups)

    @property
    def canonical(self) -> str:
        """The same text for all prompts of one meaning: relations mirrored, groups sorted."""
        if self.relation in MIRROR:
            return replace(self, groups=self.groups[::-1], relation=MIRROR[self.relation]).canonical
        if self.relation:
            return self.text
        return replace(self, groups=tuple(sorted(self.groups, key=lambda g: g.text))).text

    @property
    def held_out(self) -> bool:
        """Whether this prompt is in the tenth of prompts that is excluded from training."""
        return int(digest(self.canonical, length=2), 16) % 10 == 0


def parse(text: str) -> Prompt:
    """Parse a prompt; raise PromptError on anything outside the grammar."""
    rest = split(text, VOCABULARY)
    groups, relation = [_group(rest, text)], None
    while rest:
        if rest[0] == "and" and relation is None:
            del rest[0]
        else:
            relation = _relation(rest, text, len(groups))
        groups.append(_group(rest, text))
    if relation and any(g.count > 1 for g in groups):
        raise PromptError(f"{relation!r} relates two single objects; not {short(text)!r}")
    total = sum(g.count for g in groups)
    if total > 4:
        raise PromptError(f"a prompt names at most 4 objects; {short(text)!r} names {total}")
    return Prompt(tuple(groups), relation)


def _relation(rest: list[str], text: str, groups_before: int) -> str:
    for relation in RELATIONS:
        parts = relation.split()
        if rest[: len(parts)] == parts and groups_before == 1:
            del rest[: len(parts)]
            return relation
    relates = [r for r in RELATIONS if f" {r} " in text.lower()]
    if relates:
        raise PromptError(f"{relates[0]!r} joins exactly two objects; not {short(text)!r}")
    allowed = "'and'" if groups_before > 1 else "'and', " + ", ".join(map(repr, RELATIONS))
    raise PromptError(f"expected {allowed} before {short(' '.join(rest))!r} in {short(text)!r}")


def _group(rest: list[str], text: str) -> Group:
    if not rest or rest[0] not in COUNTS:
        where = f"before {rest[0]!r}" if rest else "at the end"
        raise PromptError(f"expected one of {', '.join(COUNTS)} {where} of {short(text)!r}")
    count = COUNTS[rest.pop(0)]
    shapes = {s: s for s in SHAPES} if count == 1 else {p: s for s, p in PLURALS.items()}
    color = texture = None
    while rest:
        word = rest.pop(0)
        if word in COLORS and color is None:
            color = word
        elif word in TEXTURES and texture is None:
            texture = word
        elif word in shapes:
            return Group(count, shapes[word], color, texture)
        else:
            break
    else:
        word = "the end"
    raise PromptError(
        f"expected at most one color and one texture, then one of {', '.join(shapes)}, "
        f"where {short(text)!r} has {word!r}"
    )
