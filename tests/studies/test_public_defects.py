"""Defects known of public tools for CKA and attention: that we have none of them.

Those that are tested where they would arise are listed in `ELSEWHERE`, with the tools that have them in mind:
torch_cka, pytorch-cka, ckatorch, timm's attention extraction, vit-explain. The others are tested here.
"""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from vitscope.errors import UnknownSite
from vitscope.flow import rolled
from vitscope.meters.hsic import CKA, CKAState
from vitscope.scan import scan

TESTS = Path(__file__).parents[1]
HSIC, DISTANCE = "meters/test_hsic.py", "meters/test_attention_distance.py"
ELSEWHERE = {
    "shuffled loaders pair different images": (
        (HSIC, "test_defect_shuffled_images_a_model_against_its_copy_is_one"),
        (HSIC, "test_defect_shuffled_images_other_images_are_refused"),
        (
            "studies/test_similarity.py",
            "test_a_model_beside_its_copy_is_itself_whatever_the_batches_of_passes",
        ),
    ),
    "labels do not match rows": (
        (HSIC, "test_defects_rows_named_otherwise_and_features_overwritten_in_place"),
    ),
    "in-place operations corrupt features": (
        (HSIC, "test_defects_rows_named_otherwise_and_features_overwritten_in_place"),
        (HSIC, "test_what_is_read_may_be_overwritten_at_once"),
    ),
    "NaN on a short last batch": (
        (HSIC, "test_a_short_last_batch_is_dropped_and_counted_and_nothing_is_nan"),
        ("studies/test_similarity.py", "test_notes_say_what_happened_to_images"),
    ),
    "hooks left behind": (
        (HSIC, "test_defects_hooks_left_behind_and_gradients_kept"),
        (DISTANCE, "test_no_hook_stays_whether_the_pass_ends_or_fails"),
        ("test_tap.py", "test_no_trace_is_left"),
    ),
    "what does not fire is left out silently": (
        ("test_tap.py", "test_fault_051_a_site_that_does_not_fire_is_an_error_not_zeros"),
    ),
    "fused attention returns nothing": (
        (DISTANCE, "test_a_model_with_fused_attention_is_measured_as_its_own_projections_say"),
        (DISTANCE, "test_fused_and_open_attention_are_the_same"),
    ),
    "attention normalised on the wrong axis": ((DISTANCE, "test_rows_are_queries_and_sum_to_one"),),
    "biased estimators": (
        ("meters/test_grams.py", "test_defect_biased_estimators_independent_features_have_none_in_common"),
    ),
    "values clamped": (("meters/test_grams.py", "test_estimates_below_zero_are_not_clipped"),),
    "tokens compared within an image": ((HSIC, "test_defect_tokens_compared_within_an_image"),),
    "only the last batch counts": ((HSIC, "test_every_pair_equals_the_definition_in_float64"),),
}
"""Defect -> file and test, below tests/."""


@pytest.mark.parametrize("defect", ELSEWHERE)
def test_a_defect_that_is_tested_elsewhere_is(defect):
    for file, test in ELSEWHERE[defect]:
        names = {node.name for node in ast.parse((TESTS / file).read_text()).body if hasattr(node, "name")}
        assert test in names, f"{file} has no {test}"


@pytest.fixture(scope="module")
def folder(noise):
    return noise(12)


def test_defect_modules_that_never_run_leave_rows_of_zeros(vit, images):
    """torch_cka lists all modules of a ViT; those that fused attention passes over stay zero, then NaN."""
    assert vit.module.blocks[0].attn.fused_attn
    with pytest.raises(UnknownSite, match=r"no site 'blocks\.0\.attn\.attn_drop'"):
        scan(vit, images, [CKA("blocks.0.attn.attn_drop", gram=12)])
    found = scan(vit, images, [CKA("blocks.*.**", gram=12)])["cka"]
    assert len(found.sites) > 30
    assert set(found.status.values()) == {"ok"}
    np.testing.assert_array_equal(found.cka().value.diagonal(), 1.0)


def test_defect_gradients_kept_while_features_are_read(vit, images, monkeypatch):
    """torch_cka compares outside `no_grad`: the graphs of whole passes stay in memory."""
    seen = []
    read = CKAState.read
    monkeypatch.setattr(
        CKAState,
        "read",
        lambda self, reading: (seen.append(reading.activations.requires_grad), read(self, reading)),
    )
    vit.module.requires_grad_(True)
    scan(vit, images, [CKA("blocks.*", gram=12)])
    assert seen
    assert not any(seen)
    assert all(weight.requires_grad and weight.grad is None for weight in vit.module.parameters())


def test_defect_rollout_normalised_on_the_wrong_axis():
    """vit-explain divides columns by the sums of rows, which shows once weights are discarded, and takes the
    first image for all."""
    draw = torch.Generator().manual_seed(0)
    layers = [torch.rand(2, 5, 5, generator=draw, dtype=torch.float64).softmax(-1) for _ in range(3)]
    kept = [layer * (layer > layer.median()) for layer in layers]  # rows with sums of their own
    found = rolled(kept)
    for image in range(2):
        expected = torch.eye(5, dtype=torch.float64)
        for layer in kept:
            step = torch.stack(
                [(row + own) / (row + own).sum() for row, own in zip(layer[image], torch.eye(5), strict=True)]
            )
            expected = step @ expected
        assert torch.allclose(found[-1, image], expected, atol=1e-14)
    assert torch.allclose(found.sum(-1), torch.ones(4, 2, 5, dtype=torch.float64))
    assert not torch.allclose(found[-1, 0], found[-1, 1])
