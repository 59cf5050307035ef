"""The optimiser: its two rules, which weights follow which, and that it goes on from a state."""

import copy

import pytest
import torch
from torch import nn

from crumple.diffusion.optimiser import MOMENTUM, SIZE, Muon, orthogonalised


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(12, 20, 3, padding=1),
        nn.Flatten(),
        nn.Linear(20 * 16, 4),
    ).to(memory_format=torch.channels_last)


def push(model, seed=1):
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(x).square().mean().backward()


@pytest.mark.parametrize("shape", [(16, 50), (50, 16), (32, 32)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    torch.manual_seed(0)
    x = torch.randn(3, *shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ orthogonalised(x) @ v.mT
    values = inside.diagonal(dim1=1, dim2=2)
    assert 0.6 < values.min() < values.max() < 1.3
    assert (inside - torch.diag_embed(values)).abs().max() < 1e-10


def test_a_step_of_a_matrix_is_the_orthogonal_one_next_to_its_gradient():
    """Reference: the singular value decomposition, as far as the iterations come to it."""
    model = network()
    push(model)
    before, gradient = model[2].weight.detach().clone(), model[2].weight.grad.flatten(1)
    Muon(model, learning_rate=0.01, weight_decay=0.1).step()
    move = (model[2].weight.detach() - before * (1 - 0.01 * 0.1)).flatten(1)
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    wanted = -0.01 * SIZE * max(gradient.shape) ** 0.5 * u @ v
    assert nn.functional.cosine_similarity(move.flatten(), wanted.flatten(), dim=0) > 0.98
    assert move.norm().item() == pytest.approx(wanted.norm().item(), rel=0.15)
    down = -gradient  # a plain step is another one
    assert nn.functional.cosine_similarity(move.flatten(), down.flatten(), dim=0) < 0.9
    assert move.square().mean().sqrt().item() == pytest.approx(0.01 * SIZE, rel=0.15)


def test_matrices_follow_the_muon_of_torch():
    """Independent code, for two dimensions; its iterations are in bf16."""
    torch.manual_seed(0)
    ours = nn.Linear(60, 24, bias=False)
    theirs, start = copy.deepcopy(ours), ours.weight.detach().clone()
    muon = Muon(ours, learning_rate=0.01, weight_decay=0.1)
    reference = torch.optim.Muon(
        theirs.parameters(), lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        ours.weight.grad = torch.randn(24, 60)
        theirs.weight.grad = ours.weight.grad.clone()
        muon.step()
        reference.step()
    moved = (theirs.weight - start).norm()
    assert (ours.weight - theirs.weight).norm() < 0.02 * moved
    assert moved > 0.01


def test_other_weights_follow_adamw():
    """Reference: torch's own, on the thin convolution, the thin layer and the biases."""
    ours, theirs = network(), network()
    muon = Muon(ours, learning_rate=0.01, weight_decay=0.1)
    adamw = torch.optim.AdamW(
        [
            {"params": [theirs[0].weight, theirs[2].weight, theirs[4].weight]},
            {"params": [theirs[0].bias, theirs[2].bias, theirs[4].bias], "weight_decay": 0.0},
        ],
        lr=0.01,
        weight_decay=0.1,
        betas=(0.9, 0.99),
    )
    for seed in range(4):
        push(ours, seed)
        for name, weight in theirs.named_parameters():
            weight.grad = ours.get_parameter(name).grad.clone()
        muon.step()
        adamw.step()
    for name, weight in theirs.named_parameters():
        same = torch.allclose(ours.get_parameter(name), weight, rtol=1e-5, atol=1e-7)
        assert same == (name != "2.weight"), name


def test_the_momentum_looks_ahead():
    """Two steps against the rule written out; without Nesterov's step they'd be others."""
    model = network()
    optimiser = Muon(model, learning_rate=0.01, weight_decay=0.0)
    push(model, 0)
    first = model[2].weight.grad.flatten(1).clone()
    optimiser.step()
    push(model, 1)
    second, before = model[2].weight.grad.flatten(1).clone(), model[2].weight.detach().clone()
    optimiser.step()
    momentum = (1 - MOMENTUM) * (MOMENTUM * first + second)
    ahead = (1 - MOMENTUM) * second + MOMENTUM * momentum
    size = -0.01 * SIZE * max(first.shape) ** 0.5
    move = (model[2].weight.detach() - before).flatten(1)
    assert torch.allclose(move, size * orthogonalised(ahead[None])[0], atol=1e-6)
    assert not torch.allclose(move, size * orthogonalised(momentum[None])[0], atol=1e-6)


def test_training_goes_on_from_a_saved_state():
    one = network()
    optimiser = Muon(one, learning_rate=0.01, weight_decay=0.1)
    for seed in range(3):
        push(one, seed)
        optimiser.step()
    other = copy.deepcopy(one)
    again = Muon(other, learning_rate=0.5, weight_decay=0.0)
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for model, its in ((one, optimiser), (other, again)):
        push(model, 3)
        its.step()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_without_a_gradient_stay():
    model = network()
    model[2].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    push(model)
    Muon(model, learning_rate=0.01, weight_decay=0.1).step()
    moved = {name for name, w in model.state_dict().items() if not torch.equal(w, before[name])}
    assert moved == {"0.weight", "0.bias", "4.weight", "4.bias"}


def test_the_state_of_another_optimiser_is_refused():
    """One of as many groups: it would be taken for ours, and its moments for other weights'."""
    model = network()
    groups = [{"params": list(layer.parameters())} for layer in (model[0], model[2], model[4])]
    muon = Muon(model, learning_rate=0.01, weight_decay=0.1)
    assert len(groups) == len(muon.param_groups)
    with pytest.raises(ValueError, match="another optimiser"):
        muon.load_state_dict(torch.optim.AdamW(groups).state_dict())
