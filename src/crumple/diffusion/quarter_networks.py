"""Networks of a design's quarter: a denoiser given the curve, and a regressor of the curve.

The cell is four mirror images of its quarter, so every convolution continues the image by its
mirror image at each edge (at the top, where the platen is, a feature of the height tells it apart).
Mirroring a quarter from left to right shifts the cell by half a period, which changes nothing:
training shows each design both ways.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crumple.diffusion.network import Layout
from crumple.diffusion.quarters import FEATURES, curve_features
from crumple.layout import QUARTER

PATCH = 2  # pixels per side of what the finest level sees as one position
HEAD = 32  # width of an attention head
HIDDEN = 256  # numbers by which the regressor describes an image in the end


class Residual(nn.Module):
    """Two convolutions; with an embedding, the second normalisation is scaled and shifted."""

    def __init__(self, channels_in: int, channels: int, embedding: int = 0) -> None:
        super().__init__()
        self.norm_in = _norm(channels_in)
        self.convolution_in = _convolution(channels_in, channels)
        self.modulation = nn.Linear(embedding, 2 * channels) if embedding else None
        self.norm_out = _norm(channels)
        self.convolution_out = _zero(_convolution(channels, channels))
        same = channels_in == channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        y = self.norm_out(self.convolution_in(F.silu(self.norm_in(x))))
        if self.modulation is not None:
            scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        return self.skip(x) + self.convolution_out(F.silu(y))


class PixelAttention(nn.Module):
    """Self-attention over pixels; queries and keys are normalised (arXiv:2010.04245)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD
        self.norm = _norm(channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        split = self.query_key_value(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, HEAD))
        query, key, value = split.transpose(-1, -2).unbind(1)
        query, key = F.layer_norm(query, (HEAD,)), F.layer_norm(key, (HEAD,))
        # written out: the fused kernel's backward pass is slower on CPUs for sets as small as these
        weights = (query * HEAD**-0.5 @ key.transpose(-1, -2)).softmax(dim=-1)
        mixed = (weights @ value).transpose(-1, -2).reshape(batch, channels, height, width)
        return x + self.out(mixed)


class QuarterBlock(nn.Module):
    """A residual block, followed by attention but on the finest level."""

    def __init__(self, channels_in: int, channels: int, finest: bool, embedding: int = 0) -> None:
        super().__init__()
        self.residual = Residual(channels_in, channels, embedding)
        self.attention = nn.Identity() if finest else PixelAttention(channels)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        return self.attention(self.residual(x, embedding))


def _level(depth: int, *options: Any) -> nn.ModuleList:
    """Return the blocks of one resolution; ``options`` are those of :class:`QuarterBlock`."""
    return nn.ModuleList(QuarterBlock(*options) for _ in range(depth))


class QuarterDenoiser(nn.Module):
    """U-Net that maps a noisy quarter, its noise level and a curve to an image of its shape.

    Its inputs are those of :class:`crumple.diffusion.network.Network`, so that preconditioning,
    samplers and training are the same.

    Parameters
    ----------
    steps
        Strain steps of a curve.
    channels, depths
        Width and number of blocks of each level, the finest first; a level halves the resolution.
    embedding
        Width of the embedding of noise level and curve.
    """

    frequencies: Tensor

    def __init__(
        self, steps: int, channels: Sequence[int], depths: Sequence[int], embedding: int
    ) -> None:
        super().__init__()
        self.layout = Layout(static=0, frames=1, fields=1)
        self.register_buffer("frequencies", _frequencies(), persistent=False)
        self.noise = _mlp(2 * len(_frequencies()), embedding, embedding)
        self.curve = _mlp(FEATURES * steps, embedding, embedding, embedding)
        self.stem = _stem(channels[0])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.coarsen, self.refine = nn.ModuleList(), nn.ModuleList()
        for level, (width, depth) in enumerate(zip(channels, depths, strict=True)):
            finest = level == 0
            self.down.append(_level(depth, width, width, finest, embedding))
            self.up.append(_level(depth, 2 * width, width, finest, embedding))
            if level + 1 < len(channels):
                self.coarsen.append(nn.Conv2d(width, channels[level + 1], 2, stride=2))
                self.refine.append(nn.Conv2d(channels[level + 1], 4 * width, 1))
        self.norm = _norm(channels[0])
        self.head = _zero(_convolution(channels[0], 2 * PATCH**2))

    def forward(self, x: Tensor, noise: Tensor, stress: Tensor, known: Tensor) -> Tensor:
        """Return an image of the shape of ``x``.

        Parameters
        ----------
        x
            ``(batch, 1, 48, 48)``.
        noise
            ``(batch,)`` noise level in the form that the preconditioning gives.
        stress, known
            ``(batch, steps)``, see :func:`crumple.diffusion.quarters.curve_features`.
        """
        angles = noise[:, None] * self.frequencies
        embedding = self.noise(torch.cat([angles.cos(), angles.sin()], dim=1))
        embedding = F.silu(embedding + self.curve(curve_features(stress, known)))
        y = self.stem(_patches(x))
        skips = []
        for number in range(len(self.down)):
            for block in _blocks(self.down, number):
                y = block(y, embedding)
                skips.append(y)
            if number < len(self.coarsen):
                y = self.coarsen[number](y)
        for number in reversed(range(len(self.up))):
            if number < len(self.refine):
                y = F.pixel_shuffle(self.refine[number](y), 2)
            for block in _blocks(self.up, number):
                y = block(torch.cat([y, skips.pop()], dim=1), embedding)
        # The gate hands on the noise of single pixels, more than the features of a patch can carry.
        y = F.pixel_shuffle(self.head(F.silu(self.norm(y))), PATCH)
        shift, gate = y.chunk(2, dim=1)
        return shift + gate * x


class QuarterRegressor(nn.Module):
    """Encoder that maps a quarter to one number per strain step.

    What it knows of the image in the end is, per channel, the mean of each row of the coarsest
    level (which force flows through every one of them) and the largest value.

    Parameters
    ----------
    steps
        Numbers to return.
    channels, depths
        Width and number of blocks of each level, the finest first; a level halves the resolution.
    """

    def __init__(self, steps: int, channels: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.stem = _stem(channels[0])
        self.coarsen = nn.ModuleList(
            nn.Conv2d(a, b, 2, stride=2) for a, b in zip(channels, channels[1:], strict=False)
        )
        self.levels = nn.ModuleList(
            _level(depth, width, width, number == 0)
            for number, (width, depth) in enumerate(zip(channels, depths, strict=True))
        )
        self.norm = _norm(channels[-1])
        rows = QUARTER // PATCH // 2 ** (len(channels) - 1)
        self.head = _mlp((rows + 1) * channels[-1], HIDDEN, steps)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, steps)`` for ``(batch, 1, 48, 48)``."""
        return self.read(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return what the network sees in an image, ``(batch, HIDDEN)``."""
        y = self.stem(_patches(x))
        for number in range(len(self.levels)):
            if number:
                y = self.coarsen[number - 1](y)
            for block in _blocks(self.levels, number):
                y = block(y)
        y = F.silu(self.norm(y))
        seen = torch.cat([y.mean(dim=3).flatten(1), y.amax(dim=(2, 3))], dim=1)
        return self.head[1](self.head[0](seen))

    def read(self, features: Tensor) -> Tensor:
        """Return ``(batch, steps)`` for :meth:`features`."""
        return self.head[2](features)


def _blocks(levels: nn.ModuleList, number: int) -> Iterator[nn.Module]:
    """Return the blocks of one level."""
    return iter(cast(nn.ModuleList, levels[number]))


def _patches(x: Tensor) -> Tensor:
    """Put the height of each pixel, from -1 to 1, beside the image; patches become channels."""
    height = 1 - (2 * torch.arange(x.shape[-2], device=x.device) + 1) / x.shape[-2]
    both = torch.cat([x, height.to(x)[:, None].expand_as(x)], dim=1)
    return F.pixel_unshuffle(both, PATCH).contiguous(memory_format=torch.channels_last)


def _stem(channels: int) -> nn.Conv2d:
    return _convolution(2 * PATCH**2, channels)


def _convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    # Repeating the last pixel is the mirror image, as far as three pixels reach.
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode="replicate")


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a layer that begins with zeros."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels)


def _frequencies() -> Tensor:
    """Angular frequencies of the noise features: ln(sigma)/4 spans about [-1.2, 1.2]."""
    return torch.logspace(math.log10(0.5), math.log10(60.0), 64)
