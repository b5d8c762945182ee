"""Numbered lists of modules, read off paths: which are lists of blocks, and what stands beside them."""

import pytest
import torch
from torch import nn

from vitscope.models.claims import Plan
from vitscope.models.listed import (
    around,
    beside_blocks,
    is_item,
    is_of_parts,
    item,
    item_around,
    list_of,
    pattern,
    runs,
)
from vitscope.trace import trace

PATHS = {
    "stages.1.blocks.0": ("stages.1.blocks.0", "stages.1.blocks", "stages.#.blocks.#"),
    "stages.1.blocks.0.mlp.fc1": ("stages.1.blocks.0", "stages.1.blocks", "stages.#.blocks.#.mlp.fc#"),
    "layer1.0": ("layer1.0", "layer1", "layer#.#"),
    "3": ("3", "", "#"),
    "s1.b1": ("", "", "s#.b#"),
    "stem": ("", "", "stem"),
    "": ("", "", ""),
}


@pytest.mark.parametrize("path", PATHS)
def test_items_lists_and_levels_of_paths(path):
    assert (item(path), list_of(path), pattern(path)) == PATHS[path]
    assert is_item(path) == (item(path) == path != "")


def tree(*classes):
    """Lists of lists of modules that keep their input."""
    return nn.Sequential(*(nn.Sequential(*(kind() for kind in kinds)) for kinds in classes))


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.weight


class Other(One):
    pass


def plan_of(module):
    sample = torch.rand(2, 3, 4, 4)
    return Plan(module, sample, trace(module, sample))


def test_a_list_that_repeats_no_class_anywhere_is_one_of_parts():
    assert is_of_parts(plan_of(tree([One, Other], [One, Other])), "0")
    assert not is_of_parts(plan_of(tree([One, Other], [One, Other, Other])), "0")


def test_one_module_with_weights_is_no_list_of_parts():
    assert not is_of_parts(plan_of(tree([One], [One])), "0")
    assert not is_of_parts(plan_of(tree([One, nn.Identity], [One, nn.ReLU])), "0")


def test_the_calls_around_a_call():
    calls = {call.path: call for call in plan_of(nn.Sequential(nn.ModuleDict({"a": One()})["a"])).trace.calls}
    assert [call.path for call in around(calls["0"])] == [""]
    assert item_around(calls["0"]) is None
    inner = {call.path: call for call in plan_of(tree([One], [Other])).trace.calls}
    assert item_around(inner["1.0"]) is inner["1"]


BLOCKS = ["stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1"]
BESIDE = {
    "fewer stages have them": (["stages.1.down.0", "stages.1.down.3"], True),
    "in parts of their own": (["stages.1.down.first.1"], True),
    "fewer of them": (["stages.0.down.0", "stages.1.down.0"], True),
    "at another level": (["stem.0", "stages.1.blocks.1.parts.0"], False),
    "more of them": ([f"stages.{s}.other.{b}" for s in range(3) for b in range(2)], False),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_blocks_of_a_stage(name):
    paths, beside = BESIDE[name]
    found = beside_blocks([*BLOCKS, *paths])
    assert (set(paths) <= found) == beside
    assert bool(found & set(BLOCKS)) == (name == "more of them")


def test_runs_of_numbers():
    assert runs([3, 0, 1, 2, 7, 7]) == ["0-3", "7"]
    assert runs([]) == []
