"""Average Fourier magnitudes and colour correlation of a folder of photographs, for the canvases of
`vitscope.dream`.

    python training/spectrum.py FOLDER --out src/vitscope/dream/spectrum.npz

Two passes over the images. The first gives the covariance of red, green and blue over all pixels; the
second the mean absolute Fourier coefficients of the decorrelated channels. Only these averages are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image, ImageOps

SIDE = 224
"""Rows and columns of the crops, in pixels; even, so that the table ends at half a cycle per pixel."""

Array = npt.NDArray[np.float64]


def crops(folder: Path, *, side: int = SIDE) -> Iterator[Array]:
    """The central squares of all JPEG images below a folder, "rgb row column" in [0, 1], in the order of
    their paths.
    """
    for path in sorted(folder.rglob("*.[jJ][pP]*[gG]")):
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
        yield np.moveaxis(np.asarray(square, dtype=np.float64) / 255, -1, 0)


def colour_statistics(folder: Path, *, side: int = SIDE) -> tuple[Array, Array, int]:
    """Mean and covariance of the colours over all pixels, and the number of images."""
    total, square, pixels, images = np.zeros(3), np.zeros((3, 3)), 0, 0
    for crop in crops(folder, side=side):
        flat = crop.reshape(3, -1)
        total += flat.sum(axis=1)
        square += flat @ flat.T
        pixels += flat.shape[1]
        images += 1
    if not images:
        raise typer.BadParameter(f"no JPEG image below {folder}")
    mean = total / pixels
    return mean, square / pixels - np.outer(mean, mean), images


def root(covariance: Array) -> Array:
    """A matrix R with R R^T = covariance, whose columns are the principal colours, strongest first.

    Signs are fixed so that the first row has no negative number, hence the result is unique.
    """
    values, vectors = np.linalg.eigh(covariance)
    columns = vectors[:, ::-1] * np.sqrt(values[::-1])
    return np.asarray(columns * np.where(columns[:1] < 0, -1, 1))


def mean_magnitudes(folder: Path, mean: Array, mixing: Array, *, side: int = SIDE) -> Array:
    """Mean absolute coefficients of the decorrelated channels: "channel row column", frequencies 0 .. 1/2.

    Positive and negative row frequencies are averaged: mirror images are equally natural.
    """
    unmix = np.linalg.inv(mixing)
    total = np.zeros((3, side, side // 2 + 1))
    count = 0
    for crop in crops(folder, side=side):
        channels = np.einsum("cr,rxy->cxy", unmix, crop - mean[:, None, None])
        total += np.abs(np.fft.rfft2(channels))
        count += 1
    half = side // 2 + 1
    mirrored = np.roll(total[:, ::-1], 1, axis=1)
    return np.asarray((total + mirrored)[:, :half] / (2 * count))


def main(
    folder: Annotated[Path, typer.Argument(help="a folder of JPEG photographs")],
    out: Annotated[Path, typer.Option(help="the .npz file to write")] = Path("spectrum.npz"),
) -> None:
    """Compute and write the averages."""
    mean, covariance, images = colour_statistics(folder)
    mixing = root(covariance)
    magnitudes = mean_magnitudes(folder, mean, mixing)
    np.savez_compressed(
        out,
        colours=(mixing / np.linalg.norm(mixing, axis=0).max()).astype(np.float32),
        mean=mean.astype(np.float32),
        magnitudes=(magnitudes / magnitudes.mean()).astype(np.float16),
        images=np.int64(images),
    )
    typer.echo(f"{out}: {images} images, {out.stat().st_size} bytes")


if __name__ == "__main__":
    typer.run(main)
