"""The laws of a pass: what it runs, what it leaves alone, and where a change of the pixels arrives."""

from __future__ import annotations

import torch
from torch import Tensor

from vitscope.models.vision_model import VisionModel
from vitscope.tap import read, tap
from vitscope.testing.selection import branch_of, few_sites, sites_after
from vitscope.testing.witness import EXACT, corners, distance, error, most_moved, noise, recording, witness


class PassLaws:
    """What a pass with sites in it does. A part of `AdapterContract`."""

    def test_early_exit_is_bit_equal_and_stops(self, model: VisionModel) -> None:
        """A site read alone is what it is in a full pass, and nothing that comes after it runs."""
        seen = witness(model)
        for site in few_sites(model):
            with recording(model.module) as record:
                alone = read(model, seen.pixels, [site])[site.name]
            assert torch.equal(alone, seen.found[site.name]), site
            assert record.started == seen.record.started[: len(record.started)], site
            for later in sites_after(model, site):
                assert record.finished[later.path] < later.call, f"{later.name} ran to read {site.name}"

    def test_a_full_pass_is_undisturbed(self, model: VisionModel) -> None:
        """With every site read, the model returns what it returns by itself."""
        seen = witness(model)
        with torch.no_grad(), tap(model, list(model.sites), on_read=lambda *_: None, early_exit=False) as run:
            output = run(seen.pixels)
        assert output is not None
        assert torch.equal(output, seen.output)

    def test_two_images_are_two_times_one(self, model: VisionModel) -> None:
        """No image changes what is read of another."""
        seen = witness(model)
        for site in few_sites(model):
            ones = [read(model, seen.pixels[index : index + 1], [site])[site.name] for index in (0, 1)]
            apart = error(torch.cat(ones), seen.found[site.name])
            assert apart < EXACT, f"{site.name}: two images are {apart:.1e} from two times one"

    def test_the_gradient_of_a_unit_reaches_the_pixels(self, model: VisionModel) -> None:
        """Of its own image alone; no weight gets one."""
        for site in few_sites(model):
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
        for site in first if branch_of(model, "blocks.0") == "attn" else []:
            for row, column in corners(site):
                moved = most_moved(model, site, row, column)
                near = distance(moved, (row, column)) < distance(moved, (column, row))
                assert near, f"{site.name}: patch {row}, {column} moves {moved} most"


def _push(found: Tensor) -> None:
    """Send back the gradient of one unit at one place, which is not zero."""
    strongest = found.flatten()[found.detach().abs().argmax()]
    torch.autograd.backward(strongest)
