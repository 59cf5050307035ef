"""The typed configuration of a run: one source of truth for names, defaults, units and ranges.

``config.yaml`` at the repository root is generated from this module (``crumple config``), and a
test fails when the two drift apart. Presets name only what they change.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from crumple.errors import ConfigError
from crumple.layout import CELL
from crumple.readers import parse_json, parse_yaml
from crumple.seeds import in_validation

# True (Cauchy) yield stress in MPa against equivalent plastic strain (paper S1.3).
HARDENING = [
    (40.62, 0.0),
    (45.24, 0.001133),
    (52.62, 0.004183),
    (58.00, 0.0080645),
    (61.87, 0.012557),
    (65.81, 0.020035),
    (69.19, 0.030689),
    (71.06, 0.038873),
    (72.61, 0.047114),
    (73.54, 0.05261),
    (74.82, 0.06083),
    (76.74, 0.074477),
    (78.46, 0.08799),
    (81.58, 0.11457),
    (83.00, 0.1276),
]


class Section(BaseModel):
    """A group of settings; unknown keys, values of another type and infinite ones are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _spelled_out(cls, value: Any, info: ValidationInfo) -> Any:
        """Take text as the number that it spells, and yes as a word where it is one.

        Snakemake's ``--config`` gives text throughout, YAML 1.1 for 1e-3; and to YAML 1.1, yes and
        no are true and false.
        """
        kind = cls.model_fields[str(info.field_name)].annotation
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        if choices and isinstance(value, bool):
            value = "yes" if value else "no"
        if kind is bool and isinstance(value, str):
            return TRUTH.get(value.lower(), value)
        if kind is str and type(value) is int:
            return str(value)  # run: 2024
        return value if kind is str or value in choices else _numbers(value)


TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
NUMBER = re.compile(r"[+-]?([0-9]{1,40}[.]?[0-9]{0,40}|[.][0-9]{1,40})([eE][+-]?[0-9]{1,3})?")


def _numbers(value: Any) -> Any:
    """Return a value with texts that spell a number as numbers, in lists too."""
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    return value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON and YAML have lists only


def _file_name(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r} holds characters that cannot be printed")
    if "{" in text or "}" in text:  # wildcards of Snakemake, wherever the name comes from
        raise ValueError(f"{text!r} holds a brace: rename the file or its folder")
    return text


Pair = Annotated[tuple[float, float], BeforeValidator(_tuple)]
Width = Annotated[int, Field(ge=16, le=8192)]
Depth = Annotated[int, Field(ge=1, le=64)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Designs(Section):
    """Gaussian-random-field designs (paper 4.1)."""

    count: int = Field(128, ge=1, le=1_000_000, description="number of designs in the data set")
    shard_size: int = Field(64, ge=1, le=10_000, description="designs per shard, that is per job")
    spectral_exponent: float = Field(
        3.0, ge=0.5, le=10, description="alpha in the amplitude |k|^-alpha"
    )
    threshold_max: float = Field(
        0.6, ge=0, le=2, description="t ~ U(0, threshold_max); solid where the field exceeds t"
    )
    side_fraction: float = Field(
        0.1, gt=0, le=1, description="part of each side that the solid domain must cover"
    )
    islands: Literal["reject", "drop"] = Field(
        "reject", description="solid outside the one connected domain: reject the design or drop it"
    )


class Mesh(Section):
    """Smooth outlines and all-quadrilateral meshes (paper S1.2)."""

    element_size: float = Field(
        0.014, ge=0.004, le=0.05, description="side of an element, in cell sides"
    )


class Material(Section):
    """Isotropic J2 plasticity on logarithmic strains (paper S1.3)."""

    youngs_modulus: float = Field(2306.0, ge=1e-3, le=1e7, description="MPa")
    poisson_ratio: float = Field(0.35, gt=-1, lt=0.499)
    hardening: list[Pair] = Field(
        HARDENING,
        min_length=1,
        max_length=1000,
        description="[true yield stress in MPa, plastic strain] pairs; perfectly plastic beyond",
    )
    density: float = Field(
        1e-8, ge=0, le=1, description="per cell volume; keeps snap-through well posed"
    )
    damping: float = Field(
        0.005,
        ge=0,
        le=1,
        description="stiffness-proportional damping, in pseudo-time; 0: rate-independent",
    )

    @model_validator(mode="after")
    def _table_is_monotone(self) -> Material:
        stress = [s for s, _ in self.hardening]
        strain = [e for _, e in self.hardening]
        if strain[0] != 0 or any(b <= a for a, b in pairwise(strain)):
            raise ValueError("the plastic strains of hardening must start at 0 and increase")
        if stress[0] <= 0 or any(b < a for a, b in pairwise(stress)):
            raise ValueError("the yield stresses of hardening must be positive and not decrease")
        return self


class Contact(Section):
    """Frictional self-contact by incremental potential contact."""

    friction: float = Field(0.4, ge=0, le=2, description="Coulomb coefficient in self-contact")
    barrier_distance: float = Field(
        7e-4, ge=1e-6, le=0.01, description="dhat, distance at which contact begins, in cell sides"
    )
    barrier_stiffness: float = Field(20.0, ge=1e-3, le=1e7, description="kappa, MPa")
    friction_slip: float = Field(
        5e-5,
        ge=1e-9,
        le=1e-2,
        description="eps_u, slip per step that counts as sticking, cell sides",
    )


class Loading(Section):
    """Compression between rigid platens (paper 4.2)."""

    platens: Literal["bonded", "lubricated", "tied"] = Field(
        "bonded",
        description="top and bottom nodes move sideways: not at all, freely, together",
    )
    final_strain: float = Field(
        0.204,
        ge=0.2,
        le=0.5,
        description="end of the smooth-step amplitude; 0.204 as in the published script",
    )
    imperfection: float = Field(
        1e-3, ge=0, le=0.01, description="fixed smooth geometric imperfection, in cell sides"
    )


class Fields(Section):
    """Pixel fields of the simulations."""

    eulerian: bool = Field(
        False, description="also store fields on the deformed cell, for models that learn those"
    )


class DatasetSplit(Section):
    """Split of the data set."""

    validation_fraction: float = Field(0.1, ge=0, lt=1, description="part held out from training")


PUBLISHED_MODEL = {  # what the settings say of the published network
    "reference_frame": "lagrangian",
    "mask": False,
    "fields": ["u1", "u2", "s22"],
    "frames": "all",
    "per_frame_tokens": True,
    "patch": 1,
    "spatial_attention": CELL,
}


class Model(Section):
    """Denoising network and what it generates (paper 4.3-4.5)."""

    kind: Literal["crumple", "published"] = Field(
        "crumple",
        description="network of this program or of the published code (docs/published.md)",
    )
    reference_frame: Literal["lagrangian", "eulerian"] = Field(
        "lagrangian", description="fields on the undeformed or on the deformed cell (paper S7)"
    )
    mask: bool = Field(True, description="one static channel for the solid, shared by all frames")
    fields: list[Literal["u1", "u2", "w2", "s22", "mises", "solid"]] = Field(
        ["u1", "w2", "s22"],
        max_length=6,
        description="channels of every frame; w2 = u2 + strain y; none: only the design (paper S7)",
    )
    frames: Literal["all", "last"] = Field(
        "all", description="strain steps that are generated; last: a single frame (paper S7)"
    )
    per_frame_tokens: bool = Field(
        True, description="a frame is shown its own stress; false: the whole curve (paper S7)"
    )
    channels: list[Width] = Field(
        [128, 256, 384],
        min_length=1,
        max_length=6,
        description="width of each level, the finest first",
    )
    depths: list[Depth] = Field(
        [1, 2, 2], min_length=1, max_length=6, description="blocks of each level"
    )
    patch: Literal[1, 2, 4] = Field(2, description="pixels per side of a patch of the finest level")
    embedding: int = Field(
        512, ge=16, le=8192, description="width of stress tokens and noise embedding"
    )
    head: int = Field(64, ge=8, le=1024, description="width of an attention head")
    spatial_attention: int = Field(
        24,
        ge=0,
        le=CELL,
        description="attention over pixels where there are at most so many per side",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Model:
        if len(self.channels) != len(self.depths):
            raise ValueError("channels and depths must have as many entries")
        if any(width % 16 for width in self.channels):
            raise ValueError("channels must be multiples of 16")
        if CELL // self.patch % 2 ** (len(self.channels) - 1):
            raise ValueError(
                f"{len(self.channels)} levels do not fit: {CELL} pixels in patches of {self.patch} "
                f"are {CELL // self.patch} per side, which must be halved {len(self.channels) - 1} "
                "times; name fewer channels and depths, or a smaller patch"
            )
        if len(set(self.fields)) < len(self.fields):
            raise ValueError("fields must differ from each other")
        if any(width % max(1, width // self.head) for width in self.channels):
            raise ValueError("channels must be multiples of head, or smaller")
        if self.reference_frame == "eulerian" and (
            self.mask or "solid" not in self.fields or {"u1", "u2", "w2"} & set(self.fields)
        ):
            raise ValueError("the eulerian frame has the fields solid, s22, mises and no mask")
        if self.reference_frame == "lagrangian" and "solid" in self.fields:
            raise ValueError("solid is a field of the eulerian frame; here it is the mask")
        if self.reference_frame == "lagrangian" and not self.mask and "u2" not in self.fields:
            raise ValueError("the design is read from the mask or from u2: set mask or name u2")
        if self.kind == "published":
            self._is_the_published_one()
        return self

    def _is_the_published_one(self) -> None:
        """Refuse other settings than those of the published network, widths apart."""
        needed = PUBLISHED_MODEL | {
            "depths": [2] * len(self.channels),
            "embedding": 4 * self.channels[0],
        }
        wrong = [f"{k} {_plain(v)}" for k, v in needed.items() if getattr(self, k) != v]
        if wrong:
            raise ValueError(f"kind published is a network with {', '.join(wrong)}: set that")


class Optimisation(Section):
    """What any training has: steps, rate, precision and reports."""

    steps: int = Field(200_000, ge=1, le=10**9, description="optimiser steps")
    batch: int = Field(64, ge=1, le=100_000, description="samples per step over all processes")
    micro_batch: int = Field(
        16,
        ge=1,
        le=100_000,
        description="samples that a process holds at once; gradients are accumulated",
    )
    learning_rate: float = Field(4e-4, gt=0, le=1e6, description="after the warm-up")
    warmup: int = Field(1000, ge=0, le=10**9, description="steps of linear warm-up")
    decay: float = Field(
        0.3, ge=0, le=1, description="last part of the steps, over which the rate falls to zero"
    )
    weight_decay: float = Field(0.01, ge=0, le=10, description="of matrices and convolutions")
    clip: float = Field(1.0, gt=0, le=1e6, description="largest norm of the gradient")
    precision: Precision = Field(
        "auto", description="of autocast; auto: bf16 where the hardware multiplies in it, else fp32"
    )
    checkpoint_minutes: float = Field(15, gt=0, le=100_000, description="time between checkpoints")
    log_every: int = Field(50, ge=1, le=10**9, description="steps between lines of stats.jsonl")
    validate_every: int = Field(1000, ge=1, le=10**9, description="steps between validation losses")
    validation_samples: int = Field(
        128, ge=0, le=1_000_000, description="held-out samples that are used for it"
    )


class Denoising(Optimisation):
    """Training of a denoiser (Karras et al. 2022)."""

    noise_mean: float = Field(1.5, ge=-10, le=10, description="mean of ln sigma in training")
    noise_std: float = Field(
        1.8, ge=1e-3, le=5, description="standard deviation of ln sigma in training"
    )
    drop_curve: float = Field(0.1, ge=0, lt=1, description="part of the samples without a curve")
    drop_steps: float = Field(
        0.1, ge=0, lt=1, description="part of the samples that see a random part of their curve"
    )

    @model_validator(mode="after")
    def _drops_leave_something(self) -> Denoising:
        if self.drop_curve + self.drop_steps > 1:
            raise ValueError("drop_curve and drop_steps must not be more than 1 together")
        return self


class Training(Denoising):
    """Training of the space-time model (Karras et al. 2022)."""

    compile: Literal["auto", "yes", "no"] = Field(
        "auto", description="torch.compile, which takes minutes; auto: on a GPU"
    )
    known_design: float = Field(
        1.0,
        ge=0,
        le=1,
        description="part of the samples that show the clean design and no curve (forward model)",
    )
    augmentation: Literal["none", "all"] = Field(
        "none", description="all: random reflections, which give a design several answers"
    )


class Response(Section):
    """Forward network from a design to its curve, which ranks candidates."""

    members: int = Field(2, ge=1, le=100, description="networks of the ensemble")
    channels: list[Width] = Field(
        [32, 64, 96],
        min_length=1,
        max_length=4,
        description="width of each level, the finest first",
    )
    depths: list[Depth] = Field(
        [1, 1, 2], min_length=1, max_length=4, description="blocks of each level"
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Response:
        _check_quarter_levels(self.channels, self.depths)
        return self


class Designer(Section):
    """Diffusion model of the quarter of a design, conditioned on the curve."""

    channels: list[Width] = Field(
        [48, 96, 128],
        min_length=1,
        max_length=4,
        description="width of each level, the finest first",
    )
    depths: list[Depth] = Field(
        [1, 1, 2], min_length=1, max_length=4, description="blocks of each level"
    )
    embedding: int = Field(
        256, ge=16, le=8192, description="width of the embedding of noise level and curve"
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Designer:
        _check_quarter_levels(self.channels, self.depths)
        return self


class DesignerTraining(Denoising):
    """Training of the design model."""

    steps: int = Field(20_000, ge=1, le=10**9, description="optimiser steps")
    learning_rate: float = Field(2e-3, gt=0, description="after the warm-up")
    warmup: int = Field(100, ge=0, le=10**9, description="steps of linear warm-up")
    noise_mean: float = Field(1.0, ge=-10, le=10, description="mean of ln sigma in training")
    noise_std: float = Field(
        1.6, ge=1e-3, le=5, description="standard deviation of ln sigma in training"
    )


class ResponseTraining(Optimisation):
    """Training of the forward network."""

    steps: int = Field(8000, ge=1, le=10**9, description="optimiser steps")
    batch: int = Field(32, ge=1, le=100_000, description="samples per step over all processes")
    micro_batch: int = Field(
        32,
        ge=1,
        le=100_000,
        description="samples that a process holds at once; gradients are accumulated",
    )
    learning_rate: float = Field(2e-3, gt=0, description="after the warm-up")
    warmup: int = Field(50, ge=0, le=10**9, description="steps of linear warm-up")
    decay: float = Field(
        0.5, ge=0, le=1, description="last part of the steps, over which the rate falls to zero"
    )
    weight_decay: float = Field(0.05, ge=0, le=10, description="of matrices and convolutions")


def _check_quarter_levels(channels: list[int], depths: list[int]) -> None:
    """Refuse levels that a network of quarters cannot have."""
    if len(channels) != len(depths):
        raise ValueError("channels and depths must have as many entries")
    if any(width % 16 for width in channels) or any(width % 32 for width in channels[1:]):
        raise ValueError("channels must be multiples of 16, from the second on of 32")


class Generation(Section):
    """Sampling of candidates for target curves."""

    method: Literal["cascade", "joint"] = Field(
        "cascade",
        description="designs first, then their fields; or both at once, as in the paper",
    )
    candidates: int = Field(10, ge=1, le=100_000, description="designs per target that are kept")
    draws: int = Field(
        64,
        ge=1,
        le=1_000_000,
        description="designs per target that the cascade draws; it keeps the best predicted",
    )
    refinements: int = Field(
        3,
        ge=0,
        le=1000,
        description="rounds in which the cascade improves its draws under the forward model",
    )
    batch: int = Field(20, ge=1, le=100_000, description="samples that a process draws at once")
    sampler: Literal["dpmpp_2m", "heun", "ancestral"] = Field(
        "dpmpp_2m",
        description="ODE solver; ancestral: the published sampler, with the levels of the cosine "
        "schedule whatever sigma_min and sigma_max",
    )
    steps: int = Field(18, ge=1, le=10_000, description="noise levels of the sampler")
    sigma_min: float = Field(0.01, ge=1e-6, le=1e6, description="smallest noise level")
    sigma_max: float = Field(80.0, ge=1e-6, le=1e6, description="noise level of the start")
    guidance: float = Field(
        1.0,
        ge=0,
        le=100,
        description="weight; 1: the plain conditional model (1 + w in the paper's eq. 4)",
    )
    guidance_interval: Pair = Field(
        (0.05, 80.0), description="noise levels between which guidance acts"
    )
    threshold: float = Field(
        1.0,
        gt=0,
        le=1,
        description="quantile beyond which estimates are cut off, for the published network alone "
        "(its sampler: 0.9); 1: nowhere",
    )
    precision: Precision = Field(
        "auto", description="of autocast; auto: bf16 where the hardware multiplies in it, else fp32"
    )

    @model_validator(mode="after")
    def _noise_levels_are_ordered(self) -> Generation:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min ({self.sigma_min:g}) must be less than sigma_max ({self.sigma_max:g})"
            )
        if self.draws < self.candidates:
            raise ValueError(
                f"draws ({self.draws}) must not be less than candidates ({self.candidates})"
            )
        low, high = self.guidance_interval
        if not 0 <= low <= high:
            raise ValueError("guidance_interval must be two noise levels, the smaller one first")
        if self.method != "joint" and (self.sampler == "ancestral" or self.threshold < 1):
            raise ValueError("sampler ancestral and a threshold below 1 need method joint")
        return self


class Evaluation(Section):
    """Targets of the inverse design and how many candidates the finite elements verify."""

    targets: Annotated[str, AfterValidator(_file_name)] = Field(
        "workflow/targets/paper.csv",
        min_length=1,
        max_length=4096,
        description="CSV of target curves; the default are the four hard targets of the paper",
    )
    held_out: int = Field(
        4,
        ge=0,
        le=1_000_000,
        description="responses of the validation split that are targets as well",
    )
    verify: int = Field(
        2,
        ge=1,
        le=100_000,
        description="candidates per target, best predicted first, that are simulated",
    )


class Search(Section):
    """Search for a design with the finite elements in the loop."""

    goals: Annotated[str, AfterValidator(_file_name)] = Field(
        "workflow/targets/paper.csv",
        min_length=1,
        max_length=4096,
        description="CSV of target curves or YAML of a goal, for the rule search",
    )
    budget: int = Field(200, ge=1, le=100_000, description="simulations per target, at most")
    tolerance: float = Field(
        0.01, ge=0, le=1, description="error of a simulated curve at which a search ends"
    )
    batch: int = Field(10, ge=1, le=10_000, description="designs that a round simulates")
    shard_size: int = Field(
        2, ge=1, le=10_000, description="designs of a round that one job simulates"
    )
    screened: int = Field(
        600, ge=1, le=1_000_000, description="designs per round that the forward model looks at"
    )
    generations: int = Field(
        3, ge=1, le=1000, description="of those that moves make, each from the best of the last one"
    )


class Config(Section):
    """All settings of a run."""

    run: str = Field(
        "default",
        max_length=100,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
        description="results go to results/<run>",
    )
    models: Literal["train", "package"] = Field(
        "train",
        description="train: on designs that the run simulates; package: those of the package, "
        "whose library then stands for the data set",
    )
    seed: int = Field(
        0, ge=0, le=2**32 - 1, description="global seed; every sample derives its own from it"
    )
    designs: Designs = Designs()
    mesh: Mesh = Mesh()
    material: Material = Material()
    contact: Contact = Contact()
    loading: Loading = Loading()
    fields: Fields = Fields()
    dataset: DatasetSplit = DatasetSplit()
    model: Model = Model()
    training: Training = Training()
    designer: Designer = Designer()
    designer_training: DesignerTraining = DesignerTraining()
    response: Response = Response()
    response_training: ResponseTraining = ResponseTraining()
    generation: Generation = Generation()
    evaluation: Evaluation = Evaluation()
    search: Search = Search()


def cross_check(config: Config, where: str = "the configuration") -> None:
    """Refuse settings of different sections that cannot go together.

    A stage that is given its own sections alone cannot know; so this looks at a whole
    configuration: at the start of the workflow and where a file is given.

    Raises
    ------
    ConfigError
        One sentence about the first thing that is wrong.
    """
    designs, evaluation = config.designs, config.evaluation
    from_package = config.models == "package"
    held_out, fraction = _held_out(config), config.dataset.validation_fraction
    shards = -(-designs.count // designs.shard_size)
    wrong = None
    if shards > MOST_SHARDS:
        wrong = (
            f"designs.count {designs.count} in shards of designs.shard_size {designs.shard_size} "
            f"makes {shards} jobs per stage, at most {MOST_SHARDS} are possible: make shards larger"
        )
    elif config.model.reference_frame == "eulerian" and not config.fields.eulerian:
        wrong = (
            "model.reference_frame eulerian needs fields on the deformed cell: set fields.eulerian"
        )
    elif unknown_to_model(config):
        wrong = unknown_to_model(config)
    elif config.generation.method == "joint" and from_package:
        wrong = (
            "generation.method joint needs a space-time model, which the package doesn't have: "
            "set generation.method to cascade, or models to train"
        )
    elif config.model.kind == "published" and config.generation.method != "joint":
        wrong = (
            "model.kind published draws designs and fields at once, and predicts no fields of "
            "given designs: set generation.method to joint"
        )
    elif config.generation.method == "joint" and config.training.known_design == 1:
        wrong = (
            "generation.method joint draws designs with the space-time model, but "
            "training.known_design 1 shows it known designs alone: set it to less, such as 0"
        )
    elif evaluation.verify > config.generation.candidates:
        wrong = (
            f"evaluation.verify ({evaluation.verify}) is more than generation.candidates "
            f"({config.generation.candidates}) per target"
        )
    elif held_out < evaluation.held_out and not from_package:
        wrong = (
            f"evaluation.held_out asks for {evaluation.held_out} held-out responses, but "
            f"dataset.validation_fraction {fraction:g} holds {held_out} of {designs.count} designs "
            f"out: raise it or designs.count, or lower held_out"
        )
    if wrong:
        raise ConfigError(f"{where}: {wrong}")


def unknown_to_model(config: Config) -> str | None:
    """Return which samples training would show the space-time model that it cannot be shown."""
    model, training = config.model, config.training
    if training.known_design and not (model.mask and model.fields):
        return (
            f"training.known_design {training.known_design:g} shows the network a clean design, "
            "for which it needs model.mask, and model.fields to predict: set training.known_design "
            "to 0"
        )
    if training.drop_steps and model.kind == "published":
        return (
            f"training.drop_steps {training.drop_steps:g} hides parts of curves, but model.kind "
            "published knows whole curves alone: set training.drop_steps to 0"
        )
    return None


MOST_SHARDS = 10_000  # Snakemake plans a few hundred jobs per second


def _held_out(config: Config) -> int:
    """Return how many designs are held out, counted no further than needed."""
    fraction, wanted = config.dataset.validation_fraction, config.evaluation.held_out
    found = 0
    for index in range(config.designs.count if fraction else 0):
        if found >= wanted:
            break
        found += in_validation(config.seed, index, fraction)[0]
    return found


# --- what a stage depends on -------------------------------------------------------------------

# Sections, or single settings, that each stage of the workflow depends on. Params of the rules,
# keys of resumed work, the settings recorded in an artefact, and what `crumple STAGE` demands of
# a rule are all made from this table.
DATA = ("seed", "designs", "mesh", "material", "contact", "loading")
STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "sample": ("seed", "designs"),
    "mesh": ("mesh",),
    "simulate": ("material", "contact", "loading"),
    "rasterise": ("fields",),
    "index": (*DATA, "dataset"),
    "inspect": (),
    # Physics too: data that were made with other settings, such as linked ones, are refused.
    "train": (*DATA, "model", "training"),
    "train-designer": (*DATA, "dataset", "designer", "designer_training"),
    "train-response": (*DATA, "dataset", "response", "response_training"),
    "targets": ("evaluation.held_out", "dataset"),
    "generate": ("seed", "designs.side_fraction", "designs.islands", "generation"),
    "extract": ("designs.shard_size", "evaluation.verify"),
    "evaluate": (),
    "report": (),
    "propose": (
        *("seed", "designs.side_fraction", "designs.islands"),
        *("mesh", "material", "contact", "loading"),
        *(
            f"search.{name}"
            for name in ("budget", "batch", "shard_size", "screened", "generations")
        ),
    ),
    "shard": ("mesh", "material", "contact", "loading", "fields"),
    "winner": ("mesh", "material", "contact", "loading"),
    "collect": (),
}

# Settings of these stages that change how a result is made and not the result: another value
# neither runs a stage again nor discards what is done.
OPERATION = (
    *(
        f"{section}.{name}"
        for section in ("training", "designer_training", "response_training")
        for name in (
            *("micro_batch", "checkpoint_minutes"),
            *("log_every", "validate_every", "validation_samples"),
        )
    ),
    "training.compile",
    "generation.batch",
    "search.budget",  # says when a search ends, not what it does until then
)


def stage_settings(config: Config, stage: str) -> dict[str, Any]:
    """Return the settings that the result of a stage depends on, as JSON can hold them.

    Parameters
    ----------
    config
        Settings of the run.
    stage
        A key of :data:`STAGE_SECTIONS`.
    """
    return _pick(config, _stage_paths(stage) - set(OPERATION))


def operation(config: Config) -> dict[str, Any]:
    """Return the settings of :data:`OPERATION`, of all stages; see that."""
    return _pick(config, set(OPERATION))


def _stage_paths(stage: str) -> set[str]:
    """Return the settings of a stage one by one, as "seed" and "training.steps"."""
    paths = set()
    for name in STAGE_SECTIONS[stage]:
        section: Any = Config.model_fields[name].annotation if "." not in name else None
        if _is_section(section):
            paths |= {f"{name}.{key}" for key in section.model_fields}
        else:
            paths.add(name)
    return paths


def _pick(config: Config, paths: set[str]) -> dict[str, Any]:
    """Return the named settings in the order of the configuration."""
    wanted: dict[str, Any] = {}
    for path in paths:
        section, _, key = path.partition(".")
        wanted[section] = wanted.get(section, set()) | {key} if key else True
    return config.model_dump(mode="json", include=wanted)


# --- reading -----------------------------------------------------------------------------------


def load_config(*sources: str | Path, stage: str | None = None) -> Config:
    """Read and validate a configuration.

    Parameters
    ----------
    sources
        Each the path of a YAML file, or a JSON object (a string starting with ``{``), which is
        how workflow rules pass the settings that they depend on. Later ones are laid over earlier
        ones, setting by setting. What a file leaves out has its default.
    stage
        A key of :data:`STAGE_SECTIONS`. JSON then has to hold every setting that this stage
        depends on: a rule that forgets one must not run with a default.

    Raises
    ------
    ConfigError
        When a source cannot be read, names an unknown key, lacks a setting of the stage, or a
        value is out of range.
    """
    values: dict[str, Any] = {}
    for source in sources:
        values = _laid_over(values, read_source(source))
    files = [str(source) for source in sources if not _is_json(source)]
    where = " + ".join(files) or "the configuration given"
    config = parse_config(values, where)
    if files:
        cross_check(config, where)
    elif sources and stage is not None:
        _require(config, stage)
    return config


def read_source(source: str | Path) -> dict[str, Any]:
    """Return the settings that a YAML file or a JSON object names, not yet validated.

    Raises
    ------
    ConfigError
        When it cannot be read, names a key twice, or isn't a mapping.
    """
    is_json = _is_json(source)
    name = "the configuration given" if is_json else f"the configuration {str(source)[:200]}"
    try:
        values = parse_json(str(source)) if is_json else parse_yaml(_read_text(Path(source)))
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"cannot read {name}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name} is not a mapping of keys to values")
    return values


def _read_text(path: Path) -> str:
    """Return the text of a file of a reasonable size (a device may never end)."""
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE // 1000} kB")
    return content.decode("utf-8-sig")


LARGEST_FILE = 100_000  # bytes; every setting with its comment takes 8,000


def _is_json(source: str | Path) -> bool:
    return str(source).lstrip().startswith("{")


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return ``below`` with the settings of ``above``, section by section."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _laid_over(old, value)
        merged[key] = value
    return merged


def _require(config: Config, stage: str) -> None:
    """Raise when a setting that the stage depends on was not given."""
    missing = []
    for path in sorted(_stage_paths(stage)):
        section, _, key = path.partition(".")
        given = section in config.model_fields_set
        if given and key:
            given = key in getattr(config, section).model_fields_set
        if not given:
            missing.append(path)
    if missing:
        raise ConfigError(
            f"the configuration given to `crumple {stage}` lacks {', '.join(missing)}: as JSON it "
            "must hold every setting of the stage; a YAML file may leave out what has a default"
        )


def parse_config(values: Any, where: str = "the configuration") -> Config:
    """Validate a configuration that is already a mapping; see :func:`load_config`."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is not a mapping of keys to values")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_sentence(error, where)) from error


def json_schema() -> str:
    """Return the JSON schema by which editors complete and check configurations."""
    schema = Config.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2) + "\n"


def default_yaml() -> str:
    """Return every setting with its default, unit, meaning and allowed values, as YAML."""
    head = (
        "# yaml-language-server: $schema=workflow/schemas/config.schema.json\n"
        "# Every setting with its default. Generated from src/crumple/config.py by "
        "`crumple config`;\n# a preset (workflow/presets/) names only what it changes.\n"
    )
    return head + "\n".join(_yaml_lines(Config(), "")) + "\n"


def _yaml_lines(section: Section, indent: str) -> list[str]:
    lines = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            lines += ["", f"{indent}# {_first_line(type(value))}", f"{indent}{name}:"]
            lines += _yaml_lines(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], tuple):
            lines += [f"{indent}# {info.description}", f"{indent}{name}:"]
            lines += [f"{indent}  - {_plain(list(row))}" for row in value]
        else:
            allowed = _allowed(type(section), name)
            comment = "; ".join(part for part in (info.description, allowed) if part)
            lines += [f"{indent}# {comment}", f"{indent}{name}: {_plain(value)}"]
    return lines


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _plain(value: Any) -> str:
    """Return a value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _allowed(model: type[BaseModel], name: str) -> str:
    """Return the allowed values of one setting in words, from its type."""
    annotation = model.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    schema = model.model_json_schema()["properties"][name]
    if "pattern" in schema:
        return f"text that matches {schema['pattern']}"
    bounds = [f"{symbol} {_bound(schema[key])}" for key, symbol in _BOUNDS.items() if key in schema]
    return " and ".join(bounds)


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _one_sentence(error: ValidationError, where: str) -> str:
    """Return what is wrong with the first bad setting: its key, its value, what is allowed."""
    first = error.errors()[0]
    key = repr(".".join(str(part) for part in first["loc"]))
    key = key if len(key) <= 80 else key[:80] + "...'"
    model, name = _setting(first["loc"])
    if first["type"] in ("extra_forbidden", "invalid_key"):
        return f"{where}: unknown key {key}; allowed here: {', '.join(model.model_fields)}"
    if first["type"] == "value_error":
        return f"{where}: in {key}, {first['ctx']['error']}"
    reason = first["msg"][:1].lower() + first["msg"][1:]
    value = _short(first["input"])
    message = f"{where}: {key} = {value} is not possible: {reason}"
    hints = [hint for hint in (_allowed(model, name), model.model_fields[name].description) if hint]
    return f"{message} ({'; '.join(hints)})" if hints else message


def _short(value: Any) -> str:
    """Return a value for a message: a nested or a huge one is cut."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits have no text
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:80] + " ..."


def _setting(loc: tuple[int | str, ...]) -> tuple[type[BaseModel], str]:
    """Return the section and the name of the setting that an error points at."""
    model: Any = Config
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None or not _is_section(field.annotation):
            return model, str(part)
        model = field.annotation
    return Config, str(loc[0])


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
