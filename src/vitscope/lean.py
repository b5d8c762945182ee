"""The same pass with less work: cheaper forms of a few functions, equal up to rounding.

A model is never edited. While a `Lean` block is open, torch's function mode answers some of its calls in
another way: attention as two matrix products with a softmax between them, a convolution of patches that do
not overlap as one matrix product, linear layers by oneDNN instead of torch's BLAS, and matrix products in
bfloat16. What lies between the products (the residual stream, norms, sums) stays in the model's own type.

Which forms pay depends on the machine, so `tune.py` measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitscope.arrays import widened
from vitscope.tap import READERS, function_name

PRODUCTS = ("linear", "matmul", "einsum", "addmm", "baddbmm")
"""Functions that are nothing but a matrix product: all their operands are narrowed."""

WHOLE = (
    *("layer_norm", "group_norm", "rms_norm", "batch_norm", "instance_norm"),
    *("conv1d", "conv3d", "conv_transpose2d", "bilinear", "multi_head_attention_forward"),
)
"""Functions with weights that stay in the model's type, and so must what they are given."""


@dataclass(frozen=True)
class Forms:
    """How some functions are computed.

    Attributes:
        attention: "fused" as torch does it, or "products": two matrix products and a softmax.
        patches: "convolution", or "linear" for one matrix product where patches do not overlap.
        products: type of the operands of matrix products and convolutions; "float32" leaves them as they
            are. Their results are of that type, until they meet a number of the model's.
        linear: float32 linear layers by torch's "blas", or by "onednn", on a CPU that has it: on AMD Zen with
            AVX-512 more than twice as fast as MKL (200 and 88 GFLOP/s, one core, torch 2.15).
    """

    attention: Literal["fused", "products"] = "fused"
    patches: Literal["convolution", "linear"] = "convolution"
    products: Literal["float32", "bfloat16"] = "float32"
    linear: Literal["blas", "onednn"] = "blas"

    @property
    def wide(self) -> Forms:
        """The same with products in float32."""
        return replace(self, products="float32")


AS_WRITTEN = Forms()
"""Every function as the model calls it."""


class Lean(TorchFunctionMode):
    """While it is open, functions are computed in these forms; it can be opened again.

    Gradients flow through all of them to the image, not to weights. Weights are cast once, so they must not
    change between uses. What readers of sites compute is left as they write it: a score is no part of the
    pass.
    """

    def __init__(self, forms: Forms = AS_WRITTEN) -> None:
        super().__init__()
        self.forms = forms
        self._cast: dict[int, tuple[Tensor, Tensor]] = {}
        self._table: dict[str, Callable[..., Tensor]] = {} if forms == AS_WRITTEN else self._answers()
        self._reader = 0

    def _answers(self) -> dict[str, Callable[..., Tensor]]:
        answers: dict[str, Callable[..., Tensor]] = {
            "conv2d": self.conv2d,
            "scaled_dot_product_attention": self.attention,
        }
        by_onednn = self.forms.linear == "onednn" and self.forms.products == "float32" and ONEDNN
        return {**answers, "linear": self.linear} if by_onednn else answers

    def __enter__(self) -> Lean:
        self._reader = READERS.get()
        super().__enter__()  # type: ignore[no-untyped-call,unused-ignore]
        return self

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function_name(function)
        if READERS.get() != self._reader:
            return function(*args, **kwargs)
        if name in self._table:
            return self._table[name](*args, **kwargs)
        if self.forms.products != "float32" and name in (*PRODUCTS, *WHOLE):
            changed = self.narrow if name in PRODUCTS else _widened
            args, kwargs = _tensors(changed, args), _tensors(changed, kwargs)
        return function(*args, **kwargs)

    # forms

    def conv2d(
        self,
        input: Tensor,  # torch's names, by which they may be given
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """A convolution, or one matrix product where its patches tile the image."""
        image, weight = self.narrow(input), self.narrow(weight)
        bias = None if bias is None else self.narrow(bias)
        if self.forms.patches == "linear" and _tiles(image, weight, *args, **kwargs):
            weight = weight.detach() if _constant(weight) else weight
            return _patches_as_linear(image, weight, bias, self._table.get("linear", F.linear))
        return F.conv2d(image, weight, bias, *args, **kwargs)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A linear layer by oneDNN, or as torch does it where that does not take the tensors."""
        given = [tensor for tensor in (input, weight, bias) if tensor is not None]
        suits = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in given)
        if suits and all(map(_constant, given[1:])):
            return cast(Tensor, _ByOneDnn.apply(input, weight, bias))
        return F.linear(input, weight, bias)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attention, fused or as products; with dropout or grouped heads always fused."""
        query, key, value = map(self.narrow, (query, key, value))
        settings = dict(zip(("attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
        if self.forms.attention == "fused" or settings.get("dropout_p") or settings.get("enable_gqa"):
            mask = settings.pop("attn_mask", None)
            mask = mask.to(query.dtype) if mask is not None and mask.is_floating_point() else mask
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, **settings)
        return _attention_as_products(query, key, value, **settings)

    # types

    def narrow(self, tensor: Tensor) -> Tensor:
        """In the type of products. Weights are cast once."""
        if self.forms.products == "float32" or not tensor.is_floating_point():
            return tensor
        if not isinstance(tensor, nn.Parameter):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self._cast:  # the weight itself is kept too, or its number might be used again
            self._cast[id(tensor)] = (tensor, tensor.detach().to(torch.bfloat16))
        return self._cast[id(tensor)][1]


ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call,unused-ignore]
"""Whether torch can call oneDNN on plain tensors here."""


def _constant(weight: Tensor) -> bool:
    """Whether no gradient has to flow through it: it is the model's own, and not made from the image."""
    return isinstance(weight, nn.Parameter) or not weight.requires_grad


class _ByOneDnn(torch.autograd.Function):
    """input weight' + bias, for constant weights."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override,unused-ignore]
        (weight,) = ctx.saved_tensors
        return _onednn(slope, weight.mT, None), None, None


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def _tensors(change: Callable[[Tensor], Tensor], given: Any) -> Any:
    """Arguments of a function with their tensors changed, those in lists too."""
    if isinstance(given, Tensor):
        return change(given)
    if isinstance(given, (tuple, list)):
        return [_tensors(change, each) for each in given]
    if isinstance(given, dict):
        return {name: _tensors(change, each) for name, each in given.items()}
    return given


def _widened(tensor: Tensor) -> Tensor:
    return widened(tensor) if tensor.is_floating_point() else tensor


def _attention_as_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """softmax(q k' / sqrt(unit)) v, as `scaled_dot_product_attention` defines it."""
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask.to(scores.dtype)
    return scores.softmax(dim=-1) @ value


def _tiles(
    x: Tensor,
    weight: Tensor,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether every pixel lies in exactly one window of a convolution."""
    window = tuple(weight.shape[2:])
    even = all(length % side == 0 for length, side in zip(x.shape[-2:], window, strict=True))
    return (
        (_pair(stride), _pair(padding), _pair(dilation), groups) == (window, (0, 0), (1, 1), 1)
        and window != (1, 1)
        and even
        and x.ndim == 4
    )


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value if isinstance(value, str) else tuple(value)


def _patches_as_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, linear: Callable[..., Tensor]
) -> Tensor:
    rows, columns = weight.shape[2:]
    patches = rearrange(
        x, "image rgb (y row) (x column) -> image y x (rgb row column)", row=rows, column=columns
    )
    return rearrange(linear(patches, weight.flatten(1), bias), "image y x unit -> image unit y x")
