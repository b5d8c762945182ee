"""The averages of photographs, on images whose averages are known."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "training" / "spectrum.py"
SPEC = importlib.util.spec_from_file_location("spectrum", SCRIPT)
spectrum = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(spectrum)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for index in range(3):
        levels = random.integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / f"{index}.jpg", quality=95)
    return tmp_path


def pixels(folder: Path) -> np.ndarray:
    return np.stack(
        [
            np.asarray(Image.open(path), dtype=float).transpose(2, 0, 1) / 255
            for path in sorted(folder.glob("*.jpg"))
        ]
    )


def test_colours_are_those_of_numpy(folder: Path):
    mean, covariance, images = spectrum.colour_statistics(folder, side=16)
    flat = pixels(folder).transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(mean, flat.mean(axis=1))
    np.testing.assert_allclose(covariance, np.cov(flat, bias=True))
    assert images == 3
    root = spectrum.root(covariance)
    np.testing.assert_allclose(root @ root.T, covariance)
    assert (root[0] >= 0).all()


def test_magnitudes_are_those_of_the_full_transform(folder: Path):
    mean, covariance, _ = spectrum.colour_statistics(folder, side=16)
    root = spectrum.root(covariance)
    found = spectrum.mean_magnitudes(folder, mean, root, side=16)
    channels = np.einsum("cr,nrxy->ncxy", np.linalg.inv(root), pixels(folder) - mean[None, :, None, None])
    full = np.abs(np.fft.fft2(channels)).mean(axis=0)
    assert found.shape == (3, 9, 9)
    np.testing.assert_allclose(found[:, 2, 3], (full[:, 2, 3] + full[:, -2, 3]) / 2)
    np.testing.assert_allclose(found[:, 0], full[:, 0, :9])
    np.testing.assert_allclose(found[:, 8], full[:, 8, :9])


def test_the_file_holds_averages_only(folder: Path, tmp_path: Path):
    spectrum.main(folder, out=tmp_path / "out.npz")
    arrays = np.load(tmp_path / "out.npz")
    assert {name: arrays[name].shape for name in arrays} == {
        "colours": (3, 3),
        "mean": (3,),
        "magnitudes": (3, 113, 113),
        "images": (),
    }


def test_a_folder_without_images_is_an_error(tmp_path: Path):
    with pytest.raises(typer.BadParameter, match="no JPEG image below"):
        spectrum.colour_statistics(tmp_path)
