"""The denoising network: a U-Net over space, attention over the strain steps.

Frames are folded into the batch, so that every convolution is two-dimensional (factored
space-time, Ho et al. 2022, arXiv:2204.03458; paper 4.3-4.5). The stress of a strain step is one
token: its own frame sees it in space and all frames see it in time.

The cell is periodic in x, hence circular padding. Designs are mirror-symmetric about x = 0, 1/2
and 1, so the network is told where the mirror axes are by features of period 1/2, which leaves
half-period shifts an exact symmetry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Layout:
    """What the channels of a state ``(batch, channels, 96, 96)`` are.

    First the static channels (the solid mask, once per sample), then for every frame its fields.
    A design is mirrored about x = 1/2 and y = 1/2, so that a static channel is one quarter and its
    mirror images; the fields are not, because a cell may buckle to either side.
    """

    static: int
    frames: int
    fields: int

    @property
    def channels(self) -> int:
        """Number of channels of a state."""
        return self.static + self.frames * self.fields

    def weights(self, given: bool = False) -> Tensor:
        """Return the weight of each channel in the loss, ``(channels,)``; the sum is 1.

        A static channel counts once per frame that it is shown to, else the design would be one
        channel in 34. A design that is ``given`` doesn't count.
        """
        weights = torch.ones(self.channels)
        weights[: self.static] = 0 if given else self.frames
        return weights / weights.sum()

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split a state into ``(batch, static, h, w)`` and ``(batch, frames, fields, h, w)``."""
        static, fields = x.split([self.static, self.frames * self.fields], dim=1)
        return static, rearrange(fields, "b (frames c) h w -> b frames c h w", frames=self.frames)

    def join(self, static: Tensor, fields: Tensor) -> Tensor:
        """Inverse of :meth:`split`."""
        return torch.cat([static, rearrange(fields, "b frames c h w -> b (frames c) h w")], dim=1)

    def levels(self, sigma: Tensor, given: Tensor) -> Tensor:
        """Return the noise level of each channel, ``(batch, channels)``.

        Parameters
        ----------
        sigma
            ``(batch,)`` noise level.
        given
            ``(batch,)`` bool; where true the static channels are the clean design: level 0.
        """
        static = torch.arange(self.channels, device=sigma.device) < self.static
        return sigma[:, None].where(~(given[:, None] & static), 0.0)

    def mirrored(self, x: Tensor) -> Tensor:
        """Replace the static channels of a state by the mean of their four mirror images."""
        static, fields = self.split(x)
        static = (static + static.flip(-1)) / 2
        static = (static + static.flip(-2)) / 2
        return self.join(static, fields)

    def noise(self, size: int, seed: int, device: torch.device) -> Tensor:
        """Return standard normal noise ``(channels, size, size)`` of one sample.

        The noise of a static channel is that of its quarter, mirrored like the design: so are all
        states, and the denoiser (:class:`crumple.diffusion.preconditioning.Denoiser`) keeps them
        so. Independent noise would reveal a pixel four times.

        Parameters
        ----------
        size
            Pixels along each side.
        seed
            The result depends on it and on the kind of device alone.
        device
            Where the noise is drawn.
        """
        generator = torch.Generator(device).manual_seed(seed)
        noise = torch.randn((self.channels, size, size), generator=generator, device=device)
        quarter = noise[: self.static, : size // 2, : size // 2]
        half = torch.cat([quarter, quarter.flip(-1)], dim=-1)
        noise[: self.static] = torch.cat([half, half.flip(-2)], dim=-2)
        return noise


class Convolution(nn.Module):
    """3x3 convolution, circular in x (last axis), zero-padded in y."""

    def __init__(self, channels_in: int, channels_out: int, zero: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, padding=(1, 0))
        if zero:
            nn.init.zeros_(self.convolution.weight)
            nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(torch.cat([x[..., -1:], x, x[..., :1]], dim=-1))


class ResidualBlock(nn.Module):
    """Two convolutions; the second normalisation is shifted and scaled per frame (FiLM)."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.norm_in = _norm(channels_in)
        self.convolution_in = Convolution(channels_in, channels_out)
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.norm_out = _norm(channels_out)
        self.convolution_out = Convolution(channels_out, channels_out, zero=True)
        self.skip = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        y = self.convolution_in(F.silu(self.norm_in(x)))
        y = self.norm_out(y) * (1 + scale) + shift
        return self.skip(x) + self.convolution_out(F.silu(y))


SHARED = "groups heads tokens c -> (groups repeats) heads tokens c"


class Attention(nn.Module):
    """Self-attention over a set of positions, with stress tokens as extra keys and values.

    Queries and keys are normalised (Henry et al. 2020, arXiv:2010.04245).
    """

    def __init__(self, channels: int, embedding: int, head: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head)
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.token_key_value = nn.Linear(embedding, 2 * channels)
        self.norm_query = nn.LayerNorm(channels // self.heads, bias=False)
        self.norm_key = nn.LayerNorm(channels // self.heads, bias=False)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, tokens: Tensor, place: Tensor | None = None) -> Tensor:
        """Return what the attention adds to ``x``.

        Parameters
        ----------
        x
            ``(sets, positions, channels)``.
        tokens
            ``(groups, tokens, embedding)``; ``sets`` is a multiple of ``groups``, and consecutive
            sets share the tokens of their group.
        place
            ``(positions, channels)`` added to the normalised input to tell positions apart.
        """
        normalised = self.norm(x)
        if place is not None:
            normalised = normalised + place
        query, key, value = self._heads(self.query_key_value(normalised), 3)
        token_key, token_value = self._heads(self.token_key_value(tokens), 2)
        repeats = len(x) // len(tokens)
        key = torch.cat([key, repeat(token_key, SHARED, repeats=repeats)], dim=2)
        value = torch.cat([value, repeat(token_value, SHARED, repeats=repeats)], dim=2)
        mixed = attend(self.norm_query(query), self.norm_key(key), value)
        return self.out(rearrange(mixed, "sets heads positions c -> sets positions (heads c)"))

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """Split ``(sets, positions, parts * channels)``, of each part and head."""
        pattern = "sets positions (parts heads c) -> parts sets heads positions c"
        return rearrange(x, pattern, parts=parts, heads=self.heads)


class Block(nn.Module):
    """Residual block, then attention over the pixels of a frame and over the frames of a pixel."""

    def __init__(
        self, channels_in: int, channels: int, embedding: int, head: int, spatial: bool, frames: int
    ) -> None:
        super().__init__()
        self.frames = frames
        self.residual = ResidualBlock(channels_in, channels, embedding)
        self.spatial = Attention(channels, embedding, head) if spatial else None
        self.temporal = Attention(channels, embedding, head) if frames > 1 else None
        self.place = nn.Parameter(0.02 * torch.randn(frames, channels)) if frames > 1 else None

    def forward(
        self, x: Tensor, embedding: Tensor, own_tokens: Tensor, all_tokens: Tensor
    ) -> Tensor:
        x = self.residual(x, embedding)
        sizes = {"h": x.shape[-2], "w": x.shape[-1]}
        if self.spatial is not None:
            pixels = rearrange(x, "frame c h w -> frame (h w) c")
            pixels = pixels + self.spatial(pixels, own_tokens)
            x = rearrange(pixels, "frame (h w) c -> frame c h w", **sizes)
        if self.temporal is not None:
            steps = rearrange(x, "(b frames) c h w -> (b h w) frames c", frames=self.frames)
            steps = steps + self.temporal(steps, all_tokens, self.place)
            x = rearrange(steps, "(b h w) frames c -> (b frames) c h w", **sizes)
        return x.contiguous(memory_format=torch.channels_last)


class Network(nn.Module):
    """Map a noisy state, its noise level and a stress curve to a state of the same shape.

    Parameters
    ----------
    layout
        Channels of a state.
    steps
        Number of stress tokens (strain steps of the curve).
    channels, depths
        Width and number of blocks of each level, the finest first; a level halves the resolution.
    patch
        Side of the pixel patches that the first convolution sees as one position.
    embedding
        Width of tokens and of the noise embedding.
    head
        Width of an attention head.
    spatial_attention
        Attention over pixels where there are at most so many per side.
    per_frame
        Whether a frame is shown its own strain step's token (needs as many frames as steps); else
        every frame is shown the whole curve, as in the paper's ablation S7.
    size
        Pixels along each side of the cell.
    """

    position: Tensor
    frequencies: Tensor

    def __init__(
        self,
        layout: Layout,
        steps: int = 11,
        channels: Sequence[int] = (128, 256, 384),
        depths: Sequence[int] = (1, 2, 2),
        patch: int = 2,
        embedding: int = 512,
        head: int = 64,
        spatial_attention: int = 24,
        per_frame: bool = True,
        size: int = 96,
    ) -> None:
        super().__init__()
        if per_frame and layout.frames != steps:
            raise ValueError("tokens per frame need as many frames as strain steps")
        self.layout = layout
        self.patch = patch
        self.per_frame = per_frame
        self.register_buffer("position", position_features(size), persistent=False)

        self.register_buffer("frequencies", _frequencies(embedding // 2), persistent=False)
        self.noise = nn.Sequential(
            nn.Linear(embedding // 2 * 2, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.stress = nn.Sequential(
            nn.Linear(2, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.unknown = nn.Parameter(torch.randn(embedding))
        self.given = nn.Parameter(torch.zeros(embedding))
        self.step = nn.Parameter(0.2 * torch.randn(steps, embedding))
        self.curve = nn.Linear(embedding, embedding)

        frame_channels = layout.static + layout.fields
        pixels = patch**2
        self.stem = Convolution((frame_channels + len(self.position)) * pixels, channels[0])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.coarsen, self.refine = nn.ModuleList(), nn.ModuleList()
        for level, (width, depth) in enumerate(zip(channels, depths, strict=True)):
            options = {
                "embedding": embedding,
                "head": head,
                "spatial": size // patch // 2**level <= spatial_attention,
                "frames": layout.frames,
            }
            self.down.append(nn.ModuleList(Block(width, width, **options) for _ in range(depth)))
            self.up.append(nn.ModuleList(Block(2 * width, width, **options) for _ in range(depth)))
            if level + 1 < len(channels):
                self.coarsen.append(nn.Conv2d(width, channels[level + 1], 2, stride=2))
                self.refine.append(nn.Conv2d(channels[level + 1], 4 * width, 1))
        self.norm = _norm(channels[0])
        self.head = Convolution(channels[0], 2 * frame_channels * pixels, zero=True)

    def tokens(self, stress: Tensor, known: Tensor) -> Tensor:
        """Return the stress tokens ``(batch, steps, embedding)``.

        Parameters
        ----------
        stress
            ``(batch, steps)`` stress, in units of its own root mean square over the training set.
        known
            ``(batch, steps)`` bool; where false the stress is not looked at. A curve that is
            unknown everywhere is the null condition of classifier-free guidance.
        """
        # Curves differ by factors of a hundred: the logarithmic feature resolves soft ones.
        features = torch.stack([stress, torch.asinh(30 * stress) / 4], dim=-1)
        embedded = self.stress(features.masked_fill(~known[..., None], 0))
        return torch.where(known[..., None], embedded, self.unknown) + self.step

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        stress: Tensor,
        known: Tensor,
        given: Tensor | None = None,
    ) -> Tensor:
        """Return a state of the shape of ``x``.

        Parameters
        ----------
        x
            ``(batch, layout.channels, size, size)``.
        noise
            ``(batch,)`` noise level in the form that the preconditioning gives.
        stress, known
            See :meth:`tokens`.
        given
            ``(batch,)`` bool; where true the static channels of ``x`` are a clean design. By
            default nowhere.
        """
        batch, frames = len(x), self.layout.frames
        tokens = self.tokens(stress, known)
        angles = noise[:, None] * self.frequencies
        embedding = self.noise(torch.cat([angles.cos(), angles.sin()], dim=1))
        embedding = embedding + self.curve(tokens.mean(dim=1))
        if given is not None:
            embedding = embedding + given[:, None] * self.given
        embedding = embedding[:, None]
        if self.per_frame:
            embedding = embedding + tokens
            own_tokens = rearrange(tokens, "b steps c -> (b steps) 1 c")
        else:
            embedding = repeat(embedding, "b 1 c -> b frames c", frames=frames)
            own_tokens = repeat(tokens, "b steps c -> (b frames) steps c", frames=frames)
        embedding = rearrange(F.silu(embedding), "b frames c -> (b frames) c")

        static, fields = self.layout.split(x)
        static = repeat(static, "b c h w -> b frames c h w", frames=frames)
        position = repeat(
            self.position.to(x.dtype), "c h w -> b frames c h w", b=batch, frames=frames
        )
        pixels = torch.cat([static, fields], dim=2)
        y = rearrange(torch.cat([pixels, position], dim=2), "b frames c h w -> (b frames) c h w")
        y = F.pixel_unshuffle(y, self.patch).contiguous(memory_format=torch.channels_last)
        y = self.stem(y)

        skips = []
        for level, blocks in enumerate(_levels(self.down)):
            for block in blocks:
                y = block(y, embedding, own_tokens, tokens)
                skips.append(y)
            if level < len(self.coarsen):
                y = self.coarsen[level](y)
        for level, blocks in reversed(list(enumerate(_levels(self.up)))):
            if level < len(self.refine):
                y = F.pixel_shuffle(self.refine[level](y), 2)
            for block in blocks:
                y = block(torch.cat([y, skips.pop()], dim=1), embedding, own_tokens, tokens)

        # What a denoiser returns is for the most part a multiple of the noise in each pixel, more
        # than the features of a patch can carry: the gate hands it on.
        y = F.pixel_shuffle(self.head(F.silu(self.norm(y))), self.patch)
        shift, gate = rearrange(y, "(b frames) (two c) h w -> two b frames c h w", b=batch, two=2)
        y = shift + gate * pixels
        static, fields = y.split([self.layout.static, self.layout.fields], dim=2)
        return self.layout.join(static.mean(dim=1), fields)


def _levels(blocks: nn.ModuleList) -> list[list[Block]]:
    """Return the blocks of each level."""
    return [list(cast(Iterable[Block], level)) for level in blocks]


def position_features(size: int) -> Tensor:
    """Return cos(4 pi x), sin(4 pi x), y in [-1, 1] at the pixel centres, ``(3, size, size)``."""
    half = torch.arange(size // 2, dtype=torch.float64).add(0.5) / size
    x = torch.cat([half, half])
    y = torch.arange(size, dtype=torch.float64).add(0.5) / size
    rows = torch.stack([torch.cos(4 * math.pi * x), torch.sin(4 * math.pi * x)])
    periodic = rows[:, None, :].expand(2, size, size)
    return torch.cat([periodic, (1 - 2 * y)[None, :, None].expand(1, size, size)]).float()


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + bias) v.

    On CPUs it is written out, because the fused kernel's backward pass takes 2 to 10 times as long
    for sets as small as these.
    """
    if query.device.type != "cpu":
        mask = bias if bias is None else bias.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, mask)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1) @ value


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels)


def _frequencies(count: int) -> Tensor:
    """Angular frequencies of the noise features: ln(sigma)/4 spans about [-1.2, 1.2]."""
    return torch.logspace(math.log10(0.5), math.log10(60.0), count)
