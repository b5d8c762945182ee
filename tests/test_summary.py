"""The lines of a summary, off rows written by hand: which row is taken, ranges, and what is not there."""

import math

import pytest

from vitscope.provenance import Provenance
from vitscope.studies.result import Result
from vitscope.summary import Reading, facts

MADE = Provenance(kind="study", model="a, b", weights="1, 2", preprocessing={})


def result_of(study, rows):
    return Result(study, ("a", "b"), tuple(rows), {}, (), MADE)


def only(study, rows):
    """Readings of the first model, by quantity."""
    found = facts({study: result_of(study, rows)})
    assert {fact.study for fact in found} <= {study}
    return {fact.quantity: fact.readings.get("a") for fact in found}


def test_a_probe_is_that_of_the_mean_over_places_whatever_was_best():
    rows = [
        {"model": "a", "reading": reading, "depth": depth, "top1": top1, "top1_low": 1.0, "top1_high": 99.0}
        for depth, top1 in ((0.25, 10.0), (0.5, 20.0), (0.75, 70.0), (1.0, 60.0))
        for reading in ("cls", "patches")
    ]
    rows = [{**row, "top1": row["top1"] + (5 if row["reading"] == "cls" else 0)} for row in rows]
    found = only("probe", rows)
    middle, last = found.values()
    assert ["middle" in name for name in found] == [True, False]
    assert (middle, last) == ((20.0, 1.0, 99.0), (60.0, 1.0, 99.0))


@pytest.mark.parametrize("missing", [math.nan, None])
def test_cka_of_one_batch_has_no_range(missing):
    row = {"model": "a", "reading": "quarters", "cka": 0.5, "cka_error": missing}
    (reading,) = only("similarity", [row]).values()
    assert reading == (0.5, None, None)
    assert reading.text == "0.5"
    (reading,) = only("similarity", [{**row, "cka_error": 0.1}]).values()
    assert reading == pytest.approx((0.5, 0.3, 0.7))
    assert reading.text == "0.5 (0.3 to 0.7)"


@pytest.mark.parametrize("nothing", [math.nan, math.inf, None])
def test_branches_that_add_nothing_do_not_count(nothing):
    ratios = {"blocks.0": nothing, "blocks.1": 2.0, "blocks.2": 3.0, "blocks.3": 5.0}
    rows = [
        {"model": "a", "block": block, "tokens": tokens, "median_ratio": ratio}
        for block, ratio in ratios.items()
        for tokens in ("cls", "patches")
    ]
    first, second = only("skips", rows).values()
    assert (first, second) == ((2.0, 2.0, 2.0), (4.0, 3.0, 5.0))


def test_blocks_are_taken_and_not_what_lies_between():
    sites = ("embed", "blocks.0.mid", "blocks.0", "blocks.1.mid", "blocks.1")
    rows = [{"model": "a", "site": site, "radius90": 10.0 * place} for place, site in enumerate(sites)]
    first, last = only("receptive_field", rows).values()
    assert (first.value, last.value) == (20.0, 40.0)


def test_a_line_that_no_model_has_is_left_out_and_one_that_a_single_model_has_is_not():
    rows = [{"model": "a", "top1": math.nan, "parameters": 1234567}, {"model": "b", "blocks": 3}]
    found = facts({"overview": result_of("overview", rows)})
    assert [fact.describe()["values"] for fact in found] == [{"a": 1234567}, {"b": 3}]
    assert found[0].readings["a"].text == "1,234,567"
    assert Reading(None).text == "–"
