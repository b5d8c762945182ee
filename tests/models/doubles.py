"""Modules that several tests of the finder trace."""

from torch import nn


class Calling(nn.Module):
    """A module that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


class Plus(nn.Module):
    """A branch added to its stream."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)
