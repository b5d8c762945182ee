"""Cheaper forms: equal to torch's own up to rounding, on every way a model calls them, and then gone."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitscope import lean
from vitscope.dream.objectives import unit
from vitscope.lean import AS_WRITTEN, ONEDNN, Forms, Lean
from vitscope.tap import tap
from vitscope.testing import tiny_cnn, tiny_vit

PRODUCTS = Forms(attention="products")
LINEAR = Forms(patches="linear")
NARROW = Forms("products", "linear", "bfloat16")
BY_ONEDNN = Forms(patches="linear", linear="onednn")
onednn_is_here = pytest.mark.skipif(not ONEDNN, reason="torch has no oneDNN here")


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=source, dtype=dtype).requires_grad_() for shape in shapes]


def both(function, given: list[torch.Tensor], forms: Forms) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Results and gradients with and without the forms."""
    found = []
    for each in (Lean(forms), Lean()):
        with each:
            result = function(*given)
        found.append([result.detach(), *torch.autograd.grad(result.double().square().sum(), given)])
    return list(zip(*found, strict=True))


MASKS = {
    "none": {},
    "boolean": {"attn_mask": torch.rand(5, 7) < 0.7},
    "additive": {"attn_mask": torch.randn(2, 1, 5, 7, dtype=torch.float64)},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
}


@pytest.mark.parametrize("settings", MASKS.values(), ids=MASKS)
def test_attention_as_products_is_attention(settings: dict):
    if "attn_mask" in settings and settings["attn_mask"].dtype == torch.bool:
        settings["attn_mask"][:, 0] = True  # a query that sees nothing has no attention
    given = tensors((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6))
    for found, expected in both(
        lambda *qkv: F.scaled_dot_product_attention(*qkv, **settings), given, PRODUCTS
    ):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_what_products_cannot_do_stays_fused():
    query, key = tensors((1, 4, 5, 8), (1, 2, 5, 8))
    grouped = lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True)  # noqa: E731
    for found, expected in both(grouped, [query, key], PRODUCTS):
        torch.testing.assert_close(found, expected)


CONVOLUTIONS = {
    "patches": ((2, 3, 8, 12), (5, 3, 4, 4), {"stride": 4}),
    "oblong patches": ((2, 3, 8, 12), (5, 3, 2, 3), {"stride": (2, 3)}),
    "overlapping": ((2, 3, 8, 8), (5, 3, 4, 4), {"stride": 2}),
    "left-over pixels": ((2, 3, 9, 9), (5, 3, 4, 4), {"stride": 4}),
    "padded": ((2, 3, 8, 8), (5, 3, 4, 4), {"stride": 4, "padding": 2}),
    "same": ((2, 3, 8, 8), (5, 3, 3, 3), {"padding": "same"}),
    "grouped": ((2, 4, 8, 8), (6, 2, 4, 4), {"stride": 4, "groups": 2}),
    "dilated": ((2, 3, 8, 8), (5, 3, 2, 2), {"stride": 2, "dilation": 2}),
}


@pytest.mark.parametrize(("image", "weight", "settings"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_patches_as_linear_are_the_convolution(image, weight, settings, bias):
    given = tensors(image, weight, *([(weight[0],)] if bias else []))
    for found, expected in both(lambda *args: F.conv2d(*args, **settings), given, LINEAR):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


class Counted(torch.overrides.TorchFunctionMode):
    """Names of the functions that pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


@onednn_is_here
@pytest.mark.parametrize("shape", [(2, 7, 12), (12,), (0, 12), (3, 1, 2, 12)])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_linear_layers_by_onednn_are_linear_layers(shape, bias):
    """Against float64, forward and backward; the slope of a sum has no memory of its own."""
    layer = nn.Linear(12, 5, bias=bias)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    exact = image.detach().double().requires_grad_()
    with Lean(BY_ONEDNN):
        result = layer(image)
    expected = F.linear(exact, layer.weight.double(), layer.bias.double() if bias else None)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=1e-5)
    for reduced in (lambda each: each.sum(), lambda each: each.square().mT.sum()):
        slopes = [
            torch.autograd.grad(reduced(each[None]), to, retain_graph=True)[0]
            for each, to in ((result, image), (expected, exact))
        ]
        torch.testing.assert_close(slopes[0].double(), slopes[1], atol=1e-6, rtol=1e-5)


@onednn_is_here
def test_what_onednn_does_not_take_is_left_to_torch():
    layer = nn.Linear(12, 5).double()
    x = torch.randn(2, 12, dtype=torch.float64)
    with Lean(BY_ONEDNN):
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


@onednn_is_here
def test_weights_that_are_made_from_the_image_keep_their_gradient():
    image = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    kernel = torch.ones(5, 3, 4, 4)
    for to, function in (
        (image, lambda: F.linear(image, image.sin())),
        (pixels, lambda: F.conv2d(pixels, kernel * pixels.sum(), stride=4)),
    ):
        slopes = []
        for forms in (BY_ONEDNN, AS_WRITTEN):
            with Lean(forms):
                result = function()
            slopes.append(torch.autograd.grad(result.square().sum(), to)[0])
        torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)


@onednn_is_here
def test_onednn_is_called(monkeypatch):
    """By linear layers and by patches, in float32 alone."""
    calls = []
    real = lean._onednn
    monkeypatch.setattr(lean, "_onednn", lambda *given: calls.append(1) or real(*given))
    layer, patches = nn.Linear(12, 5), nn.Conv2d(3, 5, 4, stride=4)
    for forms, expected in ((BY_ONEDNN, 2), (replace(BY_ONEDNN, products="bfloat16"), 0), (LINEAR, 0)):
        calls.clear()
        with Lean(forms):
            layer(torch.randn(2, 12))
            patches(torch.randn(1, 3, 8, 8))
        assert len(calls) == expected, forms


def test_the_forms_are_used_and_not_only_allowed():
    image, weight = tensors((2, 3, 8, 8), (5, 3, 4, 4))
    query = torch.randn(1, 2, 5, 4)
    with Counted() as counted, Lean(NARROW):
        F.conv2d(image, weight, stride=4)
        F.scaled_dot_product_attention(query, query, query)
    assert "conv2d" not in counted.names
    assert "scaled_dot_product_attention" not in counted.names
    assert {"linear", "softmax"} <= set(counted.names)


@pytest.mark.parametrize("model", [tiny_vit(), tiny_cnn()], ids=["vit", "cnn"])
def test_whole_models_agree(model):
    """Every combination of forms: float32 to rounding, bfloat16 to its eight bits."""
    pixels = torch.rand(2, 3, *model.preprocessing.size)
    expected = model.module(model.preprocess(pixels)).detach()
    choices = itertools.product(
        ("fused", "products"), ("convolution", "linear"), ("float32", "bfloat16"), ("blas", "onednn")
    )
    for forms in itertools.starmap(Forms, choices):
        with Lean(forms):
            found = model.module(model.preprocess(pixels)).detach().float()
        error = (found - expected).norm() / expected.norm()
        assert error < (1e-5 if forms.products == "float32" else 0.03), forms
        assert (forms.products == "float32") == (error < 1e-5)
    assert torch.equal(model.module(model.preprocess(pixels)), expected)


def test_the_stream_stays_in_float32():
    """Only products are narrow: what leaves a block is the sum in the model's own type."""
    model = tiny_vit()
    seen = {}

    def on_read(site, activations):
        seen[site.name] = activations.dtype

    with tap(model, [model.sites.named("blocks.1")], on_read=on_read) as run, Lean(NARROW):
        run(torch.rand(1, 3, *model.preprocessing.size))
    assert seen == {"blocks.1": torch.float32}


def test_sites_inside_functions_are_still_read():
    """Attention weights are recomputed from what the fused call is given, also where it is answered by us."""
    model = tiny_vit()
    site = model.sites.named("blocks.1.attn.pattern")
    assert site.recomputed
    pixels, seen = torch.rand(2, 3, *model.preprocessing.size), []
    for forms in (AS_WRITTEN, PRODUCTS, NARROW):
        with tap(model, [site], on_read=lambda _, acts: seen.append(acts.float())) as run, Lean(forms):
            run(pixels)
    torch.testing.assert_close(seen[1], seen[0], atol=1e-6, rtol=1e-5)
    assert (seen[2] - seen[0]).abs().max() < 0.02


def test_weights_are_cast_once_and_left_alone():
    layer = nn.Linear(4, 3)
    before = {name: weight.clone() for name, weight in layer.named_parameters()}
    cheap, x = Lean(NARROW), torch.randn(2, 4)
    results = []
    for _ in range(2):
        with cheap:
            results.append(layer(x))
    assert torch.equal(*results)
    assert results[0].dtype == torch.bfloat16
    assert cheap.narrow(layer.weight) is cheap.narrow(layer.weight)
    assert all(torch.equal(weight, before[name]) for name, weight in layer.named_parameters())
    assert layer(x).dtype == torch.float32


def test_numbers_that_are_not_floats_are_not_narrowed():
    count = torch.arange(3)
    assert Lean(NARROW).narrow(count) is count


def test_objectives_read_narrow_activations_in_float32():
    model = tiny_vit()
    objective, scores = unit("blocks.1.ffn:3").bind(model), []

    def on_read(site, activations):
        scores.append(objective.read(site, activations))

    with tap(model, objective.sites, on_read=on_read) as run, Lean(NARROW):
        run(torch.rand(2, 3, *model.preprocessing.size))
    assert scores[0].dtype == torch.float32


def test_functions_may_be_called_by_names_and_in_other_words():
    """torch's own names of arguments; products under their other names; operands in lists."""
    x, weight, bias = tensors((2, 3, 4), (5, 4), (5,), dtype=torch.float32)
    image, kernel = tensors((2, 3, 8, 8), (5, 3, 4, 4), dtype=torch.float32)
    for call, expected in (
        (lambda: F.linear(input=x, weight=weight, bias=bias), F.linear(x, weight, bias)),
        (lambda: torch.bmm(input=x, mat2=x.mT), x @ x.mT),
        (lambda: torch.matmul(x, other=x.mT), x @ x.mT),
        (lambda: torch.einsum("bij,kj->bik", x, weight), x @ weight.T),
        (lambda: torch.einsum("bij,kj->bik", [x, weight]), x @ weight.T),
        (lambda: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.5), 1.5 * x @ x.mT),
        (lambda: F.conv2d(input=image, weight=kernel, stride=4), F.conv2d(image, kernel, stride=4)),
    ):
        with Lean(NARROW):
            found = call()
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, atol=0.15, rtol=0.03)


def test_layers_that_stay_wide_take_what_is_narrow():
    """Between two narrow products: attention as one function of torch, other convolutions, norms."""
    layers = [nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Conv1d(5, 5, 3, padding=1)]
    first, x = nn.Linear(8, 8), torch.randn(2, 5, 8)
    for layer in layers:
        given = (lambda h: (h, h, h)) if isinstance(layer, nn.MultiheadAttention) else (lambda h: (h,))
        expected = layer(*given(first(x)))
        with Lean(NARROW):
            found = layer(*given(first(x)))
        found, expected = (each[0] if isinstance(each, tuple) else each for each in (found, expected))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=0.03, rtol=0.05)
