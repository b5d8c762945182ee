"""Classifiers of readouts against a plain count, merged, written and read."""

import numpy as np
import torch

from vitscope.data.source import ImageBatch
from vitscope.meters.reading import Reading
from vitscope.meters.readout_accuracy import ReadoutAccuracy
from vitscope.meters.readouts import Readout
from vitscope.models.vision_model import TOKENS, Site, Sites

SITE = Site("blocks.0", "a", TOKENS, 3, grid=(1, 1), prefix_tokens=1)
CLS, PATCH = (Readout("blocks.0", tokens, (1, 1)) for tokens in ("cls", "patches"))


def judge(vectors, columns):
    """The largest unit, and the smallest."""
    return np.stack([vectors.argmax(1) == columns, vectors.argmin(1) == columns])


METER = ReadoutAccuracy({CLS: judge, PATCH: lambda vectors, columns: judge(vectors, columns)[:1]}, (4, 5, 6))


def fed(values, labels):
    state, names = METER.start([SITE]), tuple(map(str, range(len(values))))
    state.read(Reading(SITE, values, ImageBatch(names, names, torch.zeros(len(values), 3, 1, 1), labels)))
    return state


def test_shares_are_a_plain_count():
    values, labels = torch.randn(40, 2, 3), torch.randint(3, 7, (40,))
    values[3, 0, 1], labels[3] = torch.nan, 5
    parts = [fed(values[:9], labels[:9]), fed(values[9:], labels[9:])]
    merged = parts[1].merge(METER.start([SITE])).merge(parts[0])
    read = METER.load([SITE], merged.arrays())
    counted = [image for image in range(40) if labels[image] > 3]
    for state in (fed(values, labels), merged, read):
        found = state.result()
        finite = [image for image in counted if image != 3]
        for variant, extreme in enumerate((torch.argmax, torch.argmin)):
            right = sum(int(extreme(values[image, 0])) == int(labels[image]) - 4 for image in finite)
            assert found[CLS].share(variant).right == right
        assert found[CLS].images == found[PATCH].share().images == len(counted)
        right = sum(int(values[image, 1].argmax()) == int(labels[image]) - 4 for image in counted)
        assert found[PATCH].right.tolist() == [right]
    assert METER.sites(Sites([SITE])) == [SITE]
