"""At which noise levels is a design decided? An ideal observer, beside the settings of a run.

python benchmarks/noise_levels.py results/demo/data/dataset.json --config workflow/presets/demo.yaml

The observer knows N designs of the data set and is shown one of them as a noisy state x. By Bayes'
rule, all N alike before, design i has the probability p_i ~ exp(-|x - x_i|^2 / (2 sigma^2)); the
observer guesses with these probabilities, as a perfect sampler without a curve would go on. P is
the probability that the guess is right, the error the NRMSE of the guessed design's curve at the
11 strains, both the mean over designs and draws. Where P is that of chance a
state says nothing of its design, where P is 1 nothing is left to decide: in between the curve has
to decide, so there training needs its samples and guidance has to act, and the sampler must start
above. A network that generalises has to tell apart more designs than N: the range is wider.

States are those of training. A mask is one quarter and its mirror images, and so is its noise
(:meth:`crumple.diffusion.network.Layout.noise`): 48 x 48 independent values, which are also the
state of a model of designs alone.
"""

from __future__ import annotations

import argparse
import tempfile
from math import erf, inf, log, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import softmax

from crumple.config import Config, Generation, Training, load_config
from crumple.dataset import Dataset
from crumple.diffusion.data import Samples, build_cache, load_samples
from crumple.diffusion.sampling import karras_sigmas
from crumple.metrics import nrmse

SIGMAS = (0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1000)
DRAWS = 32  # noisy states per design
DECIDED, CHANCE = (
    0.95,
    2.0,
)  # P above which a design is known; P over that of chance below which not
WANTED = 1 / 3  # part of the training samples that belongs where the design is decided


class Guess(NamedTuple):
    """How an observer fares at one noise level."""

    right: float  # probability that it is the right design
    error: float  # NRMSE of its curve, mean


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="dataset.json")
    parser.add_argument("--config", action="append", default=[], metavar="FILE|JSON")
    parser.add_argument("--count", type=int, default=128, help="designs known; default 128")
    args = parser.parse_args()
    config = load_config(*args.config)
    print(table(Dataset(args.dataset), config, args.count))


def table(dataset: Dataset, config: Config, count: int) -> str:
    """Return what is printed: a row per noise level, then what the settings given make of it."""
    samples, curves = known_designs(dataset, config, count)
    count = len(curves)
    errors = nrmse(curves[:, None], curves[None])  # of a guess (first axis) for a design
    observers = {name: observe(seen, errors) for name, seen in inner_products(samples).items()}
    lines = [
        f"{count} designs, {DRAWS} draws each, sigma_data 0.5; chance: P {1 / count:.3f}, error "
        f"{100 * errors.mean():.0f} %; P and error of the curve by noise level",
        "",
        f"| sigma | {' | '.join(observers)} | training samples | sampler steps | guidance |",
        f"|---|{'---|' * len(observers)}---|---|---|",
    ]
    for row, (low, high) in enumerate(ranges()):
        cells = [f"{g[row].right:.2f} / {100 * g[row].error:.0f} %" for g in observers.values()]
        cells += [
            f"{100 * training_share(config.training, low, high):.1f} %",
            str(sampler_steps(config.generation, low, high)),
            guidance(config.generation, low, high),
        ]
        lines.append(f"| {SIGMAS[row]:g} | {' | '.join(cells)} |")
    for name, guesses in observers.items():
        lines += ["", *verdict(name, guesses, 1 / count, config)]
    return "\n".join(lines)


def known_designs(dataset: Dataset, config: Config, count: int) -> tuple[Samples, np.ndarray]:
    """Return the states of the first designs of a data set, and their curves (n, 11) in MPa."""
    places = np.concatenate([dataset.split["train"], dataset.split["validation"]])[:count]
    dataset.split = {"train": places, "validation": places[:0]}
    with tempfile.TemporaryDirectory() as folder:
        build_cache(dataset, config.model, Path(folder))
        samples, _ = load_samples(Path(folder), len(places), torch.device("cpu"))
    return samples, dataset.read("frame_stress", places).astype(float)


def inner_products(samples: Samples) -> dict[str, np.ndarray]:
    """Return the products (n, n) of all pairs of states, of what each kind of observer sees.

    They are all that is needed of the states: noise enters by its products with them alone.
    """
    count, static = len(samples), samples.normalisation.layout.static
    kinds = {"mask": torch.zeros(count, count), "fields": torch.zeros(count, count)}
    for channel in range(samples.physical.shape[1]):
        state = _channel(samples, channel)
        if channel < static:
            kinds["mask"] += _products(state[:, : state.shape[1] // 2, : state.shape[2] // 2])
        else:
            kinds["fields"] += _products(state)
    kinds = {"all channels": kinds["mask"] + kinds["fields"], **kinds}
    return {name: product.double().numpy() for name, product in kinds.items() if product.any()}


def _channel(samples: Samples, channel: int) -> torch.Tensor:
    """Return one channel of all states, (n, 96, 96)."""
    offset, scale = samples.normalisation.offset_and_scale()
    return (samples.physical[:, channel].float() - offset[channel]) * scale[channel]


def _products(state: torch.Tensor) -> torch.Tensor:
    flat = state.flatten(1)
    return flat @ flat.T


def observe(products: np.ndarray, errors: np.ndarray) -> list[Guess]:
    """Show every design ``DRAWS`` times as a noisy state, at each noise level.

    With x = x_j + sigma n the logarithm of the posterior of design i is, but for a constant,
    -|x_i - x_j|^2 / (2 sigma^2) + n . x_i / sigma. The products n . x_i of white noise with the
    states are normal with covariance x_i . x_k, and are drawn from that.

    Parameters
    ----------
    products
        (n, n) inner products of the states.
    errors
        (n, n) NRMSE of design i's curve against that of design j.
    """
    random, count = np.random.default_rng(0), len(products)
    values, vectors = np.linalg.eigh(products)
    root = vectors * np.sqrt(np.maximum(values, 0))
    size = np.diag(products)
    distance = size[:, None] + size - 2 * products
    found = np.zeros((len(SIGMAS), 2))
    for _ in range(DRAWS):
        noise = random.standard_normal(products.shape) @ root.T  # designs j, products with i
        for row, sigma in enumerate(SIGMAS):
            posterior = softmax(noise / sigma - distance / (2 * sigma**2), axis=1)
            found[row] += posterior.trace() / count, (posterior * errors.T).sum() / count
    return [Guess(*row) for row in found / DRAWS]


def ranges() -> list[tuple[float, float]]:
    """Return the noise levels that each row of the table stands for: half way to its neighbours."""
    middle = np.sqrt(np.array(SIGMAS[1:]) * SIGMAS[:-1]).tolist()
    return list(zip([0.0, *middle], [*middle, inf], strict=True))


def training_share(settings: Training, low: float, high: float) -> float:
    """Return the part of the training samples with a noise level between two."""

    def below(sigma: float) -> float:
        if sigma in (0, inf):
            return float(sigma > 0)
        return (1 + erf((log(sigma) - settings.noise_mean) / settings.noise_std / sqrt(2))) / 2

    return below(high) - below(low)


def sampler_steps(settings: Generation, low: float, high: float) -> int:
    """Return how many of the sampler's noise levels lie between two."""
    levels = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max)[:-1]
    return int(((levels > low) & (levels <= high)).sum())


def guidance(settings: Generation, low: float, high: float) -> str:
    """Return whether guidance acts between two noise levels."""
    first, last = settings.guidance_interval
    if settings.guidance == 1 or last < low or first > high or low >= settings.sigma_max:
        return ""
    return "yes" if first <= max(low, settings.sigma_min) and last >= high else "in part"


def verdict(name: str, guesses: list[Guess], chance: float, config: Config) -> list[str]:
    """Return where an observer's designs are decided, and what the settings do there."""
    low, high = crossing(guesses, DECIDED), crossing(guesses, CHANCE * chance)
    share = training_share(config.training, low, high)
    start, (first, last) = config.generation.sigma_max, config.generation.guidance_interval
    answers = {
        f"the sampler starts at chance ({start:g})": start >= high,
        f"a third of the training samples is there ({100 * share:.1f} %)": share >= WANTED,
        f"guidance acts there ({first:g} to {last:g})": first <= low and last >= min(high, start),
    }
    return [
        f"{name}: decided from sigma {high:.3g} (P twice chance) down to {low:.3g} (P {DECIDED:g}),"
        f" ln sigma {np.log(high):.1f} to {np.log(low):.1f}",
        *(f"- {'yes' if yes else 'no'}: {what}" for what, yes in answers.items()),
    ]


def crossing(guesses: list[Guess], level: float) -> float:
    """Return the noise level at which P falls below a level; between rows, by ln sigma."""
    right = np.array([guess.right for guess in guesses])
    below = np.flatnonzero(right < level)
    if not len(below):
        return inf
    if below[0] == 0:
        return 0.0
    pair = slice(below[0] - 1, below[0] + 1)
    return float(np.exp(np.interp(-level, -right[pair], np.log(SIGMAS[pair]))))


if __name__ == "__main__":
    main()
