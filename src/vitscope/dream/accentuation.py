"""Accentuation: a natural image, changed so that it excites a unit more, and otherwise kept as it was."""

from __future__ import annotations

from vitscope.address import Address
from vitscope.dream.likeness import distance
from vitscope.dream.objectives import Objective, unit
from vitscope.dream.pictures import ImageLike, picture
from vitscope.errors import BadValue

STRENGTH = 5.0
"""What it costs to be one norm away from the image. Ours, from one photograph and one unit of a ViT-Ti that
reaches 2.9 without it: at 1 little was left of the photograph, at 5 both were seen, at 20 the unit stayed at
0.1.
"""


def accentuated(
    what: str | Address | Objective,
    image: ImageLike,
    *,
    near: str | Address,
    strength: float | int = STRENGTH,
) -> Objective:
    """An objective that is climbed from a natural image, and stays near it at an early site (Hamblin et al.
    2024, "Feature accentuation", arXiv:2402.10039).

    From the paper and its code, faccent: the ascent starts from the image; what is subtracted is the distance
    between the activations of both at an early site, under the same augmentations. Ours: the distance is
    relative to the norm of the image's activations, over all places at once, and its weight is fixed rather
    than balanced by the gradients at the start.

    Args:
        what: what to excite: an address with a unit, or an objective.
        image: a file, a Pillow image or pixels "rgb row column" in [0, 1].
        near: the site where the image should stay as it was: an early block, such as "blocks.1".
        strength: what it costs, in units of the objective, to be as far from the image as nothing at all;
            what suits depends on how large the objective gets.

    Raises:
        BadAddress: an address does not follow the grammar, names no unit, or too much.
        MissingPath, BadValue: there is no such image, or the strength is negative.

    >>> accentuated("blocks.5.ffn:40", "dog.jpg", near="embed")
    1.0*unit(blocks.5.ffn:40) - 5.0*distance(embed, image #3f8a11c2, relative) starting from image #3f8a11c2
    """
    if not strength >= 0:
        raise BadValue(f"strength must be at least 0, not {strength}")
    objective = what if isinstance(what, Objective) else unit(what)
    shown = picture(image)
    stays = strength * distance(near, shown, relative=True)
    return (objective - stays if strength else objective).starting_from(shown)
