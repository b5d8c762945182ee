"""Which forms are fastest: the calls of a pass are heard, timed in each form, and small ones left alone."""

import pytest
import torch

from vitscope import tune as tuning
from vitscope.lean import AS_WRITTEN, Forms
from vitscope.testing import tiny_cnn, tiny_vit
from vitscope.tune import tune


def noise(model, images: int = 2) -> torch.Tensor:
    return torch.rand(images, 3, *model.preprocessing.size)


def test_small_models_are_left_as_they_are():
    """Whatever a clock says: what is not worth measuring must not depend on it."""
    for model in (tiny_vit(), tiny_cnn()):
        assert tune(model, [model.sites[-1]], noise(model)) == AS_WRITTEN


def test_calls_are_heard_as_the_model_makes_them():
    model = tiny_vit()
    calls = tuning._listen(model, [model.sites.named("blocks.1")], noise(model))
    (convolution,) = calls["conv2d"]
    width, _, *patch = convolution.shapes[1]
    assert dict(convolution.settings)["stride"] == tuple(patch)
    (attention,) = calls["scaled_dot_product_attention"]
    assert calls["scaled_dot_product_attention"][attention] == 2  # of the two blocks up to the site
    assert attention.moving == 3
    assert {call.shapes[1][1] for call in calls["linear"]} == {width, 4 * width}
    shallow = tuning._listen(model, [model.sites.named("blocks.0")], noise(model))
    assert shallow["scaled_dot_product_attention"][attention] == 1


@pytest.fixture
def clocked(monkeypatch):
    """Seconds by form, in place of a clock; every call is worth measuring."""
    seconds: dict[Forms, float] = {}
    monkeypatch.setattr(tuning, "WORTHWHILE", 0)
    monkeypatch.setattr(tuning._Call, "seconds", lambda _, forms, __: seconds.get(forms, 1.0))
    return seconds


def test_a_form_is_taken_only_if_it_is_clearly_faster(clocked):
    model = tiny_vit()
    narrow = Forms(products="bfloat16")
    for factor, expected in ((0.9, AS_WRITTEN), (0.5, narrow)):
        clocked[narrow] = factor
        clocked[Forms("products", products="bfloat16")] = factor
        assert tune(model, [model.sites.named("blocks.0")], noise(model)) == expected


def test_forms_are_chosen_one_after_the_other(clocked):
    """Attention is timed in the type that products have got by then."""
    model = tiny_vit()
    clocked[Forms(products="bfloat16")] = 0.5
    clocked[Forms("products", "convolution", "bfloat16")] = 0.2
    clocked[Forms("products", "linear", "bfloat16")] = 0.01
    found = tune(model, [model.sites.named("blocks.0")], noise(model))
    assert found == Forms("products", "linear", "bfloat16")


def test_a_model_that_is_not_float32_keeps_its_type(clocked):
    model = tiny_vit().to("cpu", torch.float64)
    clocked[Forms(products="bfloat16")] = 0.1
    assert tune(model, [model.sites.named("blocks.0")], noise(model)).products == "float32"


@pytest.mark.parametrize("forms", [AS_WRITTEN, Forms("products", "linear", "bfloat16")])
def test_every_call_can_be_timed(forms):
    model = tiny_vit()
    for calls in tuning._listen(model, [model.sites.named("blocks.1")], noise(model)).values():
        for call in calls:
            assert 0 < call.seconds(forms, torch.device("cpu")) < 10


def test_a_form_that_fails_is_never_chosen(monkeypatch):
    monkeypatch.setattr(tuning, "WORTHWHILE", 0)

    def broken(*_args, **_kwargs):
        raise RuntimeError("not implemented for this type")

    call = tuning._Call(broken, ((2, 3), (4, 3)))
    assert call.seconds(AS_WRITTEN, torch.device("cpu")) == float("inf")


def test_the_global_generator_is_not_moved():
    model, before = tiny_vit(), torch.get_rng_state()
    for calls in tuning._listen(model, [model.sites.named("blocks.0")], torch.zeros(1, 3, 32, 32)).values():
        for call in calls:
            call.seconds(AS_WRITTEN, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
