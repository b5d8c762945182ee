"""Modules that several tests of the finder trace."""

from torch import nn


class Calling(nn.Module):
    """A module that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)
