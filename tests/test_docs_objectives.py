"""docs/objectives.md: every Python line runs, and its command line asks for the same."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitscope
import vitscope.dream as package
from vitscope import cli
from vitscope.dream import recipe_named
from vitscope.dream.formula import _FUNCTIONS
from vitscope.dream.objectives import Objective
from vitscope.dream.plan import Plan
from vitscope.lean import AS_WRITTEN

PAGE = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text()
PAIRS = re.findall(r"^```python\n([^`]*)^```\n```sh\n([^`]*)^```$", PAGE, re.MULTILINE)
SETUP = re.search(r"^```python\n([^`]*)^```\n\n", PAGE, re.MULTILINE)[1]
DREAM = package.dream


class Asked(Exception):
    """What the command line was about to do."""


def quick(seen, model, what, *, recipe="vitscope", **options):
    """Dreams of two steps, written down."""
    seen.append((said(what), recipe))
    short = recipe_named(recipe)
    short = short.replace(steps=2, copies=min(2, short.copies))
    return DREAM(model, what, recipe=short, plan=Plan(AS_WRITTEN, 8, 4, 1.0), **options)


def said(what):
    """The objectives of a call, as values."""
    each = what if isinstance(what, list) else [what]
    return [one if isinstance(one, Objective) else vitscope.unit(one) for one in each]


@pytest.fixture(scope="module")
def names():
    """What the first block of the page defines."""
    found = {}
    exec(SETUP, found)
    return found


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files that the page speaks of, in the folder it is read in."""
    Image.effect_noise((80, 70), 60).convert("RGB").save(tmp_path / "dog.jpg")
    np.save(tmp_path / "probe.npy", np.linspace(-1, 1, 192))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("python", "command"), PAIRS, ids=[command.split("vit_mini ")[1].strip() for _, command in PAIRS]
)
def test_both_lines_ask_for_the_same(python, command, names, files, monkeypatch):
    in_python, in_shell = [], []
    monkeypatch.setattr(vitscope, "dream", lambda *a, **k: quick(in_python, *a, **k), raising=False)
    exec(python, dict(names))
    monkeypatch.setattr("vitscope.models.load", lambda *_, **__: names["model"])
    monkeypatch.setattr(package, "dream", lambda _, what, **k: asked(in_shell, what, k["recipe"]))
    with pytest.raises(Asked):
        cli._run(shlex.split(command)[1:])
    assert in_python == in_shell


def asked(seen, what, recipe):
    seen.append((said(what), recipe))
    raise Asked


def test_the_page_is_whole():
    assert len(PAIRS) >= 18
    assert PAGE.count("```python") == len(PAIRS) + 1
    commands = "".join(command for _, command in PAIRS)
    for name in _FUNCTIONS:
        assert f"{name}(" in commands, f"no command line shows {name}"
    for option in (
        "--from",
        "--near",
        "--strength",
        "--canvases",
        "--diversity",
        "--differ-at",
        "--transparency",
    ):
        assert option in commands
    verbs = {name for name in package.__all__ if name[0].islower()} - {"dream", "recipe_named"}
    for name in verbs:
        assert f"vs.{name}(" in PAGE, f"no Python line shows {name}"
