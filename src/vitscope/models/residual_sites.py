"""Semantic sites of CNNs: residual blocks on feature maps, found by structure and checked by value."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from vitscope.models.claims import Claim, Plan, adds_up
from vitscope.models.vision_model import MAP, Site
from vitscope.tap import Call


def add_residual_sites(plan: Plan) -> None:
    """Add `embed`, `stages.s.b` and `.branch`. A stage is a run of blocks whose outputs have one shape."""
    blocks = _blocks(plan)
    if not blocks:
        plan.notes.append(
            "no stages.s.b: no residual block on feature maps whose branch adds up to its output"
        )
        return
    plan.add(plan.site("embed", next(iter(blocks)), side="input", axes=MAP))
    stage, index, shape = -1, 0, None
    for call, branch in blocks.items():
        stage, index = (stage, index + 1) if call.output == shape else (stage + 1, 0)
        shape = call.output
        name = f"stages.{stage}.{index}"
        plan.add(plan.site(name, call, axes=MAP), replace(branch, name=f"{name}.branch"))


def _blocks(plan: Plan) -> dict[Call, Site]:
    """The outermost residual blocks, each with its branch."""
    maps = [call for call in plan.calls if plan.is_map(call.input) and plan.is_map(call.output)]
    tries = [(call, claim) for call in maps for claim in _claims(plan, call)]
    blocks: dict[Call, Site] = {}
    for (call, claim), holds in zip(tries, plan.check([claim for _, claim in tries]), strict=True):
        if holds and not any(other.start <= call.start and call.end <= other.end for other in blocks):
            blocks[call] = claim.offers[0]
    return blocks


def _claims(plan: Plan, block: Call) -> list[Claim]:
    """The two places where a branch may end: before the block's last module (an activation), or with it."""
    children = plan.children(block)
    shortcuts = [call for call in children[1:] if call.reads == block.reads and call.output == block.output]
    chain = [call for call in children if call not in shortcuts]
    if sum(plan.weight_rank(call) == 4 for call in chain) < 2 or len(shortcuts) > 1:
        return []
    name, site = f"{block.path}~{block.index}", partial(plan.site, axes=MAP)
    if shortcuts:
        shortcut = site(f"{name}.shortcut", shortcuts[0])
    elif block.input == block.output:
        shortcut = site(f"{name}.shortcut", block, side="input")
    else:
        return []
    inner = (chain[-2], site(f"{name}.sum", chain[-1], side="input"))
    outer = (chain[-1], site(f"{name}.out", block))
    return [
        Claim((shortcut, branch, total), adds_up, (branch,))
        for end, total in (inner, outer)
        if end.output == block.output
        for branch in [site(f"{name}.{end.path}~{end.index}", end)]
    ]
