"""Addresses: text naming a site, a unit and a place. No torch here.

address = site [":" unit] ["@" place]        blocks.6.ffn:412      blocks.11:0@cls     logits:207
site    = name ("." name)* ["~" call]        layer4.2.relu~3       the third call of a module that runs three
times place   = "center" | "cls" | n | row "," col
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vitscope.errors import BadAddress

_PARTS = (
    ("site", re.compile(r"\w+(?:\.\w+)*(?:~[1-9]\d*)?")),
    ("unit", re.compile(r":(\d+)")),
    ("place", re.compile(r"@(center|cls|\d+(?:,\d+)?)")),
)


@dataclass(frozen=True)
class Address:
    """One site, and if given one unit and one place of it. Printing and parsing are inverse."""

    site: str
    unit: int | None = None
    place: str | None = None

    @classmethod
    def parse(cls, text: str | Address) -> Address:
        """Read an address.

        Raises:
            BadAddress: the text does not follow the grammar; a caret shows where it stops.
        """
        if isinstance(text, Address):
            return text
        found: dict[str, str] = {}
        position = 0
        for part, pattern in _PARTS:
            if match := pattern.match(text, position):
                found[part] = match.group(match.lastindex or 0)
                position = match.end()
            elif part == "site":
                break
        if position != len(text) or "site" not in found:
            caret = " " * (len("not an address: '") + position) + "^"
            raise BadAddress(
                f"not an address: {text!r}\n{caret} expected site[:unit][@place], as blocks.6.ffn:412@7,9"
            )
        unit = found.get("unit")
        return cls(found["site"], None if unit is None else int(unit), found.get("place"))

    def __str__(self) -> str:
        unit = "" if self.unit is None else f":{self.unit}"
        place = "" if self.place is None else f"@{self.place}"
        return f"{self.site}{unit}{place}"

    @property
    def sort_key(self) -> tuple[tuple[tuple[int, int, str], ...], int]:
        """Natural order: `blocks.2` before `blocks.10`."""
        return natural(self.site), -1 if self.unit is None else self.unit


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key under which the numbers of a dotted name count as numbers."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"[.~]", name))
