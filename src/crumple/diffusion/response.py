"""Forward model: from a design to its stress-strain curve, by an ensemble of small networks.

A candidate is judged by the curve of the design that would be simulated, predicted without a look
at the target, so that a prediction cannot flatter. The members start from other weights and see
the designs in another order; their spread says how sure they are. A half-period shift of the cell,
which mirrors its quarter from left to right, changes no curve: training draws it, and a prediction
is the mean over both.

``response.safetensors`` holds the weights of all members, ``response.json`` what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from pydantic import PositiveFloat
from torch import Tensor, nn

from crumple import seeds
from crumple.config import Config, Response
from crumple.diffusion import training
from crumple.diffusion.pairs import Pairs, read_pairs
from crumple.diffusion.quarter_networks import QuarterRegressor
from crumple.diffusion.quarters import encode_quarters
from crumple.diffusion.weights import Description, load_weights, read_description, save_weights
from crumple.layout import CURVE_STRAIN
from crumple.metrics import frame_stress, nrmse

STEPS = len(CURVE_STRAIN) - 1  # all but the unstrained one, where the stress is zero
SOFT = 0.05  # MPa; below it the scale of the networks' output is linear, above it logarithmic
ADVICE = "train it again with `crumple train-response`"


class ResponseDescription(Description):
    """Content of ``response.json``; there may be more."""

    format: Literal["crumple-response"]
    response: Response
    mean: list[float]
    deviation: list[PositiveFloat]


class Prediction(NamedTuple):
    """Curves of designs."""

    stress: NDArray  # (n, 51) MPa at CURVE_STRAIN
    spread: NDArray  # (n, 51) MPa, standard deviation over the members; NaN of a single one


class FramePrediction(NamedTuple):
    """Curves of designs at ``FRAME_STRAIN``, and how far they are off a target."""

    stress: NDArray  # (n, 11) MPa
    spread: NDArray  # (n, 11) MPa, standard deviation over the members
    error: NDArray  # (n,) NRMSE against the target


class ResponseModel(nn.Module):
    """An ensemble of :class:`crumple.diffusion.quarter_networks.QuarterRegressor`.

    Parameters
    ----------
    settings
        Members and their size.
    mean, deviation
        ``(50,)`` of the stress over the training set, on the scale of :func:`to_logarithmic`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: Response, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)
        self.members = nn.ModuleList(
            QuarterRegressor(STEPS, settings.channels, settings.depths)
            for _ in range(settings.members)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, states: Tensor) -> Tensor:
        """Return the stress ``(batch, members, 50)``, MPa, each member's for states of its own.

        Parameters
        ----------
        states
            ``(batch, members, 1, 48, 48)``, see :func:`crumple.diffusion.quarters.encode_quarters`.
        """
        out = [member(states[:, i]).float() for i, member in enumerate(self.members)]
        return from_logarithmic(torch.stack(out, dim=1) * self.deviation + self.mean)

    @torch.inference_mode()
    def predict(self, quarter: NDArray, batch: int = 64) -> Prediction:
        """Predict the curves of designs.

        Parameters
        ----------
        quarter
            ``(n, 48, 48)``, nonzero where solid.
        batch
            Designs at once.
        """
        device, members = self.mean.device, len(self.members)
        parts = [torch.zeros(0, members, STEPS)]
        for start in range(0, len(quarter), batch):
            state = encode_quarters(quarter[start : start + batch]).to(device)
            both = torch.cat([state, state.flip(-1)])[:, None].expand(-1, members, -1, -1, -1)
            parts.append(self(both).unflatten(0, (2, -1)).mean(dim=0).cpu())
        every = torch.cat(parts).double().numpy()
        spread = every.std(axis=1, ddof=1) if members > 1 else np.full_like(every[:, 0], np.nan)
        unstrained = ((0, 0), (1, 0))
        return Prediction(np.pad(every.mean(axis=1), unstrained), np.pad(spread, unstrained))


def predict_frames(model: ResponseModel, quarter: NDArray, goal: NDArray) -> FramePrediction:
    """Predict curves as candidates have them.

    Parameters
    ----------
    model
        Forward model.
    quarter
        ``(n, 48, 48)`` designs.
    goal
        ``(n, 11)`` or ``(11,)`` target, MPa; NaN where it says nothing.
    """
    return at_frames(model.predict(quarter), goal)


def at_frames(prediction: Prediction, goal: NDArray) -> FramePrediction:
    """Return predicted curves as candidates have them; ``goal`` as in :func:`predict_frames`."""
    stress, spread = frame_stress(prediction.stress), frame_stress(prediction.spread)
    return FramePrediction(stress, spread, nrmse(stress, goal))


def to_logarithmic(stress: Tensor) -> Tensor:
    """Return asinh(stress / ``SOFT``): relative errors of strong and weak cells count alike."""
    return torch.asinh(stress / SOFT)


def from_logarithmic(value: Tensor) -> Tensor:
    """Inverse of :func:`to_logarithmic`; what no cell can carry is cut off."""
    return torch.sinh(value.clamp(-12, 12)) * SOFT


def curve_loss(predicted: Tensor, stress: Tensor, deviation: Tensor) -> Tensor:
    """Return the error of curves, of the shape of their leading dimensions.

    Half of it is the one that counts, |predicted - stress| / |stress|, which hangs on the largest
    stresses; the other half is the mean difference on the logarithmic scale, in its ``deviation``.

    Parameters
    ----------
    predicted, stress
        ``(..., 50)`` MPa.
    deviation
        ``(50,)`` see :class:`ResponseModel`.
    """
    relative = (predicted - stress).norm(dim=-1) / stress.norm(dim=-1)
    logarithmic = (to_logarithmic(predicted) - to_logarithmic(stress)) / deviation
    return (relative.clamp(max=1) + logarithmic.abs().mean(dim=-1)) / 2


class ResponseProblem:
    """The forward model as a :class:`crumple.diffusion.training.Problem`.

    Parameters
    ----------
    config
        Sections ``seed`` and ``response``.
    pairs
        Designs and their curves.
    device
        Where batches go.
    """

    def __init__(self, config: Config, pairs: Pairs, device: torch.device) -> None:
        self.settings, self.seed, self.device = config.response, config.seed, device
        self.pairs = pairs
        self.state = encode_quarters(pairs.training.quarter)
        self.stress = torch.from_numpy(pairs.training.curve[:, 1:])
        self.held_out = encode_quarters(pairs.validation.quarter)
        self.held_out_stress = torch.from_numpy(pairs.validation.curve[:, 1:])
        logarithmic = to_logarithmic(self.stress)
        self.mean = logarithmic.mean(dim=0)
        self.deviation = logarithmic.std(dim=0).clamp(min=1e-3)

    def build(self) -> nn.Module:
        """Return the untrained ensemble."""
        return ResponseModel(self.settings, self.mean, self.deviation)

    def loss(self, network: nn.Module, indices: Sequence[int]) -> Tensor:
        """Return the loss of training samples, mean over the members."""
        rows, turned = zip(*(self._draw(index) for index in indices), strict=True)
        row, flip = torch.from_numpy(np.stack(rows)), torch.from_numpy(np.stack(turned))
        states = self.state[row]
        states = torch.where(flip[..., None, None, None], states.flip(-1), states)
        return self._loss(network, states, self.stress[row])

    def _draw(self, index: int) -> tuple[NDArray, NDArray]:
        """Return which designs the members see in a sample, and which way round."""
        random = seeds.rng(self.seed, "response", index)
        members = self.settings.members
        return random.integers(len(self.state), size=members), random.random(members) < 0.5

    def validation_count(self) -> int:
        """Return the number of held-out designs."""
        return len(self.held_out)

    def validation_loss(self, network: nn.Module, numbers: Sequence[int]) -> Tensor:
        """Return the loss of held-out designs, mean over the members."""
        members = self.settings.members
        states = self.held_out[list(numbers)][:, None].expand(-1, members, -1, -1, -1)
        stress = self.held_out_stress[list(numbers)][:, None].expand(-1, members, -1)
        return self._loss(network, states, stress)

    def _loss(self, network: nn.Module, states: Tensor, stress: Tensor) -> Tensor:
        predicted = network(states.to(self.device))
        deviation = self.deviation.to(self.device)
        return curve_loss(predicted, stress.to(self.device), deviation).mean(dim=1)

    def save(self, folder: Path, weights: dict[str, Tensor], training: dict[str, Any]) -> None:
        """Write the model, and how far off it is on held-out designs."""
        model = ResponseModel(self.settings, self.mean, self.deviation)
        model.load_state_dict({name: w.bfloat16() for name, w in weights.items()})
        validation = self.pairs.validation
        errors = nrmse(model.eval().predict(validation.quarter).stress, validation.curve)
        figures = {f"nrmse_{q}_percent": float(np.percentile(errors, q)) for q in (50, 90)}
        description = {
            "format": "crumple-response",
            "response": self.settings.model_dump(mode="json"),
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
            "training": training | {"designs": len(self.state)},
            "held_out": {"designs": len(errors), **figures} if len(errors) else {},
        }
        save_weights(folder / "response", weights, torch.bfloat16, description)


def train_response(config: Config, library: Path | None, out: Path) -> None:
    """Train the forward model; every process of a distributed run calls this.

    Parameters
    ----------
    config
        Sections ``seed``, ``dataset`` (what is held out), ``response`` and ``response_training``.
    library
        See :func:`crumple.library.read_library`.
    out
        Folder that the model becomes.
    """
    pairs = read_pairs(config, library)
    settings = config.response_training

    def prepare(cache: Path, accelerator: Accelerator) -> ResponseProblem:
        return ResponseProblem(config, pairs, accelerator.device)

    record = pairs.made_by("train-response", config)
    training.train(out, record, "response_training", settings, config.seed, prepare)


def load_response(folder: Path, device: torch.device | str = "cpu") -> ResponseModel:
    """Load a forward model.

    Raises
    ------
    UserError
        When the folder doesn't hold one of this version of crumple, or it has been changed.
    """
    path = folder / "response"
    about = read_description(path, ResponseDescription, ADVICE)
    mean, deviation = torch.tensor(about.mean), torch.tensor(about.deviation)
    model = ResponseModel(about.response, mean, deviation)
    load_weights(model, path, about.weights, ADVICE)
    return model.to(device).eval()
