"""The way back from activations: the value of a module in which a site holds other activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vitscope.arrays import Activations
from vitscope.errors import SiteError
from vitscope.models.vision_model import LAYOUTS, MAP, MAP_LAST, PATTERN, Site


def first_tensor(value: Any) -> Tensor:
    """The tensor in a module's input or output: itself, or the first in a tuple, list or mapping."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)) and value:
        return first_tensor(value[0])
    raise SiteError(f"expected a tensor, found {type(value).__name__}")


def with_first(value: Any, tensor: Tensor) -> Any:
    """The same value with another tensor where `first_tensor` finds one."""
    if isinstance(value, Tensor):
        return tensor
    if isinstance(value, Mapping):
        name = next(iter(value))
        return type(value)(**{**value, name: with_first(value[name], tensor)})
    if isinstance(value, (tuple, list)) and value:
        parts = [with_first(value[0], tensor), *value[1:]]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    raise SiteError(f"expected a tensor, found {type(value).__name__}")


def substitute(site: Site, value: Any, activations: Activations) -> Any:
    """The value of a module or function, with these activations at the site; differentiable.

    Raises:
        SiteError: what lies at the site is computed from the value and not taken from it.
    """
    return with_first(value, _raw(site, first_tensor(value), activations))


def substitute_in_place(site: Site, value: Any, activations: Activations) -> None:
    """The same, written into the tensor itself, so that all who hold it see the change.

    Raises:
        SiteError: as `substitute`; or the activations are of another size.
    """
    if site.function and site.side == "input":
        raise SiteError(f"{site.name} can be read but not changed: it is no tensor of the pass")
    tensor = first_tensor(value)
    raw = _raw(site, tensor, activations)
    if raw.shape != tensor.shape:
        raise SiteError(f"{site.name} can be changed but not resized: it is what a module takes in")
    tensor.copy_(raw)


def _raw(site: Site, tensor: Tensor, activations: Activations) -> Tensor:
    """From "image place unit" to the axes of the module's own tensor."""
    if site.derive is not None:
        return _scattered(site, tensor, activations)
    before, _, after = LAYOUTS[site.axes].partition(" -> ")
    found: Tensor = rearrange(activations, f"{after} -> {before}", **_sizes(site, tensor, activations))
    return found


def _sizes(site: Site, tensor: Tensor, activations: Activations) -> dict[str, int]:
    """The lengths of the axes that "image place unit" joins; a single place is a map of one cell."""
    if site.axes in (MAP, MAP_LAST):
        rows = tensor.shape[2 if site.axes == MAP else 1]
        return {"row": 1 if activations.shape[1] == 1 else rows}
    return {"head": tensor.shape[1]} if site.axes == PATTERN else {}


def _scattered(site: Site, tensor: Tensor, activations: Activations) -> Tensor:
    """For sites that pick and reorder: elements, numbered and taken the same way, show where each goes."""
    derive = site.derive
    if derive is None:  # never from `_raw`
        return activations
    try:
        places = derive(torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape))
        taken = tensor.detach().reshape(-1)[places.long().clamp(0, tensor.numel() - 1)]
        is_held = torch.allclose(taken, derive(tensor.detach()), rtol=0, atol=0, equal_nan=True)
    except RuntimeError:  # numbers of elements cannot go through a softmax
        is_held = False
    if not is_held:
        raise SiteError(
            f"{site.name} can be read but not changed: it is computed, and not held by {site.path}"
        )
    before, _, after = LAYOUTS[site.axes].partition(" -> ")
    values = rearrange(activations, f"{after} -> {before}", **_sizes(site, places, activations))
    flat = tensor.reshape(-1).clone()
    flat[places.reshape(-1)] = values.reshape(-1).to(flat.dtype)
    return flat.reshape(tensor.shape)
