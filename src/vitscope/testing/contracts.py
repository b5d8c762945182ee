"""The contract that every model must satisfy, whatever adapter or rule its sites come from.

Each law is checked by value against what the model's own modules saw (`witness`), never against the code
that found the sites.
"""

from __future__ import annotations

from vitscope.models.vision_model import LAYOUTS, VisionModel
from vitscope.testing.attention import AttentionLaws
from vitscope.testing.passes import PassLaws
from vitscope.testing.selection import blocks_of, branch_of, numbers_in
from vitscope.testing.values import ValueLaws
from vitscope.testing.witness_attention import count_of


class StructureContract:
    """What holds without a single weight: for models on the meta device. Inherit, with a fixture `model`."""

    def test_names_are_unique_and_numbered_from_zero(self, model: VisionModel) -> None:
        """No name twice; blocks, stages and the blocks of a stage are counted without a gap."""
        names = [site.name for site in model.sites]
        assert len(names) == len(set(names))
        for pattern in (r"blocks\.(\d+)(?:\..*)?", r"stages\.(\d+)\.\d+(?:\..*)?"):
            numbers = numbers_in(pattern, names)
            assert numbers == list(range(len(numbers)))
        for stage in numbers_in(r"stages\.(\d+)\.\d+(?:\..*)?", names):
            inner = numbers_in(rf"stages\.{stage}\.(\d+)(?:\..*)?", names)
            assert inner == list(range(len(inner)))

    def test_sites_have_places_and_units(self, model: VisionModel) -> None:
        """Axes are known, places and units counted, and places are prefix tokens and grid."""
        for site in model.sites:
            rows, columns = site.grid or (0, 0)
            assert site.axes in LAYOUTS, site
            assert site.units > 0, site
            assert site.places == max(1, site.prefix_tokens + rows * columns), site
            assert site.grid is None or min(site.grid) > 0, site

    def test_paths_exist(self, model: VisionModel) -> None:
        """Every site lies on a module, at a call that happens."""
        paths = {path for path, _ in model.module.named_modules(remove_duplicate=False)}
        for site in model.sites:
            assert site.path in paths, site
            assert 1 <= site.call <= site.calls, site

    def test_patterns_have_whole_heads(self, model: VisionModel) -> None:
        """Only attention weights have keys, and their units are heads x keys; a table has a row per query."""
        for site in model.sites:
            assert (site.keys is not None) == (site.axes == "image head query key"), site
            if site.keys is not None:
                assert site.units % count_of(site.keys) == 0, site
                assert site.keys.table is None or len(site.keys.table) == site.places, site

    def test_streams_fit(self, model: VisionModel) -> None:
        """A block's branches and sums have its units and places, and q is k's width or a multiple."""
        sites = {site.name: site for site in model.sites}
        for name in blocks_of(model):
            own = [name, f"{name}.mlp", *([] if f"{name}.mlp.base" in sites else [f"{name}.mid"])]
            parts = [sites[part] for part in own if part in sites]
            assert len({(part.grid, part.prefix_tokens, part.units) for part in parts}) == 1, parts
            if f"{name}.attn.q" in sites and f"{name}.attn.k" in sites:
                assert sites[f"{name}.attn.q"].units % sites[f"{name}.attn.k"].units == 0

    def test_what_is_missing_is_said(self, model: VisionModel) -> None:
        """A block without one of its parts, or a model without blocks, comes with a note that names it."""
        names, said = {site.name for site in model.sites}, " ".join(model.sites.notes)
        for name in blocks_of(model):
            branch = branch_of(model, name)
            inner = [f"{branch}.{part}" for part in ("q", "k", "v", "heads", "pattern")]
            for part in [branch, "mlp", "ffn", *(inner if branch == "attn" else [])]:
                said_so = f".{part}" in said or f".{part.split('.')[-1]}" in said
                assert f"{name}.{part}" in names or said_so, f"{name}.{part} is missing unsaid"
        ends = [("logits", "embedding"), *([("pooled",)] if "logits" in names else [])]
        for kinds in [("blocks", "stages"), *ends]:
            present = any(name.split(".")[0] in kinds for name in names)
            assert present or any(kind in said for kind in kinds), f"{kinds} missing unsaid"


class AdapterContract(PassLaws, AttentionLaws, ValueLaws, StructureContract):
    """What every model with weights must satisfy. Inherit, with a fixture `model`, loaded once a class.

    >>> class TestMine(AdapterContract):
    ...     @pytest.fixture(scope="class")
    ...     @classmethod
    ...     def model(cls): return load(MyModule(), sample=(64, 64), device="cpu")
    """
