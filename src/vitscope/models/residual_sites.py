"""Semantic sites of convolutional networks: the blocks of every stage, found by structure.

A block is the module of a residual sum on feature maps; modules at the same level of the tree are blocks
too, whether or not they have a shortcut (`stages`). Without any such sum, blocks are modules whose output is
joined to their input (dense layers), or modules with one spatial convolution each, with what follows them
(`stacks`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from vitscope.models.blocks import Block
from vitscope.models.claims import Claim, Plan, adds_up
from vitscope.models.listed import list_of, runs
from vitscope.models.stacks import dense_stages, plain_stages
from vitscope.models.stages import Stage, cells, residual_stages
from vitscope.models.streams import Residual
from vitscope.models.transformer_sites import ffn_site


def find_stages(plan: Plan, sums: Sequence[Residual], blocks: Sequence[Block]) -> list[Stage]:
    """The blocks on feature maps, in order, where `blocks` were found already."""
    found = residual_stages(plan, sums, blocks)
    if not sums:
        found = dense_stages(plan) or plain_stages(plan)
    sizes = [cells(stage.out) for stage in found]
    if sizes != sorted(sizes, reverse=True):
        plan.notes.append("no stages.s.b: feature maps of several sizes run side by side")
        return []
    if not found and not blocks:
        seen = "residual sums of modules that convolve a feature map" if sums else "residual sums"
        plan.notes.append(f"no stages.s.b: no {seen}, dense layers or plain stack of convolutions")
    return found


def add_residual_sites(plan: Plan, stages: Sequence[Stage]) -> None:
    """Add `stages.s.b`, and `.branch` and `.ffn` where a block has them."""
    claims: list[Claim] = []
    lacking: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, stage in _numbered(stages):
        name = f"stages.{number[0]}.{number[1]}"
        plan.add(plan.site(name, stage.out, within=stage.call if stage.out is stage.call.output else None))
        if why := _lacks(stage):
            lacking[why].append(number)
        if stage.sum and not stage.sum.tangled:
            claims += _claims(plan, stage, stage.sum, name)
            if stage.sum.kind == "mlp" and stage.sum.has_one_hidden_layer:
                plan.add(ffn_site(plan, stage.sum, f"{name}.ffn", within=stage.call))
    for why, numbers in lacking.items():
        what, _, reason = why.partition(": ")
        plan.notes.append(f"no {what} in {_listed(numbers)}: {reason}")
    plan.settle(claims)


def _lacks(stage: Stage) -> str:
    """What a block that adds up does not have, and why; "" if nothing."""
    if stage.goes_on:
        return "branch: more comes after the residual sum there"
    if stage.sum and stage.sum.tangled:
        return "branch: several maps and any shortcut are one sum there"
    if stage.sum and stage.sum.kind == "mlp" and not stage.sum.has_one_hidden_layer:
        return "ffn: not one hidden layer leads to the last map there"
    return ""


def _listed(numbers: Sequence[tuple[int, int]]) -> str:
    """ "stages.0.0-3, stages.2.1" of the numbers of stages and blocks."""
    stages = dict.fromkeys(stage for stage, _ in numbers)
    return ", ".join(
        f"stages.{own}.{run}" for own in stages for run in runs(b for stage, b in numbers if stage == own)
    )


def _numbered(stages: Sequence[Stage]) -> Iterator[tuple[tuple[int, int], Stage]]:
    """Every block with the numbers of its stage and in it.

    A stage is a run of blocks that are listed together and hand out maps of one size.
    """
    stage, index, last = -1, 0, None
    for block, here in zip(stages, _listings(stages), strict=True):
        stage, index = (stage, index + 1) if here == last else (stage + 1, 0)
        last = here
        yield (stage, index), block


def _listings(stages: Sequence[Stage]) -> list[tuple[str, object]]:
    """What blocks of one stage share: the module below which paths first part, and the size of the maps.

    Where all blocks stand in one list: that list, and the shape of the maps.
    """
    paths = [stage.call.path.split(".") for stage in stages]
    shared = next((depth for depth, names in enumerate(zip(*paths, strict=False)) if len(set(names)) > 1), 0)
    lists = [".".join(path[: shared + 1]) for path in paths]
    if len(set(lists)) == len(lists) and len({list_of(stage.call.path) for stage in stages}) == 1:
        return [(".".join(path[:shared]), stage.out.shape) for path, stage in zip(paths, stages, strict=True)]
    return [(name, cells(stage.out)) for name, stage in zip(lists, stages, strict=True)]


def _claims(plan: Plan, stage: Stage, sum_: Residual, name: str) -> list[Claim]:
    base = plan.site(f"{name}.base", sum_.base, within=stage.call)
    branch = plan.site(f"{name}.branch", sum_.branch, within=stage.call, layout=sum_.total.layout)
    total = plan.site(f"{name}.sum", sum_.total, within=stage.call)
    if base is None or branch is None or total is None:
        return []
    return [Claim((base, branch, total), adds_up, (branch,), f"no {name}.branch: its sum does not add up")]
