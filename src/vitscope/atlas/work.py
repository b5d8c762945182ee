"""The stages of a build: scan, merge, sample, thumbnails, leaves, dreams. Each goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from vitscope.address import Address
from vitscope.atlas.commit import claimed
from vitscope.atlas.compare import NaturalImages
from vitscope.atlas.leaf import SAMPLED, ExemplarRow, UnitRow, exemplar_table, sprite, table_bytes
from vitscope.atlas.manifest import SiteLayout
from vitscope.atlas.rows import RANKINGS, SHOWN, Images, chosen, pack, ranked_rows, unit_row
from vitscope.atlas.sample import Sample, sample_meters, sample_of, sample_source
from vitscope.atlas.store import ABSENT, Store, read_arrays
from vitscope.atlas.tasks import DreamGroup, DreamTask, ScanTask, ShardName, ways_of
from vitscope.atlas.thumbnails import make_thumbnails
from vitscope.data.source import ImageSource, Shard, Skipped
from vitscope.dream.objectives import unit as unit_objective
from vitscope.dream.plan import Plan, Tuned, plan_dreams, tuned_for
from vitscope.dream.recipe import Recipe
from vitscope.engine.engine import Engine
from vitscope.errors import AtlasError, SourceError
from vitscope.lean import Forms
from vitscope.meters.meter import Meter
from vitscope.meters.topk import Exemplars
from vitscope.models.vision_model import VisionModel
from vitscope.parts import Part, check_skipped, merge_parts

OnProgress = Callable[[str, int, int], None]
"""Told the stage ("scanning", "sampling", "thumbnails", "leaves", "dreams"), how many pieces are done, and of
how many."""


@dataclass
class Work:
    """One run of a build; `run` goes through all stages."""

    model: VisionModel
    source: ImageSource
    store: Store
    meters: Sequence[Meter]
    recipes: Sequence[Recipe]
    batch_size: int
    engine: Engine
    on_progress: OnProgress
    on_plan: Callable[[str], None]

    def __post_init__(self) -> None:
        self.leases = self.store.root / "leases"
        self.shards = self.source.shards(self.store.manifest.shard_size)
        self.not_shown: list[Skipped] = []
        self.dreams = 0
        self.sampled: dict[str, str] = {}
        self.unfinished: list[tuple[SiteLayout, int]] = []
        for site, leaf in self.store.leaves():
            # Read and hashed once; from here on a look at the sizes will do.
            fault = self.store.fault(site.name, leaf, read=True)
            if fault is None:  # a kill may have come between the leaf and the removal of its dreams
                self.store.drop_dreams(site.name, leaf)
            else:
                self.unfinished.append((site, leaf))
            if fault not in (None, ABSENT):
                self.store.discard_leaf(site.name, leaf)

    def run(self, max_skip: float) -> None:
        """All stages, each from where it stopped."""
        self.scan()
        if not self.part.images:
            raise SourceError(
                f"{self.source.name} has no image that could be read: {len(self.part.skipped)} skipped"
            )
        check_skipped(self.part, total=len(self.source), max_skip=max_skip)
        self.commit_samples()
        self.make_thumbnails()
        self.commit_leaves()
        self.make_dreams()

    # scan

    def scan(self) -> None:
        """Scan what is not scanned yet."""
        todo = [shard for shard in self.shards if read_arrays(self.store.part_file(shard.id)) is None]
        for shard in todo:
            self.store.part_file(shard.id).unlink(missing_ok=True)  # from here on, one that exists is whole
        names = [ShardName(shard, self.store.part_file(shard.id).stem) for shard in todo]
        task = ScanTask(self.model, self.source, self.store, self.meters, self.batch_size)
        done, total = sum(map(len, self.shards)) - sum(map(len, todo)), len(self.source)
        self.on_progress("scanning", done, total)
        for work in self.shared(task, names, lambda work: self.store.part_file(work.shard.id).exists()):
            done += len(work.shard)
            self.on_progress("scanning", done, total)

    def shared(
        self, task: Callable[[Any], None], work: Sequence[Any], done: Callable[[Any], bool]
    ) -> Iterator[Any]:
        """Have the engine do what no other process does, and wait for what others do."""
        with closing(claimed(work, self.leases, done=done)) as mine:
            for piece, _ in self.engine.map(task, mine):
                yield piece

    @cached_property
    def part(self) -> Part:
        """All shards, merged in their order, so that sums round the same way every time."""
        return merge_parts(self._read_part(shard, self.meters) for shard in self.shards)

    def _read_part(self, shard: Shard, meters: Sequence[Meter]) -> Part:
        found = read_arrays(self.store.part_file(shard.id))
        if found is None:
            raise AtlasError(
                f"the part of shard {shard.id} is damaged: run the same command again to scan it again"
            )
        return Part.from_arrays(found[0], found[1], sites=self.model.sites, meters=meters)

    @cached_property
    def found(self) -> dict[str, Any]:
        """The meters' results, by meter and site."""
        return {name: state.result() for name, state in self.part.states.items()}

    @cached_property
    def images(self) -> Images:
        """Path and class of every image that was read; where one picture has several paths, the first."""
        found: dict[str, tuple[str, str | None]] = {}
        for image in self.part.images:
            found.setdefault(image.id, (image.path, _class_name(image.label, self.source.classes)))
        return found

    # sample

    def commit_samples(self) -> None:
        """Show the model a sample of the images once more, and write what that says of every leaf."""
        fault = partial(self.store.fault, read=True, of=SAMPLED)
        todo = [(site, leaf) for site, leaf in self.store.leaves() if fault(site.name, leaf)]
        facts = self.store.agreed("sample.json", self._drawn)
        self.sampled = {image["image"]: image["path"] for image in facts["images"]}
        if not todo:
            return
        source, shard = sample_source(self.source, facts)
        meters = sample_meters(self.found["moments"], k=self.store.manifest.k)
        name, total = ShardName(shard, shard.id), len(shard)
        if read_arrays(self.store.part_file(shard.id)) is None:
            self.store.part_file(shard.id).unlink(missing_ok=True)
            self.on_progress("sampling", 0, total)
            task = ScanTask(self.model, source, self.store, meters, self.batch_size)
            for _ in self.shared(task, [name], lambda work: self.store.part_file(work.shard.id).exists()):
                self.on_progress("sampling", total, total)
        part = self._read_part(shard, meters)
        found = {name: state.result() for name, state in part.states.items()}
        sample = Sample(self.model, self.found["moments"], found, self.images)
        for site, leaves in groupby(todo, key=itemgetter(0)):
            for leaf, files in sample.files(site, [leaf for _, leaf in leaves]):
                self.store.commit_leaf(site.name, leaf, files, of=SAMPLED)

    def _drawn(self) -> dict[str, Any]:
        chosen = [(image, *self.images[image]) for image in sample_of(self.images)]
        return {"images": [{"image": image, "path": path, "label": label} for image, path, label in chosen]}

    # leaves

    def rows(self, site: SiteLayout, leaf: int) -> list[ExemplarRow]:
        """The exemplars of a leaf, from the meters."""
        found: dict[str, Exemplars] = {
            ranking: self.found[f"topk_{ranking}"][site.name] for ranking in RANKINGS
        }
        return [
            row
            for unit in site.members(leaf)
            if self.found["moments"][site.name].status[unit] in SHOWN
            for row in ranked_rows(site, unit, found, self.images)
        ]

    def make_thumbnails(self) -> None:
        """Make the thumbnails of all exemplars and of the sample, once per image."""
        wanted: dict[str, str] = dict(self.sampled)
        for site, leaf in self.store.leaves():
            if (site, leaf) in self.unfinished:
                wanted.update((row.image, row.path) for row in self.rows(site, leaf))
            else:
                table = exemplar_table(self.store.read_leaf(site.name, leaf, "exemplars.parquet"))
                wanted.update(zip(table["image"].to_pylist(), table["path"].to_pylist(), strict=True))
        self.not_shown = make_thumbnails(
            self.source,
            wanted,
            shards=self.shards,
            preprocessing=self.model.preprocessing,
            file_of=self.store.thumbnail_file,
            on_done=lambda done: self.on_progress("thumbnails", done, len(wanted)),
        )

    def commit_leaves(self) -> None:
        """Write every leaf whose dreams are all there."""
        self.count_leaves()
        for site, leaf in list(self.unfinished):
            self.commit_leaf(site, leaf)

    def count_leaves(self) -> None:
        """Tell how many leaves are finished."""
        total = sum(site.leaves for site in self.store.manifest.sites)
        self.on_progress("leaves", total - len(self.unfinished), total)

    def commit_leaf(self, site: SiteLayout, leaf: int) -> None:
        """Write one leaf, if all its dreams are there."""
        wanted = [unit for unit in self.chosen(site) if unit in site.members(leaf)]
        dreams = {unit: self.read_dreams(site.name, unit) for unit in wanted}
        if all(len(found) == self.store.manifest.ways for found in dreams.values()):
            self.store.commit_leaf(site.name, leaf, self.leaf_files(site, leaf, dreams))
        if self.store.fault(site.name, leaf) is None:  # written here, or by another process a moment ago
            self.store.drop_dreams(site.name, leaf)
            self.unfinished.remove((site, leaf))
            self.count_leaves()

    def leaf_files(
        self, site: SiteLayout, leaf: int, dreams: Mapping[int, Sequence[tuple[dict[str, Any], bytes]]]
    ) -> dict[str, bytes]:
        """The bytes of a leaf; the overview shows the first dream of a unit."""
        content, pointers = pack(dreams)
        moments = self.found["moments"][site.name]
        units = [unit_row(moments, unit, dreams=pointers.get(unit, ())) for unit in site.members(leaf)]
        exemplars = self.rows(site, leaf)
        tiles = {row.unit: row.image for row in exemplars if (row.ranking, row.rank) == (RANKINGS[0], 0)}
        files = {unit: self.store.thumbnail_file(image) for unit, image in tiles.items()}
        pictures = {unit: path.read_bytes() for unit, path in files.items() if path.exists()}
        pictures |= {unit: picture for unit, ((_, picture), *_) in dreams.items()}
        return {
            "units.parquet": table_bytes(units, of=UnitRow),
            "exemplars.parquet": table_bytes(exemplars, of=ExemplarRow),
            "pack": content,
            "sprite.webp": sprite({unit - site.members(leaf).start: pictures[unit] for unit in pictures}),
        }

    # dreams

    def chosen(self, site: SiteLayout) -> list[int]:
        """The units of a site to dream of."""
        plan = self.store.manifest.dreams
        if plan is None:
            return []
        statuses = [str(status) for status in self.found["moments"][site.name].status]
        return chosen(site.name, statuses, count=plan["count"], seed=plan["seed"])

    def read_dreams(self, site: str, unit: int) -> list[tuple[dict[str, Any], bytes]]:
        """The finished dreams of a unit that are in no leaf yet: their facts and their WebP."""
        files = (self.store.dream_file(site, unit, way) for way in range(self.store.manifest.ways))
        found = (read_arrays(file) for file in files)
        return [(one[1], one[0]["webp"].tobytes()) for one in found if one is not None]

    def make_dreams(self) -> None:
        """Dream, group by group, and write each leaf as soon as its dreams are there."""
        plans = {site: self.chosen(site) for site in self.store.manifest.sites}
        total = sum(map(len, plans.values())) * self.store.manifest.ways
        if not total:
            return
        groups = [group for site, units in plans.items() for group in self.groups(site, units)]
        todo = [group for group in groups if not self.dreamt(group)]
        self.dreams = total - sum(len(group.units) for group in todo)
        self.on_progress("dreams", self.dreams, total)
        if todo:
            task = self.dream_task(todo)
            for group in self.shared(task, todo, self.dreamt):
                self.dreams += len(group.units)
                self.on_progress("dreams", self.dreams, total)
                self.commit_leaves_of(group)
        self.dreams = total
        self.commit_leaves()

    def dream_task(self, todo: Sequence[DreamGroup]) -> DreamTask:
        """What engines do, in the forms that all processes of this atlas agree on."""
        told = self.store.manifest.dreams or {}
        seeds = told["seeds"]
        ways = ways_of(self.recipes, seed=told["seed"], seeds=seeds, repeats=told.get("repeats", 1))
        plans = {}
        for recipe in self.recipes:
            groups = [group for group in todo if ways[group.way].recipe == recipe]
            if groups:
                plans[recipe.name] = self.planned(recipe, groups, seeds)
        paths = {image: path for image, (path, _) in self.images.items()}
        natural = NaturalImages(self.source, self.model.preprocessing, self.found["topk_mean"], paths)
        return DreamTask(self.model, self.store, ways, seeds, plans, natural.of)

    def planned(self, recipe: Recipe, groups: Sequence[DreamGroup], seeds: int) -> Plan:
        """How dreams by one recipe are computed; told in a sentence."""
        addresses = [Address(group.site, unit) for group in groups for unit in group.units]
        objectives = [unit_objective(address).bind(self.model) for address in addresses]
        agreed = self.store.agreed("dreams.json", lambda: asdict(tuned_for(self.model, objectives)))
        tuned = Tuned(Forms(**agreed["forms"]), agreed["note"])
        plan = plan_dreams(self.model, objectives, recipe=recipe, tuned=tuned)
        plan = replace(plan, units=self.batch_size, seconds=plan.seconds * seeds)
        by = f"{recipe.name}: " if len(self.recipes) > 1 else ""
        self.on_plan(by + plan.sentence(len(addresses)))
        return plan

    def groups(self, site: SiteLayout, units: Sequence[int]) -> Iterator[DreamGroup]:
        """The chosen units of a site, in groups of `batch_size`, each once for every way of dreaming."""
        for start in range(0, len(units), self.batch_size):
            for way in range(self.store.manifest.ways):
                yield DreamGroup(site.name, tuple(units[start : start + self.batch_size]), way)

    def dreamt(self, group: DreamGroup) -> bool:
        """Whether every dream of a group is in a leaf, or waits for one."""
        open_leaves = {(site.name, unit) for site, leaf in self.unfinished for unit in site.members(leaf)}
        return all(
            (group.site, unit) not in open_leaves
            or read_arrays(self.store.dream_file(group.site, unit, group.way)) is not None
            for unit in group.units
        )

    def commit_leaves_of(self, group: DreamGroup) -> None:
        """Write the leaves that a group completes."""
        for site, leaf in list(self.unfinished):
            if site.name == group.site and not set(group.units).isdisjoint(site.members(leaf)):
                self.commit_leaf(site, leaf)


def _class_name(index: int, classes: Sequence[str] | None) -> str | None:
    if index < 0:
        return None
    return classes[index] if classes and index < len(classes) else str(index)
