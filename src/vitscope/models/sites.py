"""The sites of any module: semantic ones where its structure is understood and checks out, raw ones always.

Semantic sites carry the words all families share; `transformer_sites` and `residual_sites` find them in one
traced pass and check every claim by value. Raw sites are module paths. Notes say what is missing, and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vitscope.errors import SiteError
from vitscope.models.arrange import arranged
from vitscope.models.blocks import find_blocks, why_left_out, why_no_pattern, why_unseen
from vitscope.models.claims import Plan
from vitscope.models.listed import runs
from vitscope.models.residual_sites import add_residual_sites, find_stages
from vitscope.models.streams import residuals, root
from vitscope.models.transformer_sites import add_transformer_sites
from vitscope.models.vision_model import TOKENS, VECTOR, Site
from vitscope.trace import Call, Value, trace


class Found(NamedTuple):
    """What `find_sites` found: semantic sites, raw sites, and notes on what is missing and why."""

    sites: tuple[Site, ...]
    raw: tuple[Site, ...]
    notes: tuple[str, ...]


def find_sites(
    module: nn.Module, sample: Float[Tensor, "image rgb row column"], *, output: str = "logits"
) -> Found:
    """The sites of a module, in forward order.

    Args:
        module: any vision module; it runs at most four times and is left as it was. On the meta device
            nothing can be checked by value: its sites are those that structure alone tells.
        sample: at least two different images, as the module takes them (normalised). Noise serves best.
        output: what the vector that the module hands out is called, "logits" or "embedding".

    Raises:
        SiteError: the module does not run on the sample.
    """
    try:
        passed = trace(module, sample)
    except Exception as error:
        shape = tuple(sample.shape)
        raise SiteError(
            f"{type(module).__name__} does not run on images of shape {shape}: {error}"
        ) from error
    plan = Plan(module, sample, passed)
    _add_blocks(plan)
    _add_ends(plan, output)
    return Found(plan.ordered(), tuple(_raw_sites(plan)), summed_up(plan.notes))


def _add_blocks(plan: Plan) -> None:
    """`embed`, then `blocks.i` of transformers and their like, and `stages.s.b` on feature maps."""
    sums = residuals(plan.trace)
    blocks = find_blocks(plan, sums)
    spans = [block.span for block in blocks]
    outside = [sum_ for sum_ in sums if not any(start < sum_.op.time < end for start, end in spans)]
    plan.notes += [*why_left_out(outside), *why_unseen(outside), *why_no_pattern(sums)]
    stages = find_stages(plan, sums, blocks)
    entries = [*(block.entry for block in blocks[:1]), *(stage.entry for stage in stages[:1])]
    if not entries:
        return
    entry = min(entries, key=lambda value: value.number)
    embed = plan.site("embed", entry)
    if embed is None or not moves_its_own_place(plan, embed):
        kinds = ["blocks.i"] * bool(blocks) + ["stages.s.b"] * bool(stages)
        plan.notes.append(
            f"no embed, {', '.join(kinds)}: it is not certain which place lies where on the image"
        )
        return
    plan.add(embed)
    add_transformer_sites(plan, blocks, entry)
    add_residual_sites(plan, stages)


def moves_its_own_place(plan: Plan, site: Site) -> bool:
    """Whether changing the part of the image under two cells off the diagonal moves those cells most."""
    if site.grid is None:
        return False
    if not plan.has_weights:
        return True
    rows, columns = site.grid
    for row, column in ((rows // 3, columns - 1), (rows - 1, columns // 3)):
        cell = _moved(plan, site, row, column) - site.prefix_tokens
        # kernels overlap and strides leave edges out: a neighbour may move as much
        if cell < 0 or max(abs(cell // columns - row), abs(cell % columns - column)) > 1:
            return False
    return True


def _moved(plan: Plan, site: Site, row: int, column: int) -> int:
    """Which place of a site moves most when the part of the image under one cell of its grid does."""
    (rows, columns), (height, width) = site.grid or (1, 1), plan.sample.shape[-2:]
    down = slice(row * height // rows, (row + 1) * height // rows)
    right = slice(column * width // columns, (column + 1) * width // columns)
    images = plan.sample[:1].repeat(2, 1, 1, 1)
    images[1, :, down, right] = plan.sample[1, :, down, right]
    tokens = plan.read(images, site)
    return int((tokens[1] - tokens[0]).norm(dim=-1).argmax())


def _add_ends(plan: Plan, output: str) -> None:
    """`pooled`, the input of the classifier, and the output of the model."""
    made = plan.trace.calls[0].output
    if made is None or len(made.shape) != 2:
        plan.notes.append(f"no {output}: the output of the model is not one vector an image")
        return
    plan.add(plan.vector(output, made))
    op = root(made).made_by
    if op is not None and op.name in ("linear", "conv2d", "matmul") and _is_vector(op.inputs[0]):
        calls = [call for call in plan.readers(op.inputs[0]) if call.holds(op.time)]
        plan.add(plan.taken("pooled", calls[-1]) if calls else plan.vector("pooled", op.inputs[0]))
    else:
        plan.notes.append("no pooled: the output does not come from one linear classifier")


def _is_vector(value: Value) -> bool:
    return len(value.shape) == 2 or value.shape[2:] == (1, 1)


def _raw_sites(plan: Plan) -> Iterator[Site]:
    """One site for every call of every module whose output is laid out in a way that is understood."""
    for call in sorted(plan.trace.calls[1:], key=lambda call: call.end):
        site = _raw_site(plan, call)
        if site is not None:
            yield site


def _raw_site(plan: Plan, call: Call) -> Site | None:
    made, count = call.output, plan.counts[call.path]
    if made is None:
        return None
    site = partial(Site, plan.raw_name(call), call.path, call=call.index, calls=count, semantic=False)
    found = arranged(made.layout)
    if found is not None:
        return site(
            found.axes, found.units, grid=found.grid, prefix_tokens=found.prefix_tokens, derive=found.derive
        )
    images = len(plan.sample)
    if made.layout is None and len(made.shape) == 2 and made.shape[0] == images:
        return site(VECTOR, made.shape[1])
    if made.layout is None and len(made.shape) == 3 and made.shape[0] == images:
        return site(TOKENS, made.shape[2], prefix_tokens=made.shape[1])  # rows that lie nowhere that is known
    return None


def summed_up(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes that say the same of several blocks as one: "no blocks.i.mlp (i = 0-3, 7): why"."""
    groups: dict[str, list[int]] = {}
    for note in notes:
        found = re.search(r"\bblocks\.(\d+)", note)
        number = int(found[1]) if found else -1
        groups.setdefault(note.replace(f"blocks.{number}.", "blocks.i."), []).append(number)
    return tuple(_of_all(note, numbers) for note, numbers in groups.items())


def _of_all(note: str, numbers: Sequence[int]) -> str:
    if len(set(numbers)) == 1:
        return note.replace("blocks.i.", f"blocks.{numbers[0]}.") if numbers[0] >= 0 else note
    return note.replace(":", f" (i = {', '.join(runs(numbers))}):", 1)
