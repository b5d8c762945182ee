"""What Nguyen et al. 2022 report of clusters of patches, read off the plots in the authors' notebook."""

from __future__ import annotations

from vitscope.studies.result import Row

SOURCE = (
    "Nguyen et al. 2022, authors' notebook of cluster metrics, read off its plots "
    "(https://github.com/byM1902/ViT_visualization): 361 images of PASCAL VOC 2009, masks of instances"
)
MODEL = "ViT-B/16 (ImageNet-21k, then 1k)"
CURVES = {
    "silhouette": (0.045, 0.094, 0.121, 0.114, 0.111, 0.127, 0.146, 0.18, 0.21, 0.24, 0.255, 0.265),
    "purity": (0.558, 0.573, 0.608, 0.614, 0.624, 0.636, 0.644, 0.657, 0.666, 0.672, 0.665, 0.670),
    "in_cluster_cosine": (0.31, 0.37, 0.39, 0.39, 0.39, 0.40, 0.42, 0.465, 0.51, 0.58, 0.68, 0.795),
    "in_object_cosine": (0.30, 0.33, 0.335, 0.34, 0.355, 0.36, 0.38, 0.41, 0.455, 0.52, 0.63, 0.75),
    "unique_labels": (0.708, 0.77, 0.816, 0.811, 0.798, 0.789, 0.803, 0.812, 0.822, 0.828, 0.825, 0.839),
}
"""Of whole images, block after block."""
ENDS = {
    2: {
        "silhouette": (0.045, 0.232),
        "purity": (0.540, 0.632),
        "in_cluster_cosine": (0.30, 0.76),
        "in_object_cosine": (0.29, 0.725),
        "unique_labels": (0.694, 0.804),
    },
    8: {
        "silhouette": (0.004, 0.087),
        "purity": (0.591, 0.616),
        "in_cluster_cosine": (0.21, 0.65),
        "in_object_cosine": (0.23, 0.615),
    },
}
"""Of shuffled images, by the grid: the first and the last block."""
PUBLISHED: tuple[Row, ...] = (
    *(
        {
            "model": MODEL,
            "grid": 1,
            "site": f"blocks.{block}",
            **{measure: values[block] for measure, values in CURVES.items()},
            "source": SOURCE,
        }
        for block in range(12)
    ),
    *(
        {
            "model": MODEL,
            "grid": grid,
            "site": f"blocks.{11 * end}",
            **{measure: values[end] for measure, values in ends.items()},
            "source": SOURCE,
        }
        for grid, ends in ENDS.items()
        for end in (0, 1)
    ),
)
