"""A network that predicts noise at 256 levels as a denoiser, and its loss.

Ho et al. 2020 (arXiv:2006.11239) keep the variance of a state: x_t = (x + sigma n) / sqrt(1 +
sigma^2). What they call level t is a noise level sigma of the cosine schedule here (Nichol and
Dhariwal 2021, arXiv:2102.09672), so that all samplers and guidance work on the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crumple.diffusion.published_network import PublishedNetwork
from crumple.diffusion.sampling import cosine_sigmas

LEVELS = 256  # of the published training


class NoisePredictor(nn.Module):
    """D(x; sigma, curve) = x - sigma F(x / sqrt(1 + sigma^2), level, curve).

    Between two levels the network is told a number between theirs, by interpolation of ln sigma;
    beyond the first and the last one, theirs.
    """

    log_sigma: Tensor

    def __init__(self, network: PublishedNetwork) -> None:
        super().__init__()
        self.network = network
        rising = cosine_sigmas(LEVELS)[:-1].flip(0).log()
        self.register_buffer("log_sigma", rising, persistent=False)

    def level(self, sigma: Tensor) -> Tensor:
        """Return the numbers ``(batch,)``, 0 to 255, of noise levels."""
        logs = sigma.to(self.log_sigma).log()
        above = torch.searchsorted(self.log_sigma, logs).clamp(1, LEVELS - 1)
        low, high = self.log_sigma[above - 1], self.log_sigma[above]
        return (above - 1 + ((logs - low) / (high - low)).clamp(0, 1)).to(sigma.dtype)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        stress: Tensor,
        known: Tensor,
        given: Tensor | None = None,
    ) -> Tensor:
        """Estimate the clean state.

        Parameters as in :meth:`crumple.diffusion.preconditioning.Denoiser.forward`. A curve that
        isn't known everywhere counts as unknown, and no design is ever ``given``.
        """
        wide = sigma[:, None, None, None]
        noise = self.network(x / (1 + wide**2).sqrt(), self.level(sigma), stress, known)
        return x - wide * noise.to(x.dtype)


def noise_loss(
    denoiser: nn.Module,
    x: Tensor,
    noise: Tensor,
    sigma: Tensor,
    stress: Tensor,
    known: Tensor,
    channel_weights: Tensor,
    given: Tensor | None = None,
) -> Tensor:
    """Return the mean absolute error of the predicted noise of each sample, ``(batch,)``.

    It is that of the estimate of the clean state, divided by sigma. Parameters as in
    :func:`crumple.diffusion.preconditioning.denoising_loss`; no design is ever ``given``.
    """
    denoised = denoiser(x + sigma[:, None, None, None] * noise, sigma, stress, known)
    per_channel = (denoised - x).abs().mean(dim=(2, 3))
    return (per_channel * channel_weights).sum(dim=1) / sigma
