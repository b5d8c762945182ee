"""The contract that every model must satisfy, whatever adapter or rule its sites come from.

Each law is checked by value against what the model's own modules saw (`witness`), never against the code
that found the sites.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn

from vitscope.errors import UnknownAddress, UnknownSite
from vitscope.models.vision_model import LAYOUTS, Site, VisionModel
from vitscope.tap import read, tap
from vitscope.witness import (
    ACTIVATIONS,
    Witness,
    corners,
    distance,
    error,
    most_moved,
    noise,
    recording,
    spread_out,
    unexplained,
    witness,
)
from vitscope.witness_attention import (
    count_of,
    eager_maps,
    keys_of,
    matches,
    mixed,
    other_terms,
    scores_of,
    weights_of,
)

EXACT = 1e-5
"""How closely sums and maps must hold in float32, relative to the largest value."""
CLOSE = 1e-4
"""The same for attention, which adds up many products."""


class StructureContract:
    """What holds without a single weight: for models on the meta device. Inherit, with a fixture `model`."""

    def test_names_are_unique_and_numbered_from_zero(self, model: VisionModel) -> None:
        """No name twice; blocks, stages and the blocks of a stage are counted without a gap."""
        names = [site.name for site in model.sites]
        assert len(names) == len(set(names))
        for pattern in (r"blocks\.(\d+)(?:\..*)?", r"stages\.(\d+)\.\d+(?:\..*)?"):
            numbers = _numbers(pattern, names)
            assert numbers == list(range(len(numbers)))
        for stage in _numbers(r"stages\.(\d+)\.\d+(?:\..*)?", names):
            inner = _numbers(rf"stages\.{stage}\.(\d+)(?:\..*)?", names)
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
        for name in _blocks(model):
            own = [name, f"{name}.mlp", *([] if f"{name}.mlp.base" in sites else [f"{name}.mid"])]
            parts = [sites[part] for part in own if part in sites]
            assert len({(part.grid, part.prefix_tokens, part.units) for part in parts}) == 1, parts
            if f"{name}.attn.q" in sites and f"{name}.attn.k" in sites:
                assert sites[f"{name}.attn.q"].units % sites[f"{name}.attn.k"].units == 0

    def test_what_is_missing_is_said(self, model: VisionModel) -> None:
        """A block without one of its parts, or a model without blocks, comes with a note that names it."""
        names, said = {site.name for site in model.sites}, " ".join(model.sites.notes)
        for name in _blocks(model):
            branch = _branch(model, name)
            inner = [f"{branch}.{part}" for part in ("q", "k", "v", "heads", "pattern")]
            for part in [branch, "mlp", "ffn", *(inner if branch == "attn" else [])]:
                said_so = f".{part}" in said or f".{part.split('.')[-1]}" in said
                assert f"{name}.{part}" in names or said_so, f"{name}.{part} is missing unsaid"
        ends = [("logits", "embedding"), *([("pooled",)] if "logits" in names else [])]
        for kinds in [("blocks", "stages"), *ends]:
            present = any(name.split(".")[0] in kinds for name in names)
            assert present or any(kind in said for kind in kinds), f"{kinds} missing unsaid"


class AdapterContract(StructureContract):
    """What every model with weights must satisfy. Inherit, with a fixture `model`, loaded once a class.

    >>> class TestMine(AdapterContract):
    ...     @pytest.fixture(scope="class")
    ...     @classmethod
    ...     def model(cls): return load(MyModule(), sample=(64, 64), device="cpu")
    """

    def test_places_times_units_are_the_raw_tensor(self, model: VisionModel) -> None:
        """Every number of a site is one of its module's tensor; of a whole tensor all are there, once."""
        seen = witness(model)
        for site in model.sites:
            if site.function:
                continue
            raw, found = seen.record.tensor(site), seen.found[site.name]
            assert found.shape == (len(seen.pixels), site.places, site.units), site
            if site.derive is None:
                assert torch.equal(spread_out(raw, site.axes), found), site
            elif raw.numel() == found.numel():
                assert torch.equal(raw.flatten().sort().values, found.flatten().sort().values), site
            else:
                assert raw.numel() > found.numel(), site
                assert bool(torch.isin(found, raw).all()), site

    def test_raw_sites_are_their_modules_outputs(self, model: VisionModel) -> None:
        """The same of raw sites, and each has all its module hands out, but for padding."""
        paths = [path for path, _ in model.module.named_modules() if path]
        known = {site.name: site for path in paths for site in _raw(model, path)}
        with recording(model.module, lambda path: path in known) as record:
            found = read(model, noise(model, count=2), list(known.values()))
        for name, site in known.items():
            raw = record.tensor(site)
            assert raw.numel() >= found[name].numel() == 2 * site.places * site.units, site
            assert site.derive is not None or torch.equal(spread_out(raw, site.axes), found[name]), site

    def test_the_second_linear_map_of_ffn_is_mlp(self, model: VisionModel) -> None:
        """Run again, alone, on `ffn` it gives `mlp`, up to a scale and norm after it in some families."""
        seen = witness(model)
        for site in model.sites("**"):
            block, _, part = site.name.rpartition(".")
            out = f"{block}.branch" if block.startswith("stages") else f"{block}.mlp"
            if part != "ffn" or site.function or out not in seen:
                continue
            assert site.side == "input", site
            again = _mapped(model.module.get_submodule(site.path), seen[site.name])
            mlp = seen[out] if site.grid else seen[out][:, : site.places]  # of class tokens alone
            assert again.shape == mlp.shape, site
            if error(again, mlp) > EXACT:
                left = _left_of_mlp(model, site, out)
                assert left < CLOSE, f"{site.path} does not make {out} from {site.name}: {left:.1e} is left"

    def test_branches_add_up_to_the_stream(self, model: VisionModel) -> None:
        """`mid` is what came before plus the first branch, and `blocks.i` is `mid` plus `mlp`."""
        seen, before = witness(model), "embed"
        for name in _blocks(model):
            branch, mid, mlp = f"{name}.{_branch(model, name)}", f"{name}.mid", f"{name}.mlp"
            if branch in seen and mid in seen:
                base = f"{branch}.base" if f"{branch}.base" in seen else before
                assert error(seen[base] + seen[branch], seen[mid]) < EXACT, f"{base} + {branch} is not {mid}"
            if mlp in seen:
                base = f"{mlp}.base" if f"{mlp}.base" in seen else mid
                assert error(seen[base] + seen[mlp], seen[name]) < EXACT, f"{base} + {mlp} is not {name}"
            before = name

    def test_shortcut_and_branch_give_the_stage(self, model: VisionModel) -> None:
        """A block of a CNN hands out its shortcut plus its branch, or an activation function of the sum."""
        seen = witness(model)
        for site in model.sites:
            if site.name.endswith(".branch") and site.name.startswith("stages."):
                block = model.sites.named(site.name.rpartition(".")[0])
                if not block.function:
                    assert _is_sum(seen, block, site), f"no shortcut and {site.name} give {block.name}"

    def test_attention_weights_give_the_context(self, model: VisionModel) -> None:
        """Rows of a pattern are shares: they sum to one, and of the values they make the context vectors.

        Batch norm between projection and attention is let through: rows that sum to one do not change it.
        """
        seen = witness(model)
        for site in _patterns(model):
            weights, name = weights_of(seen, site), site.name.removesuffix(".pattern")
            assert float(weights.min()) >= 0, site
            assert float((weights.sum(-1) - 1).abs().max()) < EXACT, site
            if {f"{name}.v", f"{name}.heads"} <= seen.found.keys() and not _is_changed(model, name):
                context, whole = mixed(weights, seen[f"{name}.v"], seen[f"{name}.heads"], keys_of(site))
                own = seen[f"{name}.heads"][:, whole]
                if not own.numel():  # every query sees padding
                    continue
                apart = min(error(context[:, whole], own), unexplained(own, by=context[:, whole]))
                assert apart < CLOSE, f"{site.name} times v is {apart:.1e} from {name}.heads"

    def test_patterns_equal_the_eager_maps(self, model: VisionModel) -> None:
        """Every pattern is a map that the model computes when its attention is not fused."""
        patterns = _patterns(model)
        maps = eager_maps(model, witness(model).pixels) if patterns else []
        for site in patterns:
            windows = keys_of(site).table is not None
            apart = matches(weights_of(witness(model), site), maps, windows=windows)
            assert apart < EXACT, f"{site.name} is {apart:.1e} from the nearest map"

    def test_queries_and_keys_give_the_pattern(self, model: VisionModel) -> None:
        """The softmax of their products is the pattern, unless norms, rotations or biases come in between."""
        seen = witness(model)
        for site in _patterns(model):
            name = site.name.removesuffix(".pattern")
            if {f"{name}.q", f"{name}.k"} <= seen.found.keys() and _as_projected(model, site, name):
                scores = scores_of(
                    seen[f"{name}.q"], seen[f"{name}.k"], weights_of(seen, site), keys_of(site)
                )
                plain = error(scores.softmax(-1), weights_of(seen, site)) < CLOSE
                assert plain or other_terms(model.module), f"{name}.q and .k do not give {site.name}"

    def test_early_exit_is_bit_equal_and_stops(self, model: VisionModel) -> None:
        """A site read alone is what it is in a full pass, and nothing that comes after it runs."""
        seen = witness(model)
        for site in _few(model):
            with recording(model.module) as record:
                alone = read(model, seen.pixels, [site])[site.name]
            assert torch.equal(alone, seen.found[site.name]), site
            assert record.started == seen.record.started[: len(record.started)], site
            for later in _after(model, site):
                assert record.finished[later.path] < later.call, f"{later.name} ran to read {site.name}"

    def test_a_full_pass_is_undisturbed(self, model: VisionModel) -> None:
        """With every site read, the model returns what it returns by itself."""
        seen = witness(model)
        with torch.no_grad(), tap(model, list(model.sites), on_read=lambda *_: None, early_exit=False) as run:
            output = run(seen.pixels)
        assert output is not None
        assert torch.equal(output, seen.output)

    def test_the_gradient_of_a_unit_reaches_the_pixels(self, model: VisionModel) -> None:
        """Of its own image alone; no weight gets one."""
        for site in _few(model):
            pixels = noise(model, count=2).requires_grad_()
            with tap(model, [site], on_read=lambda _, found: _push(found[0])) as run:
                run(pixels)
            assert pixels.grad is not None, site
            own, other = (float(image.abs().max()) for image in pixels.grad)
            assert 0 < own < float("inf"), f"{site.name}: the largest gradient is {own}"
            assert other < 1e-9 * own, f"{site.name}: the gradient reaches another image"
            assert all(weight.grad is None for weight in model.module.parameters())

    def test_a_changed_patch_moves_its_own_place(self, model: VisionModel) -> None:
        """At `embed` the cell that moves most is the patch's own, or its neighbour where kernels overlap."""
        for site in (site for site in model.sites if site.name == "embed"):
            for cell in corners(site):
                moved = most_moved(model, site, *cell)
                assert distance(moved, cell) <= 1, f"embed: patch {cell} moves {moved} most"

    def test_grids_are_not_transposed(self, model: VisionModel) -> None:
        """After the first block a patch still moves its own place, not the one across the diagonal.

        Mixing over all places by fixed weights may move any place: there the sums of the stream say the same.
        """
        first = [site for site in model.sites if site.name in ("blocks.0", "stages.0.0")][:1]
        for site in first if _branch(model, "blocks.0") == "attn" else []:
            for row, column in corners(site):
                moved = most_moved(model, site, row, column)
                near = distance(moved, (row, column)) < distance(moved, (column, row))
                assert near, f"{site.name}: patch {row}, {column} moves {moved} most"

    def test_units_end_where_they_end(self, model: VisionModel) -> None:
        """The last unit is an address, the one after it an error."""
        for site in model.sites:
            assert model.site(f"{site.name}:{site.units - 1}") == site
            with pytest.raises(UnknownAddress, match=f"it has {site.units} units"):
                model.site(f"{site.name}:{site.units}")

    def test_two_images_are_two_times_one(self, model: VisionModel) -> None:
        """No image changes what is read of another."""
        seen = witness(model)
        for site in _few(model):
            ones = [read(model, seen.pixels[index : index + 1], [site])[site.name] for index in (0, 1)]
            apart = error(torch.cat(ones), seen.found[site.name])
            assert apart < EXACT, f"{site.name}: two images are {apart:.1e} from two times one"


def _numbers(pattern: str, names: Iterable[str]) -> list[int]:
    return sorted({int(found[1]) for name in names if (found := re.fullmatch(pattern, name))})


def _blocks(model: VisionModel) -> list[str]:
    return [f"blocks.{index}" for index in _numbers(r"blocks\.(\d+)", [site.name for site in model.sites])]


def _branch(model: VisionModel, block: str) -> str:
    """Places are mixed by attention, or by something else."""
    return "mix" if any(site.name.startswith(f"{block}.mix") for site in model.sites) else "attn"


def _patterns(model: VisionModel) -> list[Site]:
    return [site for site in model.sites if site.keys is not None]


def _raw(model: VisionModel, path: str) -> list[Site]:
    """The raw site of a module that runs once, if it has one."""
    try:
        site = model.sites.named(path)
    except UnknownSite:
        return []
    return [] if site.semantic else [site]


def _few(model: VisionModel) -> list[Site]:
    """A hidden layer and the stream in the middle, and the end."""
    names = [site.name for site in model.sites]
    outs = [name for name in names if re.fullmatch(r"blocks\.\d+|stages\.\d+\.\d+", name)]
    hidden = [name for name in names if name.endswith(".ffn")]
    ends = [name for name in names if name in ("logits", "embedding")]
    chosen = [*hidden[len(hidden) // 2 :][:1], *outs[len(outs) // 2 :][:1], *ends]
    return [model.sites.named(name) for name in chosen]


def _after(model: VisionModel, site: Site) -> Iterator[Site]:
    """Sites on modules of later blocks than that of a site; queries may be shared by several blocks."""
    own = _numbers(r"blocks\.(\d+).*", [site.name])
    for other in model.sites if own else ():
        number = _numbers(r"blocks\.(\d+).*", [other.name])
        own_part = re.fullmatch(r"blocks\.\d+(\.(norm1|norm2|attn|mix|mlp))?", other.name)
        if own_part and number > own and other.side == "output" and not other.function:
            yield other


def _is_changed(model: VisionModel, name: str) -> bool:
    """Whether a note says that the values of this attention are changed after they were projected."""
    number = int(name.split(".")[1])
    for note in model.sites.notes:
        found = re.match(r"blocks\.(\w+)\.attn\.v is as projected(?: \(i = ([\d, -]+)\))?:", note)
        spans = [part.partition("-") for part in (found[2] or found[1]).split(", ")] if found else []
        if any(int(first) <= number <= int(last or first) for first, _, last in spans):
            return True
    return False


def _as_projected(model: VisionModel, site: Site, name: str) -> bool:
    """Whether a pattern has a row for every query and a column for every key: some models pool them first."""
    query, key, keys = model.sites.named(f"{name}.q"), model.sites.named(f"{name}.k"), keys_of(site)
    return query.places == site.places and (keys.table is not None or key.places == count_of(keys))


def _mapped(part: nn.Module, given: Tensor) -> Tensor:
    """A linear map or 1 x 1 convolution on "image place unit", in float64."""
    exact = copy.deepcopy(part).double().eval()
    with torch.no_grad():
        if isinstance(part, nn.Conv2d):
            result: Tensor = exact(given.flatten(0, 1)[..., None, None]).reshape(*given.shape[:2], -1)
        else:
            result = exact(given)
    return result


def _left_of_mlp(model: VisionModel, site: Site, out: str) -> float:
    """What neither the second linear map alone, nor blended with the stream, explains of the branch."""
    block = site.name.rpartition(".")[0]
    names = [name for name in (f"{block}.mlp.base", f"{block}.mid") if name in witness(model)][:1]
    sites = [model.sites.named(name) for name in (site.name, out, *names)]
    with torch.no_grad():
        found = {name: part.double() for name, part in read(model, noise(model, count=8), sites).items()}
    again = _mapped(model.module.get_submodule(site.path), found[site.name])
    mlp = found[out] if site.grid else found[out][:, : site.places]
    blends = [unexplained(mlp, by=again, beside=found[name]) for name in names if site.grid]
    return min([unexplained(mlp, by=again), *blends])


def _is_sum(seen: Witness, block: Site, branch: Site) -> bool:
    """Whether what some part of the block hands out, or its input, is the shortcut."""
    out, added = seen[block.name], seen[branch.name]
    record, inside = seen.record, f"{block.path}."
    shortcuts = [record.inputs[block.path, block.call], *record.extras[block.path, block.call]]
    for seen_there in (record.inputs, record.outputs):
        shortcuts += [tensor for (path, _), tensor in seen_there.items() if path.startswith(inside)]
    for shortcut in shortcuts:
        if shortcut.numel() != out.numel() or shortcut.ndim != 4:
            continue
        total = spread_out(shortcut, block.axes).double()
        if total.shape == out.shape and any(error(act(total + added), out) < EXACT for act in ACTIVATIONS):
            return True
    return False


def _push(found: Tensor) -> None:
    """Send back the gradient of one unit at one place, which is not zero."""
    strongest = found.flatten()[found.detach().abs().argmax()]
    torch.autograd.backward(strongest)
