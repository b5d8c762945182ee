"""The numbered lists of a model (`nn.Sequential`, `nn.ModuleList`), read off module paths and calls.

Models that have stages keep their blocks in such lists, and most have a list of those lists. What is numbered
there is what a block is; they are called items here.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vitscope.models.claims import Plan
from vitscope.trace import Call


def pattern(path: str) -> str:
    """The path with "#" for every number: the same for all that stand at one level of the tree."""
    return re.sub(r"\d+", "#", path)


def is_item(path: str) -> bool:
    """Whether a module is numbered in a list."""
    return path.rpartition(".")[2].isdigit()


def item(path: str) -> str:
    """The innermost item that a module is, or is a part of; "" if there is none."""
    parts = path.split(".")
    while parts and not parts[-1].isdigit():
        parts.pop()
    return ".".join(parts)


def list_of(path: str) -> str:
    """The list that a module's item stands in."""
    return item(path).rpartition(".")[0]


def around(call: Call) -> Iterator[Call]:
    """The calls that a call was made in, the innermost first."""
    while call.parent is not None:
        call = call.parent
        yield call


def item_around(call: Call) -> Call | None:
    """The call of the innermost item that a call was made in."""
    return next((outer for outer in around(call) if is_item(outer.path)), None)


def is_of_parts(plan: Plan, path: str) -> bool:
    """Whether lists such as this one hold the parts of one block: several modules, no two of one class.

    A list of blocks repeats a class, be it in another stage. Modules without weights do not count.
    """
    level = pattern(path)
    lists: dict[str, list[type]] = defaultdict(list)
    for call in plan.trace.calls:
        part = plan.part(call)
        here = call.path.rpartition(".")[0]
        if (
            call.index == 1
            and is_item(call.path)
            and pattern(here) == level
            and next(part.parameters(), None) is not None
        ):
            lists[here].append(type(part))
    return len(lists[path]) > 1 and all(max(Counter(kinds).values()) == 1 for kinds in lists.values())


def beside_blocks(paths: Iterable[str]) -> set[str]:
    """Which of these items stand in a list beside that of the blocks, in the same stages.

    A stage may also list the parts of its downsampling. The list that most stages have is that of the blocks.
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        found[_place(path)].append(path)
    return {path for place, here in found.items() if _is_beside(place, found) for path in here}


def _place(path: str) -> tuple[str, str]:
    """The level of the stage that an item stands in, "" if in none, and the name of its list there."""
    here = list_of(path)
    stage = item(here)
    return pattern(stage), pattern(here[len(stage) :])


def _is_beside(place: tuple[str, str], found: Mapping[tuple[str, str], Sequence[str]]) -> bool:
    def weight(other: tuple[str, str]) -> tuple[int, int]:
        return len({item(list_of(path)) for path in found[other]}), len(found[other])

    rivals = [other for other in found if other[0] == place[0]]
    return bool(place[0]) and weight(place) < max(map(weight, rivals))


def runs(numbers: Iterable[int]) -> list[str]:
    """ "0-3" and "7" of 0, 1, 2, 3, 7."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found]
