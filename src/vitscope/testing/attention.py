"""The laws of attention: patterns are shares, of the values, as the model computes them from q and k."""

from __future__ import annotations

import re

from vitscope.models.vision_model import Site, VisionModel
from vitscope.testing.selection import patterns_of
from vitscope.testing.witness import CLOSE, EXACT, error, unexplained, witness
from vitscope.testing.witness_attention import (
    count_of,
    eager_maps,
    keys_of,
    matches,
    mixed,
    other_terms,
    scores_of,
    weights_of,
)


class AttentionLaws:
    """What patterns are. A part of `AdapterContract`."""

    def test_attention_weights_give_the_context(self, model: VisionModel) -> None:
        """Rows of a pattern are shares: they sum to one, and of the values they make the context vectors.

        Batch norm between projection and attention is let through: rows that sum to one do not change it.
        """
        seen = witness(model)
        for site in patterns_of(model):
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
        patterns = patterns_of(model)
        maps = eager_maps(model, witness(model).pixels) if patterns else []
        for site in patterns:
            windows = keys_of(site).table is not None
            apart = matches(weights_of(witness(model), site), maps, windows=windows)
            assert apart < EXACT, f"{site.name} is {apart:.1e} from the nearest map"

    def test_queries_and_keys_give_the_pattern(self, model: VisionModel) -> None:
        """The softmax of their products is the pattern, unless norms, rotations or biases come in between."""
        seen = witness(model)
        for site in patterns_of(model):
            name = site.name.removesuffix(".pattern")
            if {f"{name}.q", f"{name}.k"} <= seen.found.keys() and _as_projected(model, site, name):
                scores = scores_of(
                    seen[f"{name}.q"], seen[f"{name}.k"], weights_of(seen, site), keys_of(site)
                )
                plain = error(scores.softmax(-1), weights_of(seen, site)) < CLOSE
                assert plain or other_terms(model.module), f"{name}.q and .k do not give {site.name}"


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
