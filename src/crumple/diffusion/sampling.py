"""Samplers, noise schedules and guidance, as short pure functions.

A ``denoise`` function takes a state ``(batch, channels, h, w)`` and a noise level (a scalar
tensor) and returns the estimate of the clean state.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]  # standard normal noise of a step, of the shape of the state


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Return ``steps`` falling noise levels and a final zero (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    roots = sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))
    return torch.cat([roots**rho, torch.zeros(1, dtype=torch.float64)])


def cosine_sigmas(steps: int) -> Tensor:
    """Return ``steps`` falling noise levels and a final zero (Nichol and Dhariwal 2021, eq. 17).

    Their beta is at most 0.9999, which sets the first level: 16,427 with 256 of them.
    """
    signal = torch.linspace(0.008, 1.008, steps + 1, dtype=torch.float64) * math.pi / 2.016
    beta = (1 - (signal[1:].cos() / signal[:-1].cos()).square()).clamp(max=0.9999)
    kept = torch.cumprod(1 - beta, dim=0)
    return torch.cat([(1 / kept - 1).sqrt().flip(0), torch.zeros(1, dtype=torch.float64)])


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Integrate by Heun's second-order method (Karras et al. 2022, algorithm 1).

    Parameters
    ----------
    denoise
        See the module's first lines; called twice per step, once in the last one.
    x
        ``(batch, channels, h, w)`` state at noise level ``sigmas[0]``.
    sigmas
        ``(steps + 1,)`` falling noise levels, the last one 0.

    Returns
    -------
    Tensor
        Sample, of the shape of ``x``.
    """
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - denoise(x, sigma)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Integrate by DPM-Solver++(2M), second order with one evaluation per step.

    Lu et al. 2022 (arXiv:2211.01095), algorithm 2, written for noise levels: lambda = -ln sigma.
    Parameters and result as in :func:`heun`.
    """
    previous = previous_step = None
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        denoised = denoise(x, sigma)
        if sigma_next == 0:
            return denoised
        step = (sigma / sigma_next).log()
        estimate = denoised
        if previous is not None:
            ratio = previous_step / step
            estimate = denoised + (denoised - previous) / (2 * ratio)
        x = (sigma_next / sigma) * x - torch.expm1(-step) * estimate
        previous, previous_step = denoised, step
    return x


SAMPLERS = {"heun": heun, "dpmpp_2m": dpmpp_2m}  # of the probability-flow ODE


def ancestral(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """Sample the state of each level given the one before (Ho et al. 2020, algorithm 2).

    Their posterior (eq. 7) written for noise levels. Parameters and result as in :func:`heun`;
    ``noise`` is asked for steps 1, 2, and so on.
    """
    levels = zip(sigmas[:-1], sigmas[1:], strict=True)
    for step, (sigma, sigma_next) in enumerate(levels, start=1):
        kept = (sigma_next / sigma) ** 2
        denoised = denoise(x, sigma)
        x = denoised + kept * (x - denoised)
        if sigma_next > 0:
            x = x + sigma_next * (1 - kept).sqrt() * noise(step)
    return x


def evaluations(sampler: str, steps: int) -> int:
    """Return how often a sampler calls the denoiser."""
    return 2 * steps - 1 if sampler == "heun" else steps


def guided(
    denoiser: nn.Module,
    stress: Tensor,
    known: Tensor,
    weight: float,
    interval: tuple[float, float],
) -> Denoise:
    """Return a denoise function with classifier-free guidance.

    D = D_null + weight (D_curve - D_null), which is the published code's ``guidance_scale`` and
    1 + w of the paper's eq. 4: weight 1 is the plain conditional model. Guidance acts where the
    noise level is inside ``interval`` (Kynkäänniemi et al. 2024, arXiv:2404.07724), by one
    evaluation of twice the batch; elsewhere the conditional model is evaluated alone.

    Parameters
    ----------
    denoiser
        Called as ``denoiser(x, sigma (batch,), stress, known)``.
    stress, known
        ``(batch, steps)`` condition.
    weight
        Guidance weight.
    interval
        Noise levels between which guidance acts.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        levels = sigma.to(x).expand(len(x))
        if weight == 1 or not interval[0] <= sigma <= interval[1]:
            return denoiser(x, levels, stress, known)
        both = denoiser(
            torch.cat([x, x]),
            torch.cat([levels, levels]),
            torch.cat([stress, stress]),
            torch.cat([known, torch.zeros_like(known)]),
        )
        conditional, null = both.chunk(2)
        return null + weight * (conditional - null)

    return denoise


def thresholded(denoise: Denoise, quantile: float) -> Denoise:
    """Return a denoise function whose estimates lie in [-1, 1], as the data do.

    Beyond this ``quantile`` of its magnitudes an estimate is cut off, and then it is scaled to 1:
    dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487), as in the published sampler.
    """

    def clipped(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoise(x, sigma)
        rows = denoised.flatten(1).abs().float()  # one by one: torch limits how many it sorts
        largest = torch.stack([row.quantile(quantile) for row in rows]).clamp(min=1)
        largest = largest.to(denoised.dtype)[:, None, None, None]
        return denoised.clamp(-largest, largest) / largest

    return clipped
