"""What nearest class means make of a model's blocks: a reading that needs neither head nor training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from vitscope.data.source import ImageSource
from vitscope.meters.nearest_mean import NearestMean
from vitscope.meters.probe_sums import Evidence, ProbeSums
from vitscope.meters.readout_accuracy import ReadoutAccuracy, ReadoutShares
from vitscope.meters.readouts import Readout
from vitscope.models.vision_model import Site
from vitscope.parts import Scanned
from vitscope.studies.probed import probes_of
from vitscope.studies.scanner import Scanner

NOBODY = -2
"""The label of no image: it stands for a class whose images have nobody to be compared with."""


def class_means(
    scanned: Scanner, source: ImageSource, sites: Sequence[Site]
) -> tuple[Mapping[Readout, ReadoutShares], Scanned]:
    """How often the nearest class mean is an image's own class, of every reading of sites with places.

    The images are seen twice: to make the means, and to be compared with them. None is compared with a mean
    that it helped to make, so images that are alone in their class do not count. Nothing where all are.

    Args:
        scanned: scans of the model.
        source: labelled images.
        sites: what is read.
    """
    labels = tuple(range(len(source.classes or ())))
    readouts = probes_of(sites, 0)
    learnt = scanned("class means", source, [ProbeSums(readouts, labels)])
    evidence: Mapping[Readout, Evidence] = learnt["probe_sums"]
    count = Counter(image.label for image in learnt.images)
    asked = tuple(label if count[label] > 1 else NOBODY for label in labels)
    if not any(label >= 0 for label in asked):
        return {}, learnt
    judges = {readout: NearestMean(own.sums).right for readout, own in evidence.items()}
    tested = scanned("nearest mean", source, [ReadoutAccuracy(judges, asked)])
    return tested["readout_accuracy"], tested
