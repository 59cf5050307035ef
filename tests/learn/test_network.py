"""The network: shapes, exact symmetry, start at zero, what the frames and the tokens see."""

import pytest
import torch
from torch.nn import functional as F

from crumple.diffusion.network import Layout, Network, position_features
from crumple.diffusion.preconditioning import Denoiser, denoising_loss

STEPS = 4
SIZE = 32
SMALL = {"channels": (16, 32), "depths": (1, 1), "embedding": 32, "head": 16, "steps": STEPS}
SMALL |= {"size": SIZE, "spatial_attention": 8}


def make(layout: Layout, seed: int = 0, **options) -> Network:
    """A small double-precision network whose zero-initialised parts are random."""
    torch.manual_seed(seed)
    network = Network(layout, **(SMALL | options)).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def arguments(layout: Layout, batch: int = 2, seed: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [
        torch.randn(batch, layout.channels, SIZE, SIZE, dtype=torch.float64),
        torch.randn(batch, dtype=torch.float64) / 3,
        torch.rand(batch, STEPS, dtype=torch.float64),
        torch.ones(batch, STEPS, dtype=torch.bool),
        torch.tensor([False, True])[-batch:],
    ]


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        (Layout(static=1, frames=STEPS, fields=3), {}),
        (Layout(static=0, frames=STEPS, fields=2), {}),
        (Layout(static=1, frames=STEPS, fields=3), {"per_frame": False}),
        (Layout(static=1, frames=1, fields=3), {"per_frame": False}),
        (Layout(static=1, frames=1, fields=0), {"per_frame": False}),
        (Layout(static=1, frames=STEPS, fields=3), {"patch": 4}),
    ],
)
def test_output_has_the_shape_of_the_state(layout, options):
    network, inputs = make(layout, **options), arguments(layout)
    output = network(*inputs)
    assert output.shape == inputs[0].shape
    assert torch.isfinite(output).all()


def test_untrained_network_returns_zero_and_every_parameter_learns():
    layout = Layout(1, STEPS, 3)
    torch.manual_seed(0)
    network, inputs = Network(layout, **SMALL).double(), arguments(layout)
    assert torch.equal(network(*inputs), torch.zeros_like(inputs[0]))

    network = make(layout)
    inputs[3][0, 1] = False
    network(*inputs).square().sum().backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@pytest.mark.parametrize("patch", [2, 4])
def test_open_gates_hand_on_every_pixel(patch):
    layout = Layout(1, STEPS, 3)
    torch.manual_seed(0)
    network, inputs = Network(layout, **SMALL, patch=patch).double(), arguments(layout)
    bias = network.head.convolution.bias
    with torch.no_grad():
        bias[len(bias) // 2 :] = 1
    assert torch.allclose(network(*inputs), inputs[0])


@pytest.mark.parametrize("patch", [2, 4])
def test_half_period_shift_is_an_exact_symmetry(patch):
    layout = Layout(1, STEPS, 3)
    network, (x, *condition) = make(layout, patch=patch), arguments(layout)
    output = network(x, *condition)

    def error(shift):
        shifted = network(x.roll(shift, dims=-1), *condition)
        return (shifted - output.roll(shift, dims=-1)).norm() / output.norm()

    assert error(SIZE // 2) < 1e-12
    assert error(SIZE // 4) > 1e-3  # the mirror axes are where they are


def test_shifted_copies_would_teach_nothing():
    """Loss and gradient of a sample that is shifted with its noise are those of the sample."""
    layout = Layout(1, STEPS, 3)
    network, (x, noise_level, stress, known, given) = make(layout), arguments(layout)
    denoiser, sigma = Denoiser(network), torch.exp(4 * noise_level)
    noise = torch.randn_like(x)

    def gradient(shift):
        network.zero_grad()
        moved = [values.roll(shift, dims=-1) for values in (x, noise)]
        losses = denoising_loss(denoiser, *moved, sigma, stress, known, layout.weights(), given)
        losses.sum().backward()
        return torch.cat([losses.detach(), *(p.grad.flatten() for p in network.parameters())])

    plain, shifted, control = map(gradient, (0, SIZE // 2, SIZE // 4))
    assert (shifted - plain).norm() < 1e-9 * plain.norm()
    assert (control - plain).norm() > 1e-3 * plain.norm()


def test_a_given_design_is_told_by_a_vector_that_begins_at_zero():
    layout = Layout(1, STEPS, 3)
    network, (*inputs, given) = make(layout), arguments(layout)
    told, untold = network(*inputs, given), network(*inputs)
    assert torch.equal(told[0], untold[0]) and not torch.equal(told[1], untold[1])
    with torch.no_grad():
        network.given.zero_()
    assert torch.equal(network(*inputs, given), untold)
    torch.manual_seed(0)
    assert not Network(layout, **SMALL).given.any()


def test_shift_by_half_a_period_upwards_is_no_symmetry():
    layout = Layout(1, STEPS, 3)
    network, (x, *condition) = make(layout), arguments(layout)
    output = network(x, *condition).roll(SIZE // 2, dims=-2)
    shifted = network(x.roll(SIZE // 2, dims=-2), *condition)
    assert (shifted - output).norm() / output.norm() > 1e-3


def test_mirror_axes_show_in_the_position_features():
    cosine, sine, y = position_features(96)
    assert torch.equal(cosine, cosine.roll(48, dims=1))
    assert torch.allclose(cosine, cosine.flip(1), atol=1e-6)
    assert torch.allclose(sine, -sine.flip(1), atol=1e-6)
    assert y[0, 0] == pytest.approx(1 - 1 / 96)
    assert not torch.equal(cosine, cosine.roll(24, dims=1))


def test_frames_agree_on_the_one_mask():
    layout = Layout(static=1, frames=STEPS, fields=2)
    x = torch.randn(3, layout.channels, 8, 8)
    static, fields = layout.split(x)
    assert static.shape == (3, 1, 8, 8) and fields.shape == (3, STEPS, 2, 8, 8)
    assert torch.equal(fields[:, 1, 0], x[:, 3])
    assert torch.equal(layout.join(static, fields), x)
    weights, given = layout.weights(), layout.weights(given=True)
    assert weights.sum() == pytest.approx(1) and given.sum() == pytest.approx(1)
    assert weights[0] == pytest.approx(STEPS * weights[1].item())
    assert given[0] == 0 and torch.allclose(given[1:], given[1:].mean())


def test_a_frame_sees_its_own_token_and_in_time_all_tokens():
    layout = Layout(1, STEPS, 3)
    network, (x, noise, stress, known, _) = make(layout), arguments(layout, batch=1)
    other = stress.clone()
    other[:, 2] += 0.5
    change = network(x, noise, other, known) - network(x, noise, stress, known)
    per_frame = layout.split(change)[1].square().sum(dim=(0, 2, 3, 4))
    assert per_frame.argmax() == 2
    assert (per_frame > 0).all()


def test_unknown_stress_is_not_looked_at():
    layout = Layout(1, STEPS, 3)
    network, (x, noise, stress, known, _) = make(layout), arguments(layout)
    known[:, 1] = False
    other = stress.clone()
    other[:, 1] = 77.0
    assert torch.equal(network(x, noise, other, known), network(x, noise, stress, known))
    assert not torch.equal(
        network(x, noise, other, torch.ones_like(known)),
        network(x, noise, stress, torch.ones_like(known)),
    )


def test_written_out_attention_is_the_fused_one():
    from crumple.diffusion.network import attend

    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8, dtype=torch.float64) for n in (5, 9, 9))
    assert torch.allclose(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_tokens_per_frame_need_a_frame_each():
    with pytest.raises(ValueError, match="frames"):
        Network(Layout(1, 1, 3), **SMALL)
