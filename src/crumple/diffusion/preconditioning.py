"""Preconditioning and loss of the denoiser (Karras et al. 2022, arXiv:2206.00364).

A state is scaled so that each of its channels has root mean square ``SIGMA_DATA``; noise of
standard deviation sigma is added to it, and the denoiser D estimates the clean state. Static
channels may be given: then they are clean, their noise level is 0, and D is the forward model from
a design to its fields (two noise levels of which one is 0; UniDiffuser, Bao et al. 2023,
arXiv:2303.06555).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from crumple.diffusion.network import Network
    from crumple.diffusion.quarter_networks import QuarterDenoiser

SIGMA_DATA = 0.5


def coefficients(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return c_skip, c_out, c_in and c_noise at the noise levels ``sigma`` (their table 1).

    At level 0, c_skip is 1 and c_out is 0: what is known stays as it is.
    """
    variance = sigma**2 + SIGMA_DATA**2
    return (
        SIGMA_DATA**2 / variance,
        sigma * SIGMA_DATA / variance.sqrt(),
        1 / variance.sqrt(),
        sigma.log() / 4,
    )


class Denoiser(nn.Module):
    """D(x; sigma, curve) = c_skip x + c_out F(c_in x, c_noise, curve) (their eq. 7).

    Static channels of D are made mirror-symmetric, which the clean ones are.
    """

    def __init__(self, network: Network | QuarterDenoiser) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        stress: Tensor,
        known: Tensor,
        given: Tensor | None = None,
    ) -> Tensor:
        """Estimate the clean state.

        Parameters
        ----------
        x
            ``(batch, channels, h, w)`` noisy state.
        sigma
            ``(batch,)`` its noise level.
        stress, known
            ``(batch, steps)``, see :meth:`crumple.diffusion.network.Network.tokens`.
        given
            ``(batch,)`` bool; where true the static channels of ``x`` have no noise. By default
            nowhere.
        """
        noise = coefficients(sigma)[3]
        condition = (stress, known) if given is None else (stress, known, given)
        levels = sigma[:, None] if given is None else self.network.layout.levels(sigma, given)
        skip, out, scale, _ = (c[..., None, None] for c in coefficients(levels))
        denoised = skip * x + out * self.network(scale * x, noise, *condition).to(x.dtype)
        return self.network.layout.mirrored(denoised)


def denoising_loss(
    denoiser: nn.Module,
    x: Tensor,
    noise: Tensor,
    sigma: Tensor,
    stress: Tensor,
    known: Tensor,
    channel_weights: Tensor,
    given: Tensor | None = None,
) -> Tensor:
    """Return the loss of each sample, ``(batch,)`` (their eq. 2 and table 1).

    The weight (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 makes the loss of an untrained
    network 1 at every noise level.

    Parameters
    ----------
    denoiser
        A :class:`Denoiser`, or a wrapper of one that is called alike.
    x
        ``(batch, channels, h, w)`` clean state.
    noise
        Of the shape of ``x``, see :meth:`crumple.diffusion.network.Layout.noise`; 0 in static
        channels that are given.
    sigma
        ``(batch,)`` noise level.
    stress, known
        ``(batch, steps)`` condition.
    channel_weights
        ``(channels,)`` or ``(batch, channels)``, see
        :meth:`crumple.diffusion.network.Layout.weights`.
    given
        ``(batch,)`` bool, see :meth:`Denoiser.forward`.
    """
    condition = (stress, known) if given is None else (stress, known, given)
    denoised = denoiser(x + sigma[:, None, None, None] * noise, sigma, *condition)
    per_channel = (denoised - x).square().mean(dim=(2, 3))
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    return weight * (per_channel * channel_weights).sum(dim=1)
