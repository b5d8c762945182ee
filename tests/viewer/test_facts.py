"""Columns over all units of a site, against the rows they come from."""

from collections import Counter

import numpy as np
import pytest

from vitscope.atlas.leaf import DreamRow, UnitRow, table_bytes, unit_table
from vitscope.atlas.store import Store
from vitscope.viewer.facts import Facts, commonest, trust_of, unit_facts
from vitscope.viewer.shelf import Volume


@pytest.fixture(scope="module")
def volume(atlas):
    return Volume("tiny", atlas)


def test_units_of_all_leaves_stand_one_after_another(volume, atlas):
    facts = volume.facts.units(volume.site("blocks.0.ffn"))
    assert facts.statuses == {"ok": 298, "dead": 1, "nan": 1}
    assert facts.status[1] == "dead"
    assert facts.numbers["peak"].tolist() == [3.5] * 300
    assert np.flatnonzero(facts.dreams).tolist() == [0]
    assert facts.median("peak") == 3.5
    assert facts.shown == 0
    assert facts.median("trust") is None


def test_leaves_that_cannot_be_read_say_so_in_their_units(make_atlas):
    half = make_atlas(without=("logits/0000.ok",))
    facts = Facts(Store.open(half.path))
    volume = Volume("own", half)
    waiting = facts.units(volume.site("logits"))
    assert waiting.statuses == {"not built yet": 10}
    assert waiting.damaged == 0
    assert waiting.first is waiting.shown is None
    (half.path / "sites/blocks.00.ffn/0001.units.parquet").write_bytes(b"short")
    hurt = facts.units(volume.site("blocks.0.ffn"))
    assert hurt.statuses == {"ok": 254, "dead": 1, "nan": 1, "damaged": 44}
    assert hurt.damaged == 1
    assert hurt.first == hurt.shown == 0
    assert len(facts.exemplars(volume.site("logits")).unit) == 0


def test_a_site_is_shown_by_a_unit_that_can_be_read(make_atlas):
    hurt = make_atlas()
    (hurt.path / "sites/blocks.00.ffn/0000.units.parquet").write_bytes(b"short")
    facts = Volume("own", hurt).facts.units(hurt.sites[0])
    assert facts.first == facts.shown == 256


def test_exemplars_are_those_of_each_unit(volume, atlas):
    facts = volume.facts.exemplars(volume.site("blocks.0.ffn"))
    for unit in (0, 1, 2, 7, 8, 257, 299):
        ours = sorted(
            (bool(by), int(rank), image.decode(), float(value))
            for at, by, rank, image, value in zip(
                facts.unit, facts.by_maximum, facts.rank, facts.image, facts.value, strict=True
            )
            if at == unit
        )
        found = atlas[f"blocks.0.ffn:{unit}"]
        rows = [(True, e) for e in found.exemplars] + [(False, e) for e in found.by_mean]
        assert ours == sorted((by, e.rank, e.image, e.value) for by, e in rows)


def test_the_commonest_class_and_its_share(volume, atlas):
    entry = volume.site("blocks.0.ffn")
    facts = volume.facts.exemplars(entry)
    top, share = commonest(facts, entry.units)
    for unit in range(0, 300, 7):
        counted = Counter(e.label for e in atlas[f"blocks.0.ffn:{unit}"].exemplars)
        if not counted:
            assert top[unit] == -1
            assert np.isnan(share[unit])
        else:
            name, count = counted.most_common(1)[0]
            assert facts.classes[top[unit]] == name
            assert share[unit] == count / counted.total()


def row(*trusts, status="ok", mean=1.0, variance=3.0):
    dreams = tuple(DreamRow("r", 0, 1.0, 1.0, trust, status, 0, 1, "") for trust in trusts)
    return UnitRow(0, "ok", 1, mean, variance, 0.0, 2.0, 0.0, 0, 0, (), (), dreams)


def test_sparsity_is_one_less_the_share_of_the_squared_mean():
    table = unit_table(
        table_bytes([row(), row(mean=0.0, variance=0.0), row(mean=None, variance=None)], of=UnitRow)
    )
    assert unit_facts(table).numbers["sparsity"].tolist() == pytest.approx(
        [0.75, np.nan, np.nan], nan_ok=True
    )


@pytest.mark.parametrize(
    ("trust", "expected"),
    [
        ('{"robust": 3.0, "natural_robust": 1.5, "natural_ratio": 9.0}', 2.0),
        ('{"robust": 3.0, "natural_robust": -1.5, "natural_ratio": 9.0}', 9.0),
        ('{"robust": 3.0}', np.nan),
        ("{}", np.nan),
    ],
)
def test_trust_is_the_dream_over_the_best_image(trust, expected):
    assert trust_of({"trust": trust}) == pytest.approx(expected, nan_ok=True)


def test_the_best_of_several_dreams_counts():
    found = [row("{}", '{"natural_ratio": 2.0}', '{"natural_ratio": 3.0}'), row("{}")]
    facts = unit_facts(unit_table(table_bytes(found, of=UnitRow)))
    assert facts.numbers["trust"].tolist() == pytest.approx([3.0, np.nan], nan_ok=True)
    assert facts.dreams.tolist() == [3, 1]


def test_a_unit_is_weak_where_none_of_its_dreams_is_ok():
    rows = [row("{}", status="weak"), row("{}"), row()]
    facts = unit_facts(unit_table(table_bytes(rows, of=UnitRow)))
    assert facts.weak.tolist() == [True, False, False]
    assert facts.dreams.tolist() == [1, 1, 0]
