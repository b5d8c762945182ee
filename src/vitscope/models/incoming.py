"""The weights by which units are fed: what a unit looks for in the layer before it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vitscope.models.vision_model import Site, VisionModel


def incoming_weights(model: VisionModel, site: Site) -> Float[Tensor, "unit input"] | None:
    """Of every unit the weights of the linear map that makes it, without its bias.

    The map is the linear layer or convolution whose output the site holds, as it is or after its activation
    function. None where the site holds anything else: a sum, a norm, a part of a layer's output.
    """
    read = model.sites.named(site.before) if site.before else site
    if read.function or read.derive is not None or read.side == "input":
        return None
    module = model.module.get_submodule(read.path)
    if not isinstance(module, (nn.Linear, nn.Conv2d)) or len(module.weight) != site.units:
        return None
    return module.weight.detach().float().cpu().flatten(1)
