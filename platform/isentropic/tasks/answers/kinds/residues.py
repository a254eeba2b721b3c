r"""Residue classes: x \equiv 5 \pmod 7, 5 \bmod 7, x \equiv 1, 3 \pmod 8, 7k + 5."""

import re
from dataclasses import dataclass

from isentropic.tasks.answers.latex import squeezed
from isentropic.tasks.answers.structure import NAME, WORD_COMMA, expand_sign_pairs, split_top

MODULUS = re.compile(
    r"(.*\S)\s*(?:\\pmod\s*(?:\{\s*(\w+)\s*\}|(\w+))|\\b?mod\s*(?:\{\s*(\w+)\s*\}|(\w+))"
    r"|\(\s*(?:\\text\{\s*mod\s*\}|\\b?mod|mod)\s*(\w+)\s*\))"
)
MEMBERS = re.compile(r"(?:\w\s*=)?(?:(\d+)[a-z]([+-]\d+)?|(-?\d+)\+(\d+)[a-z])")  # squeezed


@dataclass(frozen=True)
class Residues:
    """Values modulo one modulus."""

    modulus: str
    values: tuple[str, ...]
    name: str | None = None  # of what is congruent to them

    def class_of(self, value: str) -> str:
        """The least residue of a value, as text; what is no whole number stays as it is."""
        value = squeezed(value)
        if not (self.modulus.isdigit() and int(self.modulus) and re.fullmatch(r"[+-]?\d+", value)):
            return value
        return str(int(value) % int(self.modulus))


def read_residues(text: str) -> Residues | None:
    """The residues of a text, if each has the same modulus or the last one has it for all."""
    items = split_top(WORD_COMMA.sub(", ", text), ",")
    matches = [MODULUS.fullmatch(item) for item in items]
    moduli = {next(filter(None, match.groups()[1:])) for match in matches if match}
    if len(moduli) != 1 or not matches[-1] or len(set(map(bool, matches[:-1]))) > 1:
        return None
    values = [match[1] if match else item for match, item in zip(matches, items, strict=True)]
    sides = [split_top(value, r"\equiv") for value in values]
    names = {squeezed(side[0]) for side in sides if len(side) > 1}
    if len(names) > 1 or not all(NAME.fullmatch(name) or name.isdigit() for name in names):
        return None  # -x \equiv 5 says nothing that x \equiv 5 says
    expanded = [item for side in sides for item in split_top(expand_sign_pairs(side[-1]), ",")]
    return Residues(moduli.pop(), tuple(expanded), next(iter(names), None))


def read_members(text: str, modulus: str) -> Residues | None:
    r"""The residue of `7k + 5` or `x = 5 + 7k`, if its factor is the modulus."""
    text = re.sub(r",?\\text\{.*|,?k\\in.*", "", squeezed(text))
    match = MEMBERS.fullmatch(text)
    if match is None or (match[1] or match[4]) != modulus:
        return None
    return Residues(modulus, ((match[2] or "0") if match[1] else match[3],))
