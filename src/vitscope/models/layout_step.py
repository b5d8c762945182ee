"""One call of a torch function, as the rules of layouts see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitscope.models.layout import Layout


@dataclass(frozen=True)
class Step:
    """One call of a torch function while a model runs.

    Attributes:
        name: of the function, as `tap.function_name` has it.
        function: the function itself.
        args, kwargs: what it was given.
        output: the first tensor it returned.
        number: the number of the value it returned.
        layout: the layout of a tensor, None where it has none.
        made_from: whether the first of two tensors was computed from the second.
        from_image: whether a tensor depends on the pixels.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    number: int
    layout: Callable[[Tensor], Layout | None]
    made_from: Callable[[Tensor, Tensor], bool]
    from_image: Callable[[Tensor], bool]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output."""
        return tuple(self.output.shape)

    def operand(self, index: int, name: str = "") -> Any:
        """An argument by position or name; None where it is not given."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name)

    def layout_of(self, index: int, name: str = "") -> Layout | None:
        """The layout of one of the arguments."""
        tensor = self.operand(index, name)
        return self.layout(tensor) if isinstance(tensor, Tensor) else None


Followed = Layout | Sequence[Layout] | None
"""What a rule returns: the layout of what a function returned, or a list; None if it cannot say."""
