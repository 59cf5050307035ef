"""The network of Bastek and Kochmann (2023), ``model.kind: published``: a U-Net over video.

It predicts the noise in a state. The layers and their order are those of the code that the authors
have published, so that weights trained by it can be used (:mod:`crumple.diffusion.imported`); what
that code holds without using it is left out. Frames are folded into the batch here, for all
convolutions are two-dimensional; the group normalisation takes the statistics of all frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from crumple.diffusion.network import Layout, attend

HEADS = 8  # of every attention
GROUPS = 8  # of every normalisation in a residual block
BUCKETS, NEAR, FAR = 32, 8, 32  # of distances in time: both signs; exact below NEAR, alike from FAR


class Condition(NamedTuple):
    """What the layers are told of noise level and curve."""

    embedding: Tensor  # (batch * frames, embedding)
    tokens: Tensor  # (batch, steps, embedding)
    distance: Tensor  # (heads, frames, frames) added to the logits of attention over time


class FrameNorm(nn.GroupNorm):
    """Group normalisation of ``(batch * frames, c, h, w)`` over all frames of a sample."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__(GROUPS, channels)
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "(b frames) c h w -> b c frames h w", frames=self.frames)
        return rearrange(super().forward(x), "b c frames h w -> (b frames) c h w")


class ConvolutionPair(nn.Module):
    """Two convolutions with normalisation behind each; the first is shifted and scaled."""

    def __init__(self, channels_in: int, channels: int, embedding: int | None, frames: int) -> None:
        super().__init__()
        self.modulation = None if embedding is None else nn.Linear(embedding, 2 * channels)
        self.convolution_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm_in = FrameNorm(channels, frames)
        self.convolution_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out = FrameNorm(channels, frames)
        same = channels_in == channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        y = self.norm_in(self.convolution_in(x))
        if self.modulation is not None:
            scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        y = F.silu(self.norm_out(self.convolution_out(F.silu(y))))
        return y + self.skip(x)


class TokenAttention(nn.Module):
    """What the kinds of attention share: queries, keys and values, those of tokens first."""

    def __init__(self, channels: int, head: int, tokens: int | None, bias: bool = False) -> None:
        super().__init__()
        inner = HEADS * head
        self.norm = nn.LayerNorm(channels, bias=False)
        self.query_key_value = nn.Linear(channels, 3 * inner, bias=False)
        self.token_key_value = None if tokens is None else nn.Linear(tokens, 2 * inner, bias=False)
        self.out = nn.Linear(inner, channels, bias=bias)

    def project(self, x: Tensor) -> list[Tensor]:
        """Return query, key and value ``(sets, heads, positions, c)`` of x, which has no heads."""
        return _heads(self.query_key_value(self.norm(x)), 3)

    def project_tokens(self, tokens: Tensor) -> list[Tensor]:
        """Return key and value of tokens ``(groups, tokens, embedding)``."""
        assert self.token_key_value is not None
        return _heads(self.token_key_value(tokens), 2)


class LinearAttention(TokenAttention):
    """Attention over the pixels of a frame and all tokens, linear in their number.

    Features of queries, and positions of keys, have a softmax each (Shen et al. 2021,
    arXiv:1812.01243).
    """

    def __init__(self, channels: int, head: int, tokens: int) -> None:
        super().__init__(channels, head, tokens, bias=True)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Return what is added to ``x`` ``(batch * frames, pixels, channels)``."""
        query, key, value = self.project(x)
        frames = len(x) // len(tokens)
        token_key, token_value = (_repeat(t, frames) for t in self.project_tokens(tokens))
        key = torch.cat([token_key, key], dim=2).softmax(dim=2)
        value = torch.cat([token_value, value], dim=2) / x.shape[1]
        query = query.softmax(dim=3) * query.shape[3] ** -0.5
        return self.out(_joined(query @ (key.transpose(2, 3) @ value)))


class FrameAttention(TokenAttention):
    """Attention over the pixels of a frame and its own token."""

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Return what is added to ``x`` ``(batch * frames, pixels, channels)``."""
        query, key, value = self.project(x)
        own = rearrange(tokens, "b steps c -> (b steps) 1 c")
        token_key, token_value = self.project_tokens(own)
        key, value = torch.cat([token_key, key], dim=2), torch.cat([token_value, value], dim=2)
        return self.out(_joined(attend(query, key, value)))


class TimeAttention(TokenAttention):
    """Attention over the frames of a pixel, and over the tokens as if each stood at its frame.

    Positions are told by rotation (Su et al. 2021, arXiv:2104.09864) and by a bias.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, channels: int, head: int, tokens: int | None, frames: int) -> None:
        super().__init__(channels, head, tokens)
        cosine, sine = rotation(frames, head)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def forward(self, x: Tensor, distance: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return what is added to ``x`` ``(batch * pixels, frames, channels)``."""
        query, key, value = self.project(x)
        query, key = self._rotated(query), self._rotated(key)
        if tokens is not None:
            pixels = len(x) // len(tokens)
            token_key, token_value = self.project_tokens(tokens)
            key = torch.cat([_repeat(self._rotated(token_key), pixels), key], dim=2)
            value = torch.cat([_repeat(token_value, pixels), value], dim=2)
            distance = torch.cat([distance, distance], dim=2)
        return self.out(_joined(attend(query, key, value, distance)))

    def _rotated(self, x: Tensor) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        return (x * self.cosine + turned * self.sine).to(x.dtype)


class Level(nn.Module):
    """The layers of one resolution on the way down or up, and the step to the next one."""

    def __init__(
        self, channels_in: int, channels: int, head: int, embedding: int, frames: int, step: str
    ) -> None:
        super().__init__()
        self.frames = frames
        self.first = ConvolutionPair(channels_in, channels, embedding, frames)
        self.second = ConvolutionPair(channels, channels, embedding, frames)
        self.space = LinearAttention(channels, head, embedding)
        self.time = TimeAttention(channels, head, embedding, frames)
        kinds = {"down": nn.Conv2d, "up": nn.ConvTranspose2d}
        self.step = kinds[step](channels, channels, 4, 2, 1) if step in kinds else nn.Identity()

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """Return the features ``(batch * frames, channels, h, w)`` before the step."""
        x = self.first(x, condition.embedding)
        x = self.second(x, condition.embedding)
        x = _over_pixels(self.space, x, condition.tokens)
        return _over_frames(self.time, x, self.frames, condition.distance, condition.tokens)


class PublishedNetwork(nn.Module):
    """Map a noisy state, its noise level and a stress curve to the noise.

    Parameters
    ----------
    layout
        Channels of a state: no static ones.
    steps
        Number of stress tokens, as many as frames.
    channels
        Width of each level, the finest first; published: 64, 128, 256, 512.
    head
        Width of an attention head; published: 32.
    """

    buckets: Tensor
    frequencies: Tensor

    def __init__(
        self,
        layout: Layout,
        steps: int = 11,
        channels: Sequence[int] = (64, 128, 256, 512),
        head: int = 32,
    ) -> None:
        super().__init__()
        if layout.static or layout.frames != steps:
            raise ValueError("the published network has no static channels and a token per frame")
        self.layout = layout
        frames, finest = layout.frames, channels[0]
        embedding = 4 * finest
        half = finest // 2
        frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("buckets", distance_buckets(frames), persistent=False)

        self.level = nn.Sequential(
            nn.Linear(finest, embedding), nn.GELU(), nn.Linear(embedding, embedding)
        )
        self.stress = nn.Linear(1, embedding)
        self.curve = nn.Sequential(
            nn.LayerNorm(embedding),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        self.no_tokens = nn.Parameter(torch.randn(steps, embedding))
        self.no_curve = nn.Parameter(torch.randn(embedding))
        self.distance = nn.Embedding(BUCKETS, HEADS)

        self.stem = nn.Conv2d(layout.fields, finest, 7, padding=3)
        self.stem_time = TimeAttention(finest, head, None, frames)
        sizes = {"head": head, "embedding": embedding, "frames": frames}
        widths = list(pairwise([finest, *channels]))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for number, (narrow, wide) in enumerate(widths):
            step = "down" if number + 1 < len(widths) else "none"
            self.down.append(Level(narrow, wide, step=step, **sizes))
        for number, (narrow, wide) in enumerate(reversed(widths)):
            step = "up" if number + 1 < len(widths) else "none"
            self.up.append(Level(2 * wide, narrow, step=step, **sizes))
        coarsest = channels[-1]
        self.middle_first = ConvolutionPair(coarsest, coarsest, embedding, frames)
        self.middle_space = FrameAttention(coarsest, head, embedding)
        self.middle_time = TimeAttention(coarsest, head, embedding, frames)
        self.middle_second = ConvolutionPair(coarsest, coarsest, embedding, frames)
        self.last = ConvolutionPair(2 * finest, finest, None, frames)
        self.head = nn.Conv2d(finest, layout.fields, 1)

    def condition(self, level: Tensor, stress: Tensor, known: Tensor) -> Condition:
        """Return what the layers are told.

        Parameters
        ----------
        level
            ``(batch,)`` number of the noise level, from 0 to 255, also between two of them.
        stress
            ``(batch, steps)`` scaled to [-1, 1] over the training set.
        known
            ``(batch, steps)`` bool. The network knows whole curves alone: one that isn't known
            everywhere is the null condition of classifier-free guidance.
        """
        frames, whole = self.layout.frames, known.all(dim=1)
        tokens = self.stress(stress[..., None])
        curve = self.curve(tokens.mean(dim=1))
        tokens = torch.where(whole[:, None, None], tokens, self.no_tokens.to(tokens.dtype))
        curve = torch.where(whole[:, None], curve, self.no_curve.to(curve.dtype))
        angles = level[:, None] * self.frequencies
        embedding = self.level(torch.cat([angles.sin(), angles.cos()], dim=1)) + curve
        embedding = repeat(F.silu(embedding), "b c -> (b frames) c", frames=frames)
        distance = rearrange(self.distance(self.buckets), "to_frame frame h -> h to_frame frame")
        return Condition(embedding, tokens, distance)

    def forward(self, x: Tensor, level: Tensor, stress: Tensor, known: Tensor) -> Tensor:
        """Return the noise in ``x``.

        Parameters
        ----------
        x
            ``(batch, layout.channels, h, w)`` state of unit variance.
        level, stress, known
            See :meth:`condition`.
        """
        batch, frames = len(x), self.layout.frames
        condition = self.condition(level, stress, known)
        y = rearrange(self.layout.split(x)[1], "b frames c h w -> (b frames) c h w")
        y = first = _over_frames(self.stem_time, self.stem(y), frames, condition.distance)
        skips = []
        for level_down in _levels(self.down):
            y = level_down(y, condition)
            skips.append(y)
            y = level_down.step(y)
        y = self.middle_first(y, condition.embedding)
        y = _over_pixels(self.middle_space, y, condition.tokens)
        y = _over_frames(self.middle_time, y, frames, condition.distance, condition.tokens)
        y = self.middle_second(y, condition.embedding)
        for level_up in _levels(self.up):
            y = level_up(torch.cat([y, skips.pop()], dim=1), condition)
            y = level_up.step(y)
        y = self.head(self.last(torch.cat([y, first], dim=1)))
        y = rearrange(y, "(b frames) c h w -> b frames c h w", b=batch)
        return self.layout.join(x[:, :0], y)


def rotation(frames: int, head: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine ``(frames, head)`` by which pairs of features are turned.

    The first 32 features are, each pair slower than the one before it.
    """
    turned = min(32, head)
    speed = 10_000.0 ** (-torch.arange(0, turned, 2) / turned)
    angles = torch.arange(frames)[:, None] * speed.repeat_interleave(2)
    angles = F.pad(angles, (0, head - turned))
    return angles.cos(), angles.sin()


def distance_buckets(frames: int) -> Tensor:
    """Return which bias belongs to a frame that looks at another, ``(frames, frames)``.

    Distances are told apart up to 8 frames, beyond by their logarithm (Raffel et al. 2020,
    arXiv:1910.10683).
    """
    behind = torch.arange(frames)[:, None] - torch.arange(frames)
    far = torch.log(behind.abs().clamp(min=1) / NEAR) / math.log(FAR / NEAR)
    coarse = (NEAR + (far * NEAR).long()).clamp(max=BUCKETS // 2 - 1)
    bucket = torch.where(behind.abs() < NEAR, behind.abs(), coarse)
    return bucket + BUCKETS // 2 * (behind < 0)


def _levels(levels: nn.ModuleList) -> Iterable[Level]:
    return cast(Iterable[Level], levels)


def _over_pixels(attention: nn.Module, x: Tensor, tokens: Tensor) -> Tensor:
    """Add attention within each frame to ``(batch * frames, c, h, w)``."""
    pixels = rearrange(x, "frame c h w -> frame (h w) c")
    added = rearrange(attention(pixels, tokens), "f (h w) c -> f c h w", h=x.shape[2])
    return x + added


def _over_frames(
    attention: nn.Module, x: Tensor, frames: int, distance: Tensor, tokens: Tensor | None = None
) -> Tensor:
    """Add attention along each pixel to ``(batch * frames, c, h, w)``."""
    sizes = {"h": x.shape[2], "w": x.shape[3]}
    steps = rearrange(x, "(b frames) c h w -> (b h w) frames c", frames=frames)
    added = attention(steps, distance, tokens)
    return x + rearrange(added, "(b h w) frames c -> (b frames) c h w", **sizes)


def _heads(x: Tensor, parts: int) -> list[Tensor]:
    """Split ``(sets, positions, parts * heads * c)``."""
    pattern = "sets positions (parts heads c) -> parts sets heads positions c"
    return list(rearrange(x, pattern, parts=parts, heads=HEADS).unbind())


def _joined(x: Tensor) -> Tensor:
    return rearrange(x, "sets heads positions c -> sets positions (heads c)")


def _repeat(x: Tensor, times: int) -> Tensor:
    """Give what belongs to a group of sets to each of them."""
    return repeat(x, "groups heads tokens c -> (groups times) heads tokens c", times=times)
