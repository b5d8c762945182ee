"""The full settings of three papers, as frozen values. Every number names its source.

"Code" is that of the authors: github.com/hamidkazemi22/vit-visualization, tensorflow/lucid, deel-ai/xplique.
"""

from __future__ import annotations

from vitscope.dream.augment import Affine, ChannelNoise, ColourShift, Crops, Jitter, PixelNoise
from vitscope.dream.canvases import FourierCanvas, MacoCanvas, PixelCanvas
from vitscope.dream.penalties import TotalVariation
from vitscope.dream.recipe import Recipe

GHIASI_2022 = Recipe(
    name="ghiasi_2022",
    title="What do Vision Transformers Learn? A Visual Exploration",
    year=2022,
    citation="Ghiasi, Kazemi et al. 2022, arXiv:2212.06727",
    canvas=PixelCanvas(),  # uniform noise, hard clamp: code `inversion/`
    steps=400,  # code `vis35.py`; its 401st update has learning rate 0 and changes nothing, so it is left out
    copies=8,  # code: "augmentation ensembling"
    optimiser="adam",  # code
    learning_rate=0.1,  # code `vis35.py` for ViT; `vis98.py` has 1.0 for CLIP
    betas=(0.5, 0.99),  # code
    epsilon=1e-8,  # code
    schedule="cosine",  # code: annealed to 0 over the 400 steps
    augmentations=(
        ColourShift(
            offset=1.0, spread=1.0, form="code"
        ),  # code `augmentation/pre.py`; the paper has sigma * x + mu
        ChannelNoise(
            std=0.5
        ),  # code `pre.py`: one number per copy and channel; the paper adds N(0, 1) per pixel
        Jitter(limit=32, shared=True),  # code `pre.py`: one roll for all copies, applied last
    ),
    # Code: 0.0005 v with v = 0.1 for ViT-B/32 (1.0 was shipped too). Their activation term averages a B x B
    # diagonal matrix, which weighs it by 1/B once too often; with B = 8 copies and a plain mean, the same
    # balance is 8 * 0.0005 v = 0.004 v.
    penalties=(TotalVariation(weight=0.004 * 0.1),),
)
"""Activation maximisation on pixels, as the authors' code does it. Made for FFN units; q, k and v stay
noisy.
"""

GHIASI_2022_PAPER = GHIASI_2022.replace(
    name="ghiasi_2022:paper",
    augmentations=(
        ColourShift(offset=1.0, spread=1.0, form="paper"),  # paper, section 3: CS(x) = sigma x + mu
        PixelNoise(std=1.0),  # paper, section 3: GS(x) = x + eps, eps ~ N(0, 1) per pixel
        Jitter(limit=32, shared=True),  # the paper gives no number; as in the code
    ),
)
"""The same with colour shift and noise as the paper's text has them."""

GHIASI_2022_INVERSION = GHIASI_2022.replace(
    name="ghiasi_2022:inversion",
    copies=1,  # code `it16/reconstruct.py`: the picture itself
    augmentations=(),  # code `it16/reconstruct.py`: none
    penalties=(TotalVariation(weight=1.0),),  # code `it16/reconstruct.py`: ||A(x) - A(y)||_F + 1.0 * TV(x)
)
"""For `inversion` of an image: the same ascent without augmentations, and with a heavier total variation.

Its weight goes with a distance, the norm of all activations of a site, which is tens to hundreds; on the mean
of a unit it would leave nothing but grey.
"""

OLAH_2017 = Recipe(
    name="olah_2017",
    title="Feature Visualization",
    year=2017,
    citation="Olah, Mordvintsev, Schubert 2017, Distill, doi:10.23915/distill.00007; code: lucid",
    canvas=FourierCanvas(deviation=0.01, decay=1.0, contrast=4.0),  # lucid `param/spatial.py` fft_image
    steps=512,  # lucid `render.py`: thresholds=(512,)
    copies=1,  # lucid `render.py`: one transformed image a step
    optimiser="adam",  # lucid `render.py`
    learning_rate=0.05,  # lucid `render.py`
    betas=(0.9, 0.999),  # TensorFlow's Adam, as lucid leaves it
    epsilon=1e-8,  # TensorFlow's Adam
    augmentations=(
        Affine(  # lucid `transform.py` standard_transforms, but about the centre, so that the size stays
            jitters=(8, 4),  # jitter(8), jitter(4)
            scales=tuple(1 + (i - 5) / 50 for i in range(11)),  # 0.9 to 1.1
            angles=(*map(float, range(-10, 11)), *(0.0,) * 5),  # degrees, five extra zeros
        ),
    ),
)
"""Fourier coefficients with decorrelated colours and small rotations, as lucid does it by default."""

OLAH_2017_SHORT = OLAH_2017.replace(
    name="olah_2017:short",
    warm_up=0.5,  # ours: without it 47 of 96 units of `vit_mini` stayed on the flat side of their GELU
    steps=96,  # ours, not the paper's: by then the dreams of a small model of 64 pixels have settled
)
"""The same for a fifth of the time: what `vitscope demo` uses."""

FEL_2023 = Recipe(
    name="fel_2023",
    title="Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization",
    year=2023,
    citation="Fel, Boissin, Boutin et al. 2023, arXiv:2306.06805; code: Xplique",
    canvas=MacoCanvas(deviation=1.0),  # Xplique `preconditioning.py` init_maco_buffer
    canvas_scale=512 / 224,  # Xplique `maco.py`: custom_shape=(512, 512) for models of 224 pixels
    steps=256,  # Xplique `maco.py`: nb_steps
    copies=32,  # Xplique `maco.py`: nb_crops
    optimiser="nadam",  # Xplique `maco.py`
    learning_rate=1.0,  # Xplique `maco.py`
    betas=(0.9, 0.999),  # Keras' Nadam
    epsilon=1e-7,  # Keras' Nadam
    crops=Crops(  # Xplique `maco.py`
        first=0.5, last=0.05, side_std=0.05, centre_std=0.15, smallest=0.05
    ),
    augmentations=(
        PixelNoise(std=0.08, uniform=0.04),
    ),  # Xplique `maco.py`: noise_intensity, and half of it either way
)
"""MACO: only the phases of the Fourier spectrum are optimised, on a canvas larger than the model's input."""

VITSCOPE = Recipe(
    name="vitscope",
    title="The recipe of vitscope: Ghiasi et al. 2022 on a Fourier canvas, with evenly spread augmentations",
    year=2026,
    citation="vitscope, docs/recipes.md",  # every choice below was measured there
    canvas=FourierCanvas(),  # in pixels the same steps reach less, and look noisier
    warm_up=0.1,  # of 55 units none stays dead
    second_start=True,  # one of 96 units lost its colour without
    steps=220,  # by then at least as robust as `ghiasi_2022` in the median of 96 units
    copies=4,
    numbers="even",
    optimiser="adam",
    learning_rate=0.1,
    betas=(0.3, 0.95),  # momentum lags behind: 0.9 loses a fifth
    schedule="held",
    augmentations=(
        ColourShift(offset=0.7, spread=0.7, form="code"),
        ChannelNoise(std=0.5),
        Jitter(limit=16, shared=False),  # one patch of a ViT either way; a roll of its own for every copy
    ),
    penalties=(TotalVariation(weight=0.004 * 0.1),),
)
"""What atlases use: more robust dreams in less time. How it was found, and what did not help, is told in
`docs/recipes.md`.
"""
