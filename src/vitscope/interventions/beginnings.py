"""The first blocks of a model, run once for several ways to go on from them.

Where variants of a model differ from some block on only, what comes before is the same for all. The blocks
are recorded while one of them runs, and hand out the same again for the others. Hooks on the blocks
themselves fire as ever; what lies inside a block that is replayed does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import rerouted


class Beginnings:
    """What the first blocks of a model handed out for one batch.

    Args:
        model: the model.
        blocks: how many of its first blocks anyone may want replayed.
        read: sites that will be read; blocks with one inside always run.
    """

    def __init__(self, model: VisionModel, blocks: int, *, read: Sequence[Site]) -> None:
        self._modules = _modules(model, blocks, read)
        self._handed_out: list[Any] = [None] * len(self._modules)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep what the blocks hand out."""
        with ExitStack() as stack:
            for index, module in enumerate(self._modules):
                stack.enter_context(rerouted(module, partial(self._keep, index)))
            yield

    @contextmanager
    def replayed(self, blocks: int) -> Iterator[None]:
        """The first so many blocks hand out what they did when they were recorded, and compute nothing."""
        with ExitStack() as stack:
            for index, module in enumerate(self._modules[:blocks]):
                stack.enter_context(rerouted(module, partial(self._again, index)))
            yield

    def _keep(self, index: int, run: Callable[..., Any], *given: Any, **named: Any) -> Any:
        found = run(*given, **named)
        self._handed_out[index] = _copied(found)
        return found

    def _again(self, index: int, *_: Any, **__: Any) -> Any:
        return _copied(self._handed_out[index])


def _copied(found: Any) -> Any:
    """The same in memory of its own: what follows may write into what it is given."""
    return tree_map_only(Tensor, Tensor.clone, found)


def _lies_inside(block: Site, site: Site) -> bool:
    return site.path.startswith(f"{block.path}.") or (site.path == block.path and bool(site.function))


def _modules(model: VisionModel, blocks: int, read: Sequence[Site]) -> list[nn.Module]:
    """Those of the first blocks that can be replayed, up to the first that cannot."""
    found = []
    for index in range(blocks):
        site = next((site for site in model.sites if site.name == f"blocks.{index}"), None)
        if site is None or site.function or site.side != "output" or site.calls != 1:
            break
        if any(_lies_inside(site, wanted) for wanted in read):
            break
        found.append(model.module.get_submodule(site.path))
    return found
