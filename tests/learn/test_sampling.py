"""Preconditioning, samplers and guidance against data whose ideal denoiser is known."""

import math

import pytest
import torch
from torch import nn

from crumple.diffusion import sampling
from crumple.diffusion.network import Layout
from crumple.diffusion.preconditioning import SIGMA_DATA, Denoiser, coefficients, denoising_loss

MEAN, DEVIATION = 0.7, 0.3  # of the Gaussian data
MODES, WIDTH = torch.tensor([-1.0, 0.5], dtype=torch.float64), 0.2  # of the mixture


def gaussian_denoiser(x, sigma):
    """E[x0 | x] when x0 ~ N(MEAN, DEVIATION^2)."""
    return (DEVIATION**2 * x + sigma**2 * MEAN) / (DEVIATION**2 + sigma**2)


def gaussian_flow(x, sigma, sigma_next):
    """Where the ODE takes a state from one level to another: it keeps its quantile."""
    return MEAN + (x - MEAN) * math.sqrt((DEVIATION**2 + sigma_next**2) / (DEVIATION**2 + sigma**2))


def mixture_denoiser(x, sigma):
    """E[x0 | x] for equal weights on two narrow modes."""
    variance = WIDTH**2 + sigma**2
    weight = torch.softmax(-((x[..., None] - MODES) ** 2) / (2 * variance), dim=-1)
    posterior = (WIDTH**2 * x[..., None] + sigma**2 * MODES) / variance
    return (weight * posterior).sum(-1)


def euler(denoise, x, sigmas):
    """The first-order method that the second-order ones have to beat."""
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x + (sigma_next - sigma) * (x - denoise(x, sigma)) / sigma
    return x


def start(sigma_max: float, count: int = 400) -> torch.Tensor:
    quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return MEAN + sigma_max * torch.special.ndtri(quantiles)[:, None, None, None]


def test_schedule():
    sigmas = sampling.karras_sigmas(5, 0.01, 80)
    assert sigmas[0] == pytest.approx(80) and sigmas[-2] == pytest.approx(0.01)
    assert sigmas[-1] == 0 and (sigmas.diff() < 0).all()


@pytest.mark.parametrize("sampler", sampling.SAMPLERS.values())
def test_gaussian_data_come_out_with_mean_and_variance(sampler):
    x = start(80.0)
    sample = sampler(gaussian_denoiser, x, sampling.karras_sigmas(40, 0.002, 80.0))
    assert sample.mean() == pytest.approx(MEAN, abs=2e-3)
    assert sample.std() == pytest.approx(DEVIATION, rel=0.02)
    wrong = sampler(
        lambda x, s: 0.9 * gaussian_denoiser(x, s), x, sampling.karras_sigmas(40, 0.002, 80.0)
    )
    assert abs(wrong.mean() - MEAN) > 0.05


def order(sampler, denoise) -> float:
    """Slope of the error over the number of steps, between 64 and 512 steps.

    The last level is well above zero, so that the final jump isn't part of it.
    """
    sigma_max, sigma_min = 10.0, 0.1
    x = start(sigma_max, 50)

    def end(steps):
        sigmas = torch.linspace(math.log(sigma_max), math.log(sigma_min), steps + 1).double().exp()
        return sampler(denoise, x, sigmas)

    exact = end(8192)
    errors = [(end(steps) - exact).abs().max().item() for steps in (64, 512)]
    return math.log(errors[0] / errors[1]) / math.log(8)


def test_the_flow_of_gaussian_data_is_known_in_closed_form():
    x, sigmas = start(10.0, 50), torch.linspace(10, 0.1, 4097).double()
    assert torch.allclose(
        sampling.heun(gaussian_denoiser, x, sigmas),
        gaussian_flow(x, 10.0, 0.1),
        atol=1e-4,
    )


@pytest.mark.parametrize("denoise", [gaussian_denoiser, mixture_denoiser])
@pytest.mark.parametrize(
    ("sampler", "expected"), [(euler, 1), (sampling.heun, 2), (sampling.dpmpp_2m, 2)]
)
def test_order_of_convergence(sampler, denoise, expected):
    assert order(sampler, denoise) == pytest.approx(expected, abs=0.25)


def test_the_cosine_schedule():
    """Its levels are tan of the angle that grows evenly, divided by that of the first angle."""
    sigmas = sampling.cosine_sigmas(256)
    angle = (torch.arange(257, dtype=torch.float64) / 256 + 0.008) / 1.008 * math.pi / 2
    kept = (angle.cos() / angle[0].cos()) ** 2
    exact = (1 / kept[1:] - 1).sqrt().flip(0)
    assert torch.allclose(sigmas[1:-1], exact[1:]) and sigmas[-1] == 0
    assert sigmas[0] == pytest.approx(100 * exact[1].item(), rel=1e-3)  # beta is at most 0.9999


def draws(count: int):
    """Noise of a step, the same in every call."""
    return lambda step: torch.randn(
        count, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(step)
    )


def test_ancestral_samples_of_gaussian_data_have_mean_and_variance():
    """Its posterior takes the estimate for certain; what it lacks in variance falls with steps."""
    noise, lacking = draws(40_000), []
    for steps in (16, 256):
        sigmas = sampling.cosine_sigmas(steps)
        x = noise(0) * sigmas[0]
        sample = sampling.ancestral(gaussian_denoiser, x, sigmas, noise)
        assert sample.mean() == pytest.approx(MEAN, abs=0.01)
        lacking.append(1 - sample.std().item() / DEVIATION)
        assert torch.equal(sample, sampling.ancestral(gaussian_denoiser, x, sigmas, noise))
    assert abs(lacking[1]) < 0.03 < abs(lacking[0])


def test_a_threshold_cuts_the_tail_off_and_scales_the_rest():
    x = torch.linspace(-0.5, 3.5, 101)[None, None, None].repeat(2, 1, 1, 1)
    x[1] *= 0.2
    clipped = sampling.thresholded(lambda x, sigma: x, 0.9)(x, torch.tensor(1.0))
    largest = x[0].abs().quantile(0.9)
    assert torch.allclose(clipped[0], x[0].clamp(max=largest) / largest)
    assert torch.equal(clipped[1], x[1])  # what is inside of [-1, 1] stays


def test_mixture_keeps_its_modes():
    sample = sampling.dpmpp_2m(
        mixture_denoiser, start(80.0) - MEAN, sampling.karras_sigmas(60, 0.002, 80.0)
    )
    upper = sample[sample > -0.25]
    assert len(upper) / sample.numel() == pytest.approx(0.5, abs=0.02)
    assert upper.mean() == pytest.approx(0.5, abs=0.02)
    assert upper.std() == pytest.approx(WIDTH, rel=0.1)


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_number_of_evaluations(name):
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return gaussian_denoiser(x, sigma)

    sampling.SAMPLERS[name](denoise, start(80.0), sampling.karras_sigmas(7, 0.01, 80.0))
    assert len(calls) == sampling.evaluations(name, 7)


class Ideal(nn.Module):
    """The network for which the preconditioned denoiser is that of Gaussian data."""

    layout = Layout(static=0, frames=1, fields=1)

    def forward(self, x, noise, stress, known):
        sigma = torch.exp(4 * noise)[:, None, None, None]
        skip, out, scale, _ = coefficients(sigma)
        return (gaussian_denoiser(x / scale, sigma) - skip * x / scale) / out


def test_preconditioning():
    sigma = torch.tensor([0.01, 0.5, 30.0], dtype=torch.float64)
    skip, out, scale, noise = coefficients(sigma)
    # Input and target of the network have unit variance whatever the level (their appendix B.6).
    assert torch.allclose(scale**2 * (sigma**2 + SIGMA_DATA**2), torch.ones(3).double())
    target = ((1 - skip) ** 2 * SIGMA_DATA**2 + skip**2 * sigma**2) / out**2
    assert torch.allclose(target, torch.ones(3).double())
    # c_skip is the value for which the network's error is amplified least: d(c_out^2)/d(c_skip)=0.
    assert torch.allclose(skip * sigma**2, (1 - skip) * SIGMA_DATA**2)
    assert torch.allclose(noise, sigma.log() / 4)

    x = start(1.0, 3)
    denoised = Denoiser(Ideal())(x, sigma, None, None)
    for i, level in enumerate(sigma):
        assert torch.allclose(denoised[i], gaussian_denoiser(x[i], level))


def test_states_stay_mirrored_as_designs_are():
    layout = Layout(static=1, frames=2, fields=1)

    class Identity(nn.Module):
        def forward(self, x, noise, stress, known):
            return x

    network = Identity()
    network.layout = layout
    draws = torch.stack([layout.noise(32, seed, torch.device("cpu")) for seed in range(200)])
    mask = draws[:, 0]
    assert torch.equal(mask, mask.flip(-1))
    assert torch.equal(mask, mask.flip(-2))
    assert not torch.equal(draws[:, 1], draws[:, 1].flip(-1))
    assert draws.var(dim=(0, 2, 3)).numpy() == pytest.approx(1, abs=0.03)
    quarters = mask[:, :16, :16].flatten(1)
    assert abs((quarters[:, :-1] * quarters[:, 1:]).mean()) < 0.02

    x = torch.randn(3, layout.channels, 32, 32)
    denoised = Denoiser(network)(x, torch.ones(3), None, None)
    skip, out, scale, _ = coefficients(torch.ones(1))
    plain = (skip + out * scale) * x
    assert torch.allclose(denoised[:, 1:], plain[:, 1:])
    images = [plain[:, 0].flip(axes) for axes in ((), (-1,), (-2,), (-1, -2))]
    assert torch.allclose(denoised[:, 0], sum(images) / 4, atol=1e-6)


def test_a_given_design_is_clean_from_end_to_end():
    """Its noise level is 0 in what the network sees, in the estimate, and in the loss."""
    layout, seen = Layout(static=1, frames=2, fields=1), []

    class Watching(nn.Module):
        def forward(self, x, noise, stress, known, given):
            seen.append(x)
            return torch.ones_like(x)

    network = Watching()
    network.layout = layout
    torch.manual_seed(0)
    x = layout.mirrored(torch.randn(2, 3, 32, 32))
    noise, sigma = torch.randn(2, 3, 32, 32), torch.tensor([3.0, 3.0])
    noise[1, 0] = 0
    given = torch.tensor([False, True])
    denoiser, noisy = Denoiser(network), x + 3 * noise
    denoised = denoiser(noisy, sigma, None, None, given)
    skip, out, scale, _ = coefficients(sigma)
    assert torch.equal(seen[0][1, 0], x[1, 0] / SIGMA_DATA)
    assert torch.equal(denoised[1, 0], x[1, 0])
    assert torch.allclose(seen[0][:, 1:], scale[0] * noisy[:, 1:])
    assert torch.allclose(denoised[:, 1:], skip[0] * noisy[:, 1:] + out[0])
    assert torch.allclose(seen[0][0], scale[0] * noisy[0])
    assert not torch.allclose(denoised[0, 0], x[0, 0])

    weights = torch.stack([layout.weights(), layout.weights(given=True)])
    losses = denoising_loss(denoiser, x, noise, sigma, None, None, weights, given)
    errors = (denoised - x).square().mean(dim=(2, 3))
    weight = (9 + SIGMA_DATA**2) / (3 * SIGMA_DATA) ** 2
    assert losses[0] == pytest.approx(weight * (errors[0] @ layout.weights()).item())
    assert losses[1] == pytest.approx(weight * errors[1, 1:].mean().item())


@pytest.mark.parametrize("sampler", sampling.SAMPLERS.values())
def test_what_is_known_stays_as_it_is(sampler):
    """Conditional Gaussian: the field given the design is N(design, 0.3^2), whatever the noise."""

    def denoise(x, sigma):
        design, field = x[:, :1], x[:, 1:]
        return torch.cat([design, (0.09 * field + sigma**2 * design) / (0.09 + sigma**2)], dim=1)

    design = torch.tensor([-1.0, 2.0]).double().repeat_interleave(200)[:, None, None, None]
    quantiles = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    noise = 80 * torch.special.ndtri(quantiles).repeat(2)[:, None, None, None]
    sigmas = sampling.karras_sigmas(40, 0.002, 80.0)
    sample = sampler(denoise, torch.cat([design, noise], dim=1), sigmas)
    assert torch.allclose(sample[:, :1], design, rtol=1e-12)
    for values, mean in zip(sample[:, 1].reshape(2, 200), (-1.0, 2.0), strict=True):
        assert values.mean() == pytest.approx(mean, abs=0.01)
        assert values.std() == pytest.approx(0.3, rel=0.02)


class Zero(nn.Module):
    layout = Layout(static=0, frames=1, fields=1)

    def forward(self, x, noise, stress, known):
        return torch.zeros_like(x)


def test_untrained_loss_is_one_and_the_ideal_one_is_the_posterior_variance():
    torch.manual_seed(0)
    count = 4000
    noise = torch.randn(count, 1, 4, 4, dtype=torch.float64)
    weights = torch.ones(1, dtype=torch.float64)
    for level in (0.05, 0.5, 5.0):
        sigma = torch.full((count,), level, dtype=torch.float64)
        x = SIGMA_DATA * torch.randn(count, 1, 4, 4, dtype=torch.float64)
        loss = denoising_loss(Denoiser(Zero()), x, noise, sigma, None, None, weights)
        assert loss.mean() == pytest.approx(1, rel=0.02)

        x = MEAN + DEVIATION * torch.randn(count, 1, 4, 4, dtype=torch.float64)
        loss = denoising_loss(Denoiser(Ideal()), x, noise, sigma, None, None, weights).mean()
        weight = (level**2 + SIGMA_DATA**2) / (level * SIGMA_DATA) ** 2
        variance = 1 / (1 / DEVIATION**2 + 1 / level**2)
        assert loss == pytest.approx(weight * variance, rel=0.02)


class Conditional(nn.Module):
    """Ideal denoiser of N(m, 1) with m = stress where known, and N(0, 4) for the null curve."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x, sigma, stress, known):
        self.batches.append(len(x))
        sigma = sigma[:, None, None, None]
        mean = torch.where(known, stress, 0.0)[:, :1, None, None]
        variance = torch.where(known, 1.0, 4.0)[:, :1, None, None]
        return (variance * x + sigma**2 * mean) / (variance + sigma**2)


def test_guidance_combines_the_two_denoisers():
    model, x = Conditional(), start(2.0, 5)
    stress = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    known = torch.ones(5, 1, dtype=torch.bool)
    sigma = torch.tensor(1.5, dtype=torch.float64)
    levels = sigma.expand(5)
    conditional = model(x, levels, stress, known)
    null = model(x, levels, stress, ~known)
    model.batches.clear()
    for weight in (0.0, 1.0, 2.0):
        denoise = sampling.guided(model, stress, known, weight, (0.1, 10.0))
        assert torch.allclose(denoise(x, sigma), null + weight * (conditional - null))
    assert model.batches == [10, 5, 10]  # one doubled batch; none where it would change nothing
    outside = sampling.guided(model, stress, known, 2.0, (0.1, 1.0))
    assert torch.equal(outside(x, sigma), conditional)


def test_guided_samples_overshoot_towards_the_condition():
    """For Gaussians the guided score is exact: it pulls the mean beyond the condition."""
    x = start(80.0, 200) - MEAN
    stress = torch.full((200, 1), 1.0, dtype=torch.float64)
    known = torch.ones_like(stress, dtype=torch.bool)
    sigmas = sampling.karras_sigmas(60, 0.002, 80.0)
    means = []
    for weight in (1.0, 3.0):
        denoise = sampling.guided(Conditional(), stress, known, weight, (0.0, 100.0))
        means.append(sampling.dpmpp_2m(denoise, x, sigmas).mean().item())
    assert means[0] == pytest.approx(1, abs=0.02)
    assert means[1] > 1.1
