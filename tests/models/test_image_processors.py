"""transformers' descriptions of preprocessing, against its own processors."""

import json

import pytest
import torch
import transformers
from PIL import Image

from vitscope.data.decode import view
from vitscope.models import image_processors

PROCESSORS = [
    ("ViTImageProcessor", {"size": {"height": 48, "width": 64}}),
    ("ViTFeatureExtractor", {"size": 64, "resample": 2}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 56}}),
    ("CLIPFeatureExtractor", {"size": 64, "crop_size": 64}),
    ("SiglipImageProcessor", {"size": {"height": 64, "width": 64}}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.875}),
    ("ConvNextFeatureExtractor", {"size": 384, "crop_pct": 0.9}),
    ("BitImageProcessor", {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}}),
    ("BeitImageProcessor", {"size": 64, "do_center_crop": False}),
    ("LevitImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": 64}),
    ("PoolFormerImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.8, "crop_size": 64}),
    ("ViTImageProcessor", {"size": 64, "rescale_factor": 1 / 127.5, "do_normalize": False}),
    (
        "ViTImageProcessor",
        {"size": 64, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [64.0] * 3},
    ),
]


@pytest.mark.parametrize(
    ("kind", "said"), PROCESSORS, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(PROCESSORS)]
)
def test_the_preprocessing_is_that_of_the_librarys_own_processor(tmp_path, kind, said):
    key = "image_processor_type" if "Image" in kind else "feature_extractor_type"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({key: kind, **said}))
    shown = image_processors.read_facts(tmp_path, transformers)
    facts, notes = image_processors.preprocessing_of(shown, (9, 9))
    assert notes == ()
    theirs = getattr(transformers, kind.replace("FeatureExtractor", "ImageProcessor") + "Pil")(**said)
    image = Image.radial_gradient("L").convert("RGB").resize((131, 97))
    pixels = torch.from_numpy(view(image, facts).copy()).movedim(-1, 0)[None] / 255
    expected = theirs(image, return_tensors="pt")["pixel_values"]
    ours = facts.normalise(pixels)
    assert ours.shape == expected.shape
    spread = float(expected.max() - expected.min())
    assert (ours - expected).abs().mean() < 0.002 * spread


def test_what_cannot_be_said_of_a_processor_is_noted():
    base = {**image_processors.PLAIN, "kind": "", "size": {"height": 256, "width": 256}}
    cases = [
        ({"do_center_crop": True, "crop_size": 224}, (224, 224), 256, "squashes to 256 x 256 and crops"),
        ({"size": {"shortest_edge": 64}}, (64, 64), 64, "does not crop"),
        ({"do_resize": False}, (9, 8), 9, "does not resize"),
        ({"size": {"longest_edge": 64}}, (9, 8), None, "cannot be said here"),
        ({"resample": 5}, (256, 256), None, "Pillow's method 5"),
    ]
    for changes, size, shorter, note in cases:
        facts, (found,) = image_processors.preprocessing_of({**base, **changes}, (9, 8))
        assert (facts.size, facts.resize) == (size, shorter)
        assert note in found
    facts, notes = image_processors.preprocessing_of(None, (9, 8))
    assert (facts.size, facts.resize, len(notes)) == ((9, 8), None, 1)


def test_a_processor_within_a_processor_is_found(tmp_path):
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": {"image_processor_type": "ViTImageProcessor", "size": 32}})
    )
    facts = image_processors.read_facts(tmp_path, transformers)
    assert image_processors.preprocessing_of(facts, (9, 9))[0].size == (32, 32)
    assert image_processors.read_facts(tmp_path / "none", transformers) is None
