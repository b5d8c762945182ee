"""Recipes: frozen values that describe themselves."""

import json
from dataclasses import FrozenInstanceError

import pytest

from vitscope.dream import recipes
from vitscope.dream.augment import ColourShift, Jitter
from vitscope.dream.canvases import PixelCanvas
from vitscope.dream.penalties import TotalVariation
from vitscope.dream.recipe import Recipe
from vitscope.errors import BadValue


def test_a_recipe_is_a_frozen_value():
    recipe = recipes.GHIASI_2022
    with pytest.raises(FrozenInstanceError):
        recipe.steps = 3  # type: ignore[misc]
    assert recipe.replace(steps=3).steps == 3
    assert recipe.steps == 400
    with pytest.raises(BadValue, match=r"a recipe has no setting 'step'. Nearest: 'steps'"):
        recipe.replace(step=3)
    for name in ("steps", "copies", "learning_rate"):
        with pytest.raises(BadValue, match=f"{name} of recipe ghiasi_2022 must be above 0, not 0"):
            recipe.replace(**{name: 0 if name != "learning_rate" else 0.0})


def test_a_recipe_describes_itself_in_json():
    recipe = Recipe(
        "mine", "A title", 2026, "nobody", PixelCanvas(), 3, 2, 0.5, (0.5, 0.9),
        augmentations=(ColourShift(), Jitter(4)), penalties=(TotalVariation(0.1),),
    )  # fmt: skip
    facts = json.loads(json.dumps(recipe.describe(), allow_nan=False))
    assert facts["canvas"] == {"kind": "PixelCanvas", "bounds": [0.0, 1.0]}
    assert facts["augmentations"][1] == {"kind": "Jitter", "limit": 4, "shared": True}
    assert facts["penalties"] == [{"kind": "TotalVariation", "weight": 0.1}]
    assert facts["betas"] == [0.5, 0.9]
