"""The laws of what sites hold: all of their tensor, sums of the stream, what linear maps make of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from vitscope.errors import UnknownAddress
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import read
from vitscope.testing.selection import blocks_of, branch_of, raw_sites
from vitscope.testing.witness import (
    ACTIVATIONS,
    CLOSE,
    EXACT,
    Witness,
    error,
    noise,
    recording,
    spread_out,
    unexplained,
    witness,
)


class ValueLaws:
    """What sites hold. A part of `AdapterContract`."""

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
        known = {site.name: site for path in paths for site in raw_sites(model, path)}
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
        for name in blocks_of(model):
            branch, mid, mlp = f"{name}.{branch_of(model, name)}", f"{name}.mid", f"{name}.mlp"
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

    def test_units_end_where_they_end(self, model: VisionModel) -> None:
        """The last unit is an address, the one after it an error."""
        for site in model.sites:
            assert model.site(f"{site.name}:{site.units - 1}") == site
            with pytest.raises(UnknownAddress, match=f"it has {site.units} units"):
                model.site(f"{site.name}:{site.units}")


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
