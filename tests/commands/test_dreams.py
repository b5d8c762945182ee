"""`vitscope dream`: every option and what it makes, and combinations that mean nothing."""

import inspect
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import vitscope
from vitscope import cli
from vitscope.commands import console, dreams
from vitscope.dream import RECIPES
from vitscope.dream.recipes import GHIASI_2022, VITSCOPE

UNIT = "blocks.1.ffn:3"
WHAT = ["vitscope:vit_mini", "--weights", "random", "--recipe", "quick"]


@pytest.fixture(scope="module")
def model():
    return vitscope.load("vitscope:vit_mini", weights="random")


@pytest.fixture(autouse=True)
def quick(monkeypatch, model):
    """A recipe of two steps, one model for all, and streams that are this test's own."""
    monkeypatch.setattr("vitscope.models.load", lambda *_, **__: model)
    RECIPES.names()
    monkeypatch.setitem(RECIPES._table, "quick", GHIASI_2022.replace(name="quick", steps=2, copies=2))
    monkeypatch.setattr(console, "out", Console(width=200, markup=False, highlight=False))
    monkeypatch.setattr(console, "err", Console(stderr=True, width=200, markup=False, highlight=False))


@pytest.fixture
def dog(tmp_path) -> Path:
    path = tmp_path / "dog.png"
    Image.effect_noise((70, 64), 60).convert("RGB").save(path)
    return path


@pytest.fixture
def run(capsys, tmp_path):
    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli._run(["dream", *WHAT, "-o", str(tmp_path / "out"), "--json", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def rows(run, *arguments: object) -> list[dict]:
    code, out, err = run(*arguments)
    assert code == 0, err
    return json.loads(out)


def test_a_negative_unit_is_no_option(run):
    (row,) = rows(run, f"-{UNIT}")
    assert row["address"] == f"-1.0*unit({UNIT})"
    assert vitscope.explain(row["path"]).settings["address"] == row["address"]


def test_shielding_leaves_options_and_addresses_alone():
    options = ["-o", "out", "--json", "--seed", "-3", "-h", "--", UNIT, "-o./x:1.png", "-"]
    assert dreams.shielded(options) == options
    formulas = [f"-{UNIT}", "-2*logits:3", "-0.5 * head(blocks.5, 2)", "-1e-05*a:1", "-head(blocks.1, 0)"]
    assert dreams.shielded(formulas) == [f" {formula}" for formula in formulas]


def test_formulas_beside_addresses_each_with_a_file(run):
    asked = [UNIT, f"{UNIT} + {UNIT}", f"{UNIT} - {UNIT}", "head(blocks.1, 2)"]
    found = rows(run, *asked)
    assert [row["address"] for row in found] == [
        UNIT,
        f"1.0*unit({UNIT}) + 1.0*unit({UNIT})",
        f"1.0*unit({UNIT}) - 1.0*unit({UNIT})",
        "head(blocks.1, 2)",
    ]
    names = [Path(row["path"]).name for row in found]
    assert names[0] == "blocks.1.ffn_3.quick.0.png"
    assert names[3].startswith("head_blocks.1_2.")
    assert names[2].startswith("1.0_unit_blocks.1.ffn_3_minus_1.0_unit_blocks.1.ffn_3.")
    assert len(set(names)) == len(asked), "two formulas share a file"
    assert all(Path(row["path"]).is_file() for row in found)


def test_several_canvases_give_several_dreams(run):
    found = rows(run, UNIT, "logits:3", "--canvases", 2, "--diversity", 0.5, "--differ-at", "blocks.0.ffn")
    text = f"1.0*unit({UNIT}) - 0.5*similarity(blocks.0.ffn, 2 canvases)"
    assert [row["address"] for row in found[:2]] == [f"{text} #1", f"{text} #2"]
    assert len({row["path"] for row in found}) == 4
    assert all("_canvas_" in row["path"] for row in found)


def test_of_several_seeds_one_dream_is_saved_and_the_spread_told(run):
    code, out, _ = run(UNIT, "--seeds", "2")
    (row,) = json.loads(out)
    assert (code, row["trust"]["seeds"], row["seed"] in (0, 1)) == (0, 2, True)
    assert "spread" in row["trust"]
    assert Path(row["path"]).exists()


def test_from_an_image_and_near_it(run, dog):
    (started,) = rows(run, UNIT, "--from", dog)
    assert started["address"].startswith(f"unit({UNIT}) starting from image #")
    (near,) = rows(run, UNIT, "--from", dog, "--near", "embed")
    assert near["address"].startswith(f"1.0*unit({UNIT}) - 5.0*distance(embed, image #")
    assert started["path"] != near["path"]
    (loose,) = rows(run, UNIT, "--from", dog, "--near", "embed", "--strength", 0.25)
    assert "- 0.25*distance(" in loose["address"]


def test_transparency_is_saved(run, tmp_path):
    (row,) = rows(run, UNIT, "--transparency")
    with Image.open(row["path"]) as picture:
        assert picture.mode == "RGBA"
        low, high = picture.getextrema()[3]
    assert low < high == 255


def test_a_dream_without_transparency_is_saved_opaque_aloud(capsys, tmp_path):
    saved = []

    class Lost:
        address, transparency = UNIT, None

        def save(self, path, *, alpha="opaque"):
            saved.append(alpha)
            return path

    assert dreams._saved(Lost(), tmp_path / "a.png", True) == tmp_path / "a.png"
    assert saved == ["opaque"]
    assert f"the dream of {UNIT} has no transparency: it is saved opaque" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "asked", "missing"),
    [
        (("--near", "embed"), "--near SITE", "--from IMAGE, the image to stay near"),
        (("--strength", 2), "--strength", "--near SITE"),
        (("--diversity", 2), "--diversity", "--canvases N"),
        (("--differ-at", "blocks.0"), "--differ-at SITE", "--canvases N"),
    ],
)
def test_options_that_mean_nothing_alone(run, options, asked, missing, monkeypatch, tmp_path):
    monkeypatch.setattr("vitscope.models.load", lambda *_, **__: pytest.fail("the model was loaded first"))
    code, out, err = run(UNIT, *options)
    assert (code, out) == (2, "")
    assert f"{asked} means nothing without {missing}" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("heads(blocks.1, 2)",), "no function 'heads'. Nearest: 'head'"),
        (("head(blocks.1, 7)",), "no head 7 at blocks.1.attn.heads: it has 3 heads"),
        (("caricature(blocks.1, cat.png)",), "no such file: cat.png"),
        (("logit(3)", "--canvases", 2), "say where canvases of logit(3) are to differ"),
        ((UNIT, "--canvases", 1), "--canvases"),
        ((UNIT, "--from", "cat.png", "--near", "embed", "--strength", -1), "--strength"),
        ((UNIT, "--from", "cat.png"), "no such file: cat.png"),
        ((UNIT, "--canvases", 2, "-o", "one.png"), "2 dreams do not fit into one file"),
    ],
)
def test_mistakes_are_named(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_recipe_that_cannot_start_from_an_image_says_which_can(run, dog, monkeypatch):
    recipe = RECIPES.get("fel_2023").replace(name="quick", steps=1, copies=1)
    monkeypatch.setitem(RECIPES._table, "quick", recipe)
    code, _, err = run(UNIT, "--from", dog)
    assert code == 2
    assert "recipe quick cannot start from image #" in err
    assert "such as ghiasi_2022 and olah_2017" in err


@pytest.mark.parametrize(
    ("option", "function", "parameter"),
    [
        ("strength", vitscope.accentuated, "strength"),
        ("diversity", vitscope.diverse, "weight"),
    ],
)
def test_help_names_the_librarys_defaults(option, function, parameter):
    """Where an option is not given the library's default holds, whatever it is; the help has to say it."""
    default = inspect.signature(function).parameters[parameter].default
    given = inspect.signature(dreams.dream, eval_str=True).parameters[option]
    assert given.default is None
    (told,) = (fact.help for fact in given.annotation.__metadata__ if hasattr(fact, "help"))
    assert told.endswith(f"; {default:g} if not given.")


def test_an_absent_option_is_not_passed_on(dog):
    assert dreams._started(UNIT, dog, "embed", None) == vitscope.accentuated(UNIT, dog, near="embed")
    ours, theirs = dreams._apart(vitscope.unit(UNIT), 4, None, None), vitscope.diverse(vitscope.unit(UNIT))
    assert ours == theirs


def test_the_recipe_for_atlases_is_the_default():
    assert inspect.signature(dreams.dream).parameters["recipe"].default == VITSCOPE.name
