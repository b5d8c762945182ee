"""Invented pictures and how models see them, for the tests of decoding."""

from io import BytesIO

import numpy as np
from PIL import Image

from vitscope.models.vision_model import Preprocessing

VIT_TINY = Preprocessing(size=(224, 224), resize=248, interpolation="bicubic")
SMALL = Preprocessing(size=(16, 16), resize=16, interpolation="bilinear")


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def smooth(width: int, height: int) -> Image.Image:
    return noise(6, 5).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()
