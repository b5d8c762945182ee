"""The sites of any module: semantic ones where its structure is understood and checks out, raw ones always.

Semantic sites carry the words all families share; `transformer_sites` and `residual_sites` find them in one
traced pass and check every claim by value. Raw sites are module paths. Notes say what is missing, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vitscope.errors import SiteError
from vitscope.models.claims import Geometry, Plan
from vitscope.models.residual_sites import add_residual_sites
from vitscope.models.transformer_sites import add_transformer_sites, attention_pairs
from vitscope.models.vision_model import MAP, MAP_LAST, TOKENS, VECTOR, Site
from vitscope.tap import Call, trace


class Found(NamedTuple):
    """What `find_sites` found: semantic sites, raw sites, and notes on what is missing and why."""

    sites: tuple[Site, ...]
    raw: tuple[Site, ...]
    notes: tuple[str, ...]


def find_sites(module: nn.Module, sample: Float[Tensor, "image rgb row column"]) -> Found:
    """The sites of a module, in forward order.

    Args:
        module: any vision module; it runs at most four times and is left as it was.
        sample: at least two different images, as the module takes them (normalised). Noise serves best.

    Raises:
        SiteError: the module does not run on the sample.
    """
    try:
        calls = trace(module, sample)
    except Exception as error:
        shape = tuple(sample.shape)
        raise SiteError(
            f"{type(module).__name__} does not run on images of shape {shape}: {error}"
        ) from error
    plan = Plan(module, sample, calls)
    geometry = add_transformer_sites(plan)
    if geometry is None:
        add_residual_sites(plan)
    _add_ends(plan)
    return Found(plan.ordered(), tuple(_raw_sites(plan, geometry)), tuple(plan.notes))


def _add_ends(plan: Plan) -> None:
    """`pooled`, the input of the classifier, and `logits`, the output of the model."""
    root = plan.calls[0]
    if len(root.output or ()) != 2:
        plan.notes.append("no logits: the output of the model is not one vector an image")
        return
    plan.add(plan.site("logits", root, axes=VECTOR))
    heads = [
        call
        for call in plan.calls[1:]
        if call.writes == root.writes and len(call.input or ()) == 2 and plan.weight_rank(call) == 2
    ]
    if heads:
        plan.add(plan.site("pooled", heads[-1], side="input", axes=VECTOR))
    else:
        plan.notes.append("no pooled: the output does not come from one linear classifier")


def _raw_sites(plan: Plan, geometry: Geometry | None) -> Iterator[Site]:
    """One site for every call of every module whose output has a shape that is understood."""
    inside = [(pair.first.end, pair.second.start) for pair in attention_pairs(plan)]
    for call in sorted(plan.calls[1:], key=lambda call: call.end):
        shape = call.output or ()
        per_head = len(shape) == 4 and any(start < call.start < end for start, end in inside)
        if len(shape) >= 2 and shape[0] == len(plan.sample) and not per_head:
            yield from _raw_site(plan, call, geometry)


def _raw_site(plan: Plan, call: Call, geometry: Geometry | None) -> Iterator[Site]:
    shape, count = call.output or (), plan.counts[call.path]
    site = partial(Site, plan.raw_name(call), call.path, call=call.index, calls=count, semantic=False)
    if len(shape) == 2:
        yield site(VECTOR, shape[1])
    elif len(shape) == 3:
        grid, prefix = _layout(shape[1], geometry)
        yield site(TOKENS, shape[2], grid=grid, prefix_tokens=prefix)
    elif plan.is_map(shape):
        yield site(MAP, shape[1], grid=(shape[2], shape[3]))
    elif len(shape) == 4 and plan.lies_on(shape[1:3]):
        yield site(MAP_LAST, shape[3], grid=(shape[1], shape[2]))


def _layout(tokens: int, geometry: Geometry | None) -> tuple[tuple[int, int] | None, int]:
    """Grid and prefix of so many tokens: those of the stream, or the grid alone, or no grid at all."""
    if geometry is not None:
        extra = Geometry(tokens, geometry.grid).prefix
        if extra in (0, geometry.prefix):
            return geometry.grid, extra
    return None, tokens
