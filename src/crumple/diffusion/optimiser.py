"""Optimiser of all networks: Muon for their matrices, AdamW for what else they learn.

The momentum of a matrix is replaced by the orthogonal matrix next to it, so that directions that
few samples ask for are followed as far as the common ones (Jordan et al., Muon, 2024). A
convolution is a matrix from all that it sees to its channels. Steps are scaled to the size that
those of AdamW have (Liu et al., arXiv:2502.16982, eq. 4), so that both share a rate and a decay.

PyTorch's own Muon takes weights of two dimensions alone, and fp16 allows one optimiser per step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

# Of the odd polynomial a x + b x^3 + c x^5, which brings singular values near 1 in few iterations
# (Jordan et al.); it doesn't converge to 1, which training doesn't need.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95
SIZE = 0.2  # root mean square of the entries of a step of AdamW, in rates
BETAS = (0.9, 0.99)  # of AdamW
SMALLEST = 16  # rows and columns of a matrix; thinner ones have no directions to be equal in


class Muon(torch.optim.Optimizer):
    """Muon and AdamW in one optimiser, with one state and one rate.

    Parameters
    ----------
    network
        What is trained. Muon trains the weights of its linear layers and convolutions but for thin
        ones, AdamW the others. Weights of two and more dimensions decay.
    learning_rate
        Of both.
    weight_decay
        Of both.
    """

    def __init__(self, network: nn.Module, learning_rate: float, weight_decay: float) -> None:
        matrices = {id(weight) for weight in hidden_matrices(network)}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
        for weight in network.parameters():
            groups[id(weight) in matrices, weight.ndim > 1].append(weight)
        super().__init__(
            [
                {
                    "params": weights,
                    "orthogonal": orthogonal,
                    "weight_decay": weight_decay if decays else 0.0,
                }
                for (orthogonal, decays), weights in groups.items()
            ],
            {"lr": learning_rate},
        )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step of all weights that have a gradient."""
        if closure is not None:
            raise NotImplementedError("the loss is computed once, before the step")
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            move = self._orthogonal if group["orthogonal"] else self._adaptive
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            move(weights, group["lr"])
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; raise ValueError where it isn't one of this optimiser."""
        groups = [group.get("orthogonal") for group in state_dict["param_groups"]]
        if groups != [group["orthogonal"] for group in self.param_groups]:
            raise ValueError("it is the state of another optimiser")
        super().load_state_dict(state_dict)

    def _orthogonal(self, weights: list[Tensor], rate: float) -> None:
        """Move matrices; those of one shape together."""
        alike: dict[Any, list[Tensor]] = defaultdict(list)
        for weight in weights:
            alike[weight.flatten(1).shape, weight.device].append(weight)
        for (shape, _), same in alike.items():
            momenta = [self._state(weight, "momentum") for weight in same]
            gradients = [cast(Tensor, weight.grad) for weight in same]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
            moves = orthogonalised(torch.stack([one.flatten(1) for one in ahead]))
            for weight, move in zip(same, moves, strict=True):
                weight.add_(move.view(weight.shape), alpha=-rate * SIZE * max(shape) ** 0.5)

    def _adaptive(self, weights: list[Tensor], rate: float) -> None:
        """Move other weights."""
        for weight in weights:
            if "step" not in self.state[weight]:
                self.state[weight]["step"] = torch.zeros(())
        adamw(
            weights,
            [cast(Tensor, weight.grad) for weight in weights],
            [self._state(weight, "mean") for weight in weights],
            [self._state(weight, "square") for weight in weights],
            [],
            [self.state[weight]["step"] for weight in weights],
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=0.0,  # has been done
            eps=1e-8,
            maximize=False,
        )

    def _state(self, weight: Tensor, name: str) -> Tensor:
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(weight)
        return state[name]


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """Return the weights that Muon trains."""
    layers = (
        module
        for module in network.modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    )
    return [layer.weight for layer in layers if min(layer.weight.flatten(1).shape) >= SMALLEST]


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices ``(n, rows, columns)`` with all singular values brought near 1.

    Newton-Schulz iterations X <- (a + b X X^T + c (X X^T)^2) X. Only the small matrix X X^T takes
    part in them, and the product of the brackets is applied to X in the end.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    square = x @ x.mT
    a, b, c = QUINTIC
    unit = torch.eye(square.shape[-1], dtype=x.dtype, device=x.device)
    product = unit
    for _ in range(ITERATIONS):
        bracket = a * unit + b * square + c * square @ square
        product = bracket @ product
        square = bracket @ square @ bracket
    x = product @ x
    return x.mT if tall else x
