"""The published weights as a model (``crumple import-checkpoint``).

A checkpoint of the published code is ``{model, optimizer, steps, ema}``; the averaged weights
``ema``, with which that code samples, become ``model.safetensors``. It doesn't hold the scaling of
states and curves, which follows from the tables of the training data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crumple.atomic import atomic_path, claim, save_record, save_sums
from crumple.config import PUBLISHED_MODEL, Model
from crumple.dataset import read_manifest
from crumple.diffusion.data import Normalisation, Range, ranges
from crumple.diffusion.model import save_model
from crumple.diffusion.noise_prediction import LEVELS
from crumple.diffusion.published_network import HEADS, PublishedNetwork, rotation
from crumple.diffusion.sampling import cosine_sigmas
from crumple.errors import UserError
from crumple.layout import CURVE_STRAIN, FRAME_STRAIN
from crumple.provenance import PUBLISHED, hash_file, is_published
from crumple.published.files import COLUMNS, CURVES, RANGE_COLUMNS, RANGES
from crumple.published.importing import read_part
from crumple.readers import refusing

STAGE = "import-checkpoint"
ADVICE = "name the checkpoint.pt of the published code"
PARTS = ("model", "optimizer", "steps", "ema")
# What the published code calls the parts of the network, in the order of replacement.
THEIRS = (
    (r"\.step\.", ".4."),
    (r"^(down|up)\.(\d+)\.", r"\1s.\2."),
    (r"^(downs|ups)\.(\d+)\.first\.", r"\1.\2.0."),
    (r"^(downs|ups)\.(\d+)\.second\.", r"\1.\2.1."),
    (r"^(downs|ups)\.(\d+)\.space\.norm\.weight", r"\1.\2.2.fn.norm.gamma"),
    (r"^(downs|ups)\.(\d+)\.space\.", r"\1.\2.2.fn.fn."),
    (r"^(downs|ups)\.(\d+)\.time\.", r"\1.\2.3."),
    (r"^stem_time\.", "init_temporal_attn."),
    (r"^middle_time\.", "mid_temporal_attn."),
    (r"^middle_space\.", "mid_spatial_attn."),
    (r"^(.*_attn|.*\.3)\.norm\.weight", r"\1.fn.norm.gamma"),
    (r"^(.*_attn|.*\.3)\.(query|token|out)", r"\1.fn.fn.fn.\2"),
    (r"^middle_first\.", "mid_block1."),
    (r"^middle_second\.", "mid_block2."),
    (r"^last\.", "final_conv.0."),
    (r"^head\.", "final_conv.1."),
    (r"\.convolution_in\.", ".block1.proj."),
    (r"\.norm_in\.", ".block1.norm."),
    (r"\.convolution_out\.", ".block2.proj."),
    (r"\.norm_out\.", ".block2.norm."),
    (r"\.modulation\.", ".mlp.1."),
    (r"\.skip\.", ".res_conv."),
    (r"\.query_key_value\.", ".to_qkv."),
    (r"\.out\.", ".to_out."),
    (r"^stem\.", "init_conv."),
    (r"^level\.0\.", "time_mlp.1."),
    (r"^level\.2\.", "time_mlp.3."),
    (r"^stress\.", "sign_emb."),
    (r"^curve\.", "cond_token_to_hidden."),
    (r"^distance\.", "time_rel_pos_bias.relative_attention_bias."),
    (r"^no_tokens$", "null_text_token"),
    (r"^no_curve$", "null_text_hidden"),
)
UNUSED = re.compile(  # what it holds without using it when every frame has its token
    r"sign_emb_CNN\..*|.*\.to_q\.weight|init_temporal_attn\..*\.to_[kv]\.weight|.*\.rotary_emb\.freqs"
)


def their_names(name: str) -> list[str]:
    """Return what the published code calls a parameter of :class:`PublishedNetwork`.

    It has keys and values of tokens, which are one matrix here, in two.
    """
    for ours, theirs in THEIRS:
        name = re.sub(ours, theirs, name)
    parts = ("to_k", "to_v") if "token_key_value" in name else ("",)
    return [name.replace("token_key_value", part) for part in parts]


def import_checkpoint(checkpoint: Path, tables: Path, dataset: Path | None, out: Path) -> None:
    """Write published weights as a model that ``crumple generate --model`` takes.

    Parameters
    ----------
    checkpoint
        ``checkpoint.pt``. Nothing in it is run: it is read as tensors and numbers alone.
    tables
        Folder of the training data, with ``frame_range_data.csv`` and ``stress_strain_data.csv``.
    dataset
        ``dataset.json`` of these data as shards, if candidates are to be evaluated with it.
    out
        Folder that the model becomes; see :mod:`crumple.diffusion.model`.

    Raises
    ------
    UserError
        When a file is damaged, or holds another network, noise schedule or data set.
    """
    out = claim(out, STAGE, folder=True)
    record: dict[str, Any] = {"settings": {PUBLISHED: {"physics": "published"}}, "inputs": {}}
    if dataset is not None:
        record = read_manifest(dataset)["made_by"]
        if not is_published(record):
            raise UserError(
                f"{dataset} isn't the published data set: name the one made of the shards of "
                "`crumple import-published`, or leave --dataset out"
            )
        record["inputs"] |= {"dataset": hash_file(dataset)}
    normalisation = read_scaling(tables)
    steps, theirs = read_checkpoint(checkpoint)
    with refusing(checkpoint, ADVICE):
        model = describe(theirs)
        weights = translate(theirs, model, normalisation)
    inputs = {"checkpoint": hash_file(checkpoint)}
    inputs |= {name: hash_file(tables / name) for name in (RANGES, CURVES)}
    with atomic_path(out) as folder:
        folder.mkdir()
        save_model(folder, weights, model, normalisation, 0.0, {"imported": inputs, "steps": steps})
        save_record(folder, record | {"stage": STAGE, "inputs": record["inputs"] | inputs})
        save_sums(folder)
    count = sum(value.numel() for value in weights.values())
    print(f"{out}: {count:,} averaged weights of step {steps}")


def read_scaling(tables: Path) -> Normalisation:
    """Return the scaling of the published training from the tables of its data.

    Fields go from -1 to 1 between their least and their largest value in all samples, curves
    between those of all samples at the strains of the frames.
    """
    part = read_part(tables)
    advice = "unpack the published data set again"
    with refusing(tables / RANGES, advice):
        lines = _numbers(part.ranges, RANGE_COLUMNS)
        fields = {}
        for name in ("u1", "u2", "s22"):
            low, high = COLUMNS[name]
            fields[name] = Range(lines[:, low].min(), lines[:, high].max())
    with refusing(tables / CURVES, advice):
        curves = _numbers(part.curves, len(CURVE_STRAIN))
        stress = np.array([np.interp(FRAME_STRAIN, CURVE_STRAIN, curve) for curve in curves])
        return ranges(fields, Range(stress.min(), stress.max()), FRAME_STRAIN.tolist())


def _numbers(lines: list[list[str]], columns: int) -> np.ndarray:
    """Return the numbers of a table; one line that isn't whole would spoil what it says."""
    for number, line in enumerate(lines, start=1):
        if len(line) != columns:
            raise ValueError(f"line {number} has {len(line)} values, not {columns}")
    values = np.array(lines, float)
    if not np.isfinite(values).all():
        raise ValueError("a value is not a finite number")
    return values


def read_checkpoint(path: Path) -> tuple[int, dict[str, Tensor]]:
    """Return the number of steps and the averaged weights by their published names."""
    with refusing(path, ADVICE):
        path.open("rb").close()
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # what it says goes on for a page
            raise ValueError("it is damaged, or holds more than tensors and numbers") from error
        if not isinstance(content, Mapping) or not set(PARTS) <= set(content):
            raise ValueError(f"it doesn't hold {', '.join(PARTS)}")
        steps, state = content["steps"], content["ema"]
        if not isinstance(steps, int) or not isinstance(state, Mapping):
            raise ValueError("its steps or its averaged weights are none")
        if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
            raise ValueError("its averaged weights hold other things than tensors")
        weights = {name.removeprefix("module."): value for name, value in state.items()}
        beta = weights.get("betas")
        if beta is None or beta.shape != (LEVELS,) or not torch.allclose(beta, _betas(), atol=1e-5):
            raise ValueError(f"its noise levels aren't the {LEVELS} of the cosine schedule")
        of_network = (name for name in weights if name.startswith("denoise_fn."))
        return steps, {name.removeprefix("denoise_fn."): weights[name] for name in of_network}


def _betas() -> Tensor:
    """Return the published schedule in its own terms: the noise that each of the levels adds."""
    variance = cosine_sigmas(LEVELS).flip(0).square()  # of the noise, in units of the signal's
    return (1 - (1 + variance[:-1]) / (1 + variance[1:])).float()


def describe(theirs: Mapping[str, Tensor]) -> Model:
    """Return the settings of a network from the shapes of its weights."""
    channels: list[int] = []
    while (name := f"downs.{len(channels)}.0.block1.proj.weight") in theirs:
        channels.append(theirs[name].shape[0])
    projection = theirs.get("init_temporal_attn.fn.fn.fn.to_qkv.weight")
    if not channels or projection is None or "sign_emb.weight" not in theirs:
        raise ValueError("it isn't the published network, zero-padded and with a token per frame")
    return Model.model_validate(
        PUBLISHED_MODEL
        | {
            "kind": "published",
            "channels": channels,
            "depths": [2] * len(channels),
            "embedding": 4 * channels[0],
            "head": projection.shape[0] // (3 * HEADS),
        }
    )


def translate(
    theirs: Mapping[str, Tensor], model: Model, normalisation: Normalisation
) -> dict[str, Tensor]:
    """Return the state of :class:`PublishedNetwork` from the weights of the published code.

    Raises
    ------
    ValueError
        When one is missing, has another shape, isn't finite, or isn't known.
    """
    steps = len(normalisation.curve_strain)
    with torch.device("meta"):
        network = PublishedNetwork(normalisation.layout, steps, model.channels, model.head)
    weights, used = {}, set()
    for name, wanted in network.state_dict().items():
        names = their_names(name)
        missing = [part for part in names if part not in theirs]
        if missing:
            raise ValueError(f"the weights {missing[0]} are missing")
        found = torch.cat([theirs[part] for part in names]).float()
        # Their convolutions have an axis of size 1 for the frames.
        if [size for size in found.shape if size > 1] != [
            size for size in wanted.shape if size > 1
        ]:
            raise ValueError(f"the weights {names[0]} have the shape {tuple(found.shape)}")
        if not found.isfinite().all():
            raise ValueError(f"the weights {names[0]} aren't finite")
        weights[name] = found.reshape(wanted.shape).clone()
        used |= set(names)
    unknown = [name for name in theirs if name not in used and not UNUSED.fullmatch(name)]
    if unknown:
        raise ValueError(f"the weights {unknown[0]} aren't those of the published network")
    speeds = _speeds(model.head)
    for name, value in theirs.items():
        if name.endswith("rotary_emb.freqs") and not (
            value.shape == speeds.shape and torch.allclose(value.float(), speeds, rtol=1e-5)
        ):
            raise ValueError(f"{name} isn't as published")
    return weights


def _sizes(value: Tensor) -> list[int]:
    """Return the shape without axes of size 1: their convolutions have one for the frames."""
    return [size for size in value.shape if size > 1]


def _speeds(head: int) -> Tensor:
    """Return the angles by which pairs of features turn from frame to frame."""
    cosine, sine = rotation(2, head)
    return torch.atan2(sine[1], cosine[1])[: min(32, head) : 2]
