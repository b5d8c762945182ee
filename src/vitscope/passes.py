"""One pass of a model over a shard, under any number of changes, feeding any number of meters.

Activations exist only while their site fires. What a shard leaves behind is a `Part` for each variant.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from vitscope.arrays import Activations
from vitscope.data.source import ImageBatch, ImageIntervention, ImageSource, Shard, Skipped
from vitscope.data.stream import stream_variants
from vitscope.errors import BadValue, DeviceError, Failure, VitscopeError
from vitscope.interventions.beginnings import Beginnings
from vitscope.meters.meter import Meter, State
from vitscope.meters.reading import Reading
from vitscope.models.vision_model import Site, VisionModel
from vitscope.parts import BATCH_SIZE, ImageRecord, Part, ShardRecord
from vitscope.tap import tap

log = logging.getLogger(__name__)

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What a `RuntimeError` of torch says where it means an `OutOfMemoryError`."""


@dataclass(frozen=True)
class Variant:
    """One way to look: what is done to the images, and what to the model while it sees them.

    >>> Variant("low 32", images=(low_pass(radius=32),))   # doctest: +SKIP

    Attributes:
        name: what it is called in results.
        images: interventions on the images, in order, after those of their source.
        model: each opens an intervention on the model, in order; all are closed again after every batch.
        unchanged: how many of the model's first blocks the interventions leave as they are. These run once
            for all variants that see the images of the first, where that leaves the model as it is.
    """

    name: str
    images: tuple[ImageIntervention, ...] = ()
    model: tuple[Callable[[VisionModel], AbstractContextManager[Any]], ...] = ()
    unchanged: int = 0

    @contextmanager
    def holding(self, model: VisionModel) -> Iterator[None]:
        """The model under this variant's interventions; none of them afterwards."""
        with ExitStack() as stack:
            for intervention in self.model:
                stack.enter_context(intervention(model))
            yield


PLAIN = Variant("plain")
"""Nothing is changed."""


def scan_shard_variants(
    model: VisionModel,
    source: ImageSource,
    shard: Shard,
    variants: Sequence[Variant],
    meters: Sequence[Meter],
    *,
    batch_size: int = BATCH_SIZE,
) -> tuple[Part, ...]:
    """Run the model over one shard once for each variant; their parts, in order. Pictures are decoded once.

    Where memory runs out, the shard starts again with half the batch.

    Raises:
        BadValue, UnknownSite: as `scan`.
        DeviceError: memory runs out with a single image.
        Failure: a meter failed; the message names it and the site.
    """
    while True:
        try:
            return _scan_shard(model, source, shard, variants, meters, batch_size=batch_size)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise DeviceError(
                    f"{model.name} does not fit into the memory of {model.device} with one image: {error}"
                ) from error
        log.warning(
            "out of memory with %d images at once: shard %s again with %d",
            batch_size,
            shard.id,
            batch_size // 2,
        )
        batch_size //= 2


def _scan_shard(
    model: VisionModel,
    source: ImageSource,
    shard: Shard,
    variants: Sequence[Variant],
    meters: Sequence[Meter],
    *,
    batch_size: int,
) -> tuple[Part, ...]:
    images: list[ImageRecord] = []
    skipped: list[Skipped] = []
    passes = [Pass(model, meters) for _ in variants]
    beginnings = _beginnings(model, variants, meters)
    several = stream_variants(
        source,
        shard,
        model.preprocessing,
        [variant.images for variant in variants],
        batch_size=batch_size,
        on_skip=skipped.append,
        device=model.device,
    )
    with closing(several):
        for versions in several:
            for variant, one, batch in zip(variants, passes, versions, strict=True):
                if one is passes[0]:
                    images.extend(map(ImageRecord, batch.ids, batch.paths, batch.labels.tolist()))
                    begun = beginnings.recorded()
                else:
                    begun = beginnings.replayed(_shared(variant, variants[0]))
                with variant.holding(model), begun, one.reading() as read:
                    read(batch)
    record = ShardRecord(shard.id, tuple(images), tuple(skipped))
    return tuple(Part((record,), one.states, batch_size) for one in passes)


def _beginnings(model: VisionModel, variants: Sequence[Variant], meters: Sequence[Meter]) -> Beginnings:
    """What the first variant hands on to the others, and what nobody reads the inside of."""
    read = {site.name: site for meter in meters for site in meter.sites(model.sites)}
    most = max(_shared(variant, variants[0]) for variant in variants)
    return Beginnings(model, most, read=list(read.values()))


def _shared(variant: Variant, first: Variant) -> int:
    """How many of the first blocks a variant has in common with the first one."""
    return variant.unchanged if variant.images == first.images and not first.model else 0


class Pass:
    """Meters that read a model, with fresh states.

    Args:
        model: the model to read.
        meters: what to measure; their names must differ.

    Raises:
        BadValue, UnknownSite: as `scan`.
    """

    def __init__(self, model: VisionModel, meters: Sequence[Meter]) -> None:
        self.states = fresh_states(model, meters)
        self._model = model
        self._readers: dict[str, list[tuple[str, State]]] = {}
        for meter in meters:
            for site in meter.sites(model.sites):
                self._readers.setdefault(site.name, []).append((meter.name, self.states[meter.name]))

    @contextmanager
    def reading(self) -> Iterator[Callable[[ImageBatch], None]]:
        """A function that runs the model on a batch, as far as the last site that anyone wants."""
        current: ImageBatch

        def on_read(site: Site, activations: Activations) -> None:
            reading = Reading(site, activations, current)
            for name, state in self._readers[site.name]:
                with _named(name, site):
                    state.read(reading)

        wanted = [self._model.sites.named(name) for name in self._readers]
        with torch.no_grad(), tap(self._model, wanted, on_read=on_read) as run:

            def read(batch: ImageBatch) -> None:
                nonlocal current
                current = batch
                run(batch.pixels)

            yield read


def read_batches(
    model: VisionModel, batches: Iterable[ImageBatch], meters: Sequence[Meter]
) -> dict[str, State]:
    """Run the model over batches that are decoded already, in one pass for all meters; their states, by name.

    Raises:
        BadValue, UnknownSite, Failure: as `scan` and `scan_shard`.
    """
    one = Pass(model, meters)
    with one.reading() as read:
        for batch in batches:
            read(batch)
    return one.states


def fresh_states(model: VisionModel, meters: Sequence[Meter]) -> dict[str, State]:
    """A fresh state for each meter, by name."""
    names = Counter(meter.name for meter in meters)
    if not names or max(names.values()) > 1:
        twice = [name for name, count in names.items() if count > 1]
        raise BadValue(f"two meters are called {twice[0]!r}" if twice else "a scan needs at least one meter")
    return {meter.name: meter.start(meter.sites(model.sites)) for meter in meters}


@contextmanager
def _named(meter: str, site: Site) -> Iterator[None]:
    """An error from inside says which meter and which site."""
    try:
        yield
    except VitscopeError:
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            raise
        raise Failure(
            f"the meter {meter!r} failed at {site.name}: {type(error).__name__}: {error}"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)
