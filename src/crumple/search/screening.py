"""Curves of proposals, predicted: the forward model, corrected by what has been simulated.

The forward model :mod:`crumple.diffusion.response` is several per cent off, but a design and its
small changes share most of that error. So the difference between simulated and predicted curves,
on a logarithmic scale, is a Gaussian process over the features that the networks see in a design
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, eq. 2.25, 2.26, 5.8): near
a simulated design a prediction is nearly as exact as the simulation, and far from all of them it is
that of the forward model, with its error. The kernel is the rational quadratic one (eq. 4.19, with
exponent 1/2), a mixture of many lengths: some errors are shared by designs that have little in
common, others only by near copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

from crumple.diffusion.quarter_networks import QuarterRegressor
from crumple.diffusion.quarters import encode_quarters
from crumple.diffusion.response import ResponseModel, from_logarithmic, to_logarithmic

LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)  # of the kernel, in the typical distance of two designs
# Variance of what no neighbour tells, over that of the process.
NOISES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
MOST = 400  # simulated designs that count, those with the smallest error
DRAWS = 16  # curves that stand for a prediction and its doubt

Numbers = TypeVar("Numbers", NDArray, torch.Tensor)


class Raw(NamedTuple):
    """What the networks say of designs, without correction."""

    value: NDArray  # (members, n, 50) stress on the logarithmic scale
    features: NDArray  # (n, d)


class Screen:
    """Forward model with corrections from simulated designs.

    Parameters
    ----------
    model
        The ensemble.
    batch
        Designs at once.
    """

    def __init__(self, model: ResponseModel, batch: int = 64) -> None:
        self.model, self.batch = model, batch
        self.kept: dict[bytes, tuple[NDArray, NDArray]] = {}

    def raw(self, quarter: NDArray, keep: bool = False) -> Raw:
        """Run the networks on designs.

        Parameters
        ----------
        quarter
            (n, 48, 48).
        keep
            The same designs will be asked for again: remember what the networks say.
        """
        new = [image for image in quarter if image.tobytes() not in self.kept]
        # What is kept is looked at one by one: in another batch sums are rounded in another way,
        # and a search that was stopped and goes on asks for all at once.
        said = self._run(new, 1 if keep else self.batch)
        fresh = dict(zip((image.tobytes() for image in new), said, strict=True))
        if keep:
            self.kept |= fresh
        every = [self.kept.get(image.tobytes()) or fresh[image.tobytes()] for image in quarter]
        value, features = zip(*every, strict=True)
        return Raw(np.stack(value, axis=1), np.stack(features))

    @torch.inference_mode()
    def _run(self, quarter: Sequence[NDArray], batch: int) -> Iterator[tuple[NDArray, NDArray]]:
        """Yield stress (members, 50) on the logarithmic scale and features (d) of each design."""
        model = self.model
        members = cast(list[QuarterRegressor], list(model.members))
        for start in range(0, len(quarter), batch):
            state = encode_quarters(np.stack(quarter[start : start + batch]))
            seen = [member.features(state) for member in members]
            read = zip(members, seen, strict=True)
            out = [member.read(f) * model.deviation + model.mean for member, f in read]
            values = torch.stack(out, dim=1).double().numpy()
            yield from zip(values, torch.cat(seen, dim=1).double().numpy(), strict=True)

    def fit(self, raw: Raw, stress: NDArray, score: NDArray) -> Correction:
        """Learn the correction from simulated designs.

        Parameters
        ----------
        raw
            Of the simulated designs.
        stress
            (n, 51) their curves, MPa.
        score
            (n,) their errors; where there are too many designs, the best count.
        """
        best = np.argsort(score, kind="stable")[:MOST]
        truth = to_logarithmic(torch.from_numpy(stress[best, 1:])).numpy()
        return Correction(Raw(raw.value[:, best], raw.features[best]), truth)


class Correction:
    """Gaussian process of what the forward model misses."""

    def __init__(self, raw: Raw, truth: NDArray) -> None:
        residual = truth - raw.value  # (members, n, 50)
        mean = residual.mean(axis=0)
        self.features = raw.features
        square = squared_distances(raw.features, raw.features)
        self.scale = np.median(square[np.triu_indices(len(square), 1)])
        best = None
        for length in LENGTHS:
            kernel = rational_quadratic(square / (length**2 * self.scale))
            for noise in NOISES:
                factor = cholesky(kernel + noise * np.eye(len(kernel)), lower=True)
                white = solve_triangular(factor, mean, lower=True)
                variance = (white**2).mean(axis=0)
                evidence = -0.5 * len(mean) * np.log(variance).sum()
                evidence -= mean.shape[1] * np.log(np.diag(factor)).sum()
                if best is None or evidence > best[0]:
                    best = (evidence, length, noise, factor, white)
        assert best is not None
        _, self.length, self.noise, self.factor, white = best
        self.weights = np.stack([cho_solve((self.factor, True), r) for r in residual])
        self.covariance = white.T @ white / len(white)  # between the strains, of the process

    def mean(self, features: torch.Tensor) -> torch.Tensor:
        """Return what the networks miss on average (n, 50) by features (n, d), differentiable."""
        known = torch.from_numpy(self.features).to(features)
        square = (features[:, None] - known).square().sum(dim=2)
        kernel = rational_quadratic(square / (self.length**2 * self.scale))
        return kernel @ torch.from_numpy(self.weights.mean(axis=0)).to(features)

    def curves(self, raw: Raw, draws: NDArray) -> NDArray:
        """Curves that stand for the prediction of designs and its doubt.

        Parameters
        ----------
        raw
            Of the designs.
        draws
            (DRAWS, 50) standard normal numbers, the same for all designs.

        Returns
        -------
        ndarray
            (n, DRAWS, 51) MPa.
        """
        square = squared_distances(raw.features, self.features)
        kernel = rational_quadratic(square / (self.length**2 * self.scale))
        value = raw.value + kernel @ self.weights
        seen = solve_triangular(self.factor, kernel.T, lower=True)
        doubt = np.sqrt(np.maximum(1 - (seen**2).sum(axis=0), 0) + self.noise)
        ridge = 1e-9 * np.trace(self.covariance) * np.eye(len(self.covariance))
        shapes = draws @ cholesky(self.covariance + ridge)
        member = np.arange(len(draws)) % len(value)
        every = value[member].transpose(1, 0, 2) + doubt[:, None, None] * shapes
        stress = from_logarithmic(torch.from_numpy(every)).numpy()
        return np.pad(stress, ((0, 0), (0, 0), (1, 0)))


def rational_quadratic(square: Numbers) -> Numbers:
    """Return the kernel of squared distances, in squares of its length."""
    return (1 + square) ** -0.5


def squared_distances(one: NDArray, other: NDArray) -> NDArray:
    """Squared distances (n, m) of two sets of points."""
    square = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.maximum(square, 0)
