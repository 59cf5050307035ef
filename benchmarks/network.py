"""Cost of the denoiser beside that of the published network, alternated in one run.

The published code (github.com/jhbastek/VideoMetamaterials, MIT) isn't part of this repository.
Clone it, install what it imports (``pip install --no-deps einops-exts rotary-embedding-torch``)
and name its folder:

    python benchmarks/network.py --published VideoMetamaterials

Times are CPU seconds per sample, so that other jobs on the machine count little; the ratio of the
medians is what carries over to another machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crumple.config import Generation, Model, Training
from crumple.diffusion.model import build_network
from crumple.diffusion.network import Layout
from crumple.diffusion.preconditioning import Denoiser, denoising_loss
from crumple.diffusion.sampling import SAMPLERS, guided, karras_sigmas
from crumple.diffusion.training import build_optimizer

STEPS = 11  # strain steps
ONLY_FOR_DATA = ("torchvision", "PIL", "networkx", "imageio", "matplotlib", "matplotlib.pyplot")


class Contender:
    """A network with its loss: what is timed."""

    def __init__(self, name: str, network: nn.Module, loss: Callable[[], Tensor], autocast: bool):
        self.name, self.network, self.loss, self.autocast = name, network, loss, autocast
        self.optimizer: torch.optim.Optimizer | None = None
        self.sampling_passes = 0
        self.seconds: dict[str, list[float]] = {"training step": [], "forward": []}

    def forward(self) -> None:
        with torch.inference_mode(), self._precision():
            self.loss()

    def training_step(self) -> None:
        with self._precision():
            loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _precision(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.autocast)

    def parameters(self) -> float:
        """Millions."""
        return sum(p.numel() for p in self.network.parameters()) / 1e6

    def flops(self) -> float:
        """GFLOP of one forward pass of one sample."""
        with FlopCounterMode(display=False) as counter, self._precision():
            self.loss()
        return counter.get_total_flops() / 1e9

    def kept_memory(self) -> float:
        """GB that one sample keeps for the backward pass, beside the parameters."""
        kept: dict[int, int] = {}
        own = {p.untyped_storage().data_ptr() for p in self.network.parameters()}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            with self._precision():
                loss = self.loss()
        del loss
        return sum(kept.values()) / 1e9


def ours(autocast: bool) -> Contender:
    """The network of the presets desktop and paper, one sample."""
    settings, layout = Model(), Layout(static=1, frames=STEPS, fields=3)
    network = build_network(settings, layout, STEPS)
    denoiser, weights = Denoiser(network), layout.weights()
    state = torch.randn(1, layout.channels, 96, 96)
    noise, sigma = torch.randn_like(state), torch.ones(1)
    stress, known = torch.ones(1, STEPS), torch.ones(1, STEPS, dtype=torch.bool)
    name = "crumple, bf16" if autocast else "crumple, fp32"
    contender = Contender(
        name,
        network,
        lambda: denoising_loss(denoiser, state, noise, sigma, stress, known, weights).mean(),
        autocast,
    )
    contender.optimizer = build_optimizer(network, Training())
    return contender


def published(folder: Path) -> Contender:
    """The published network at its published settings, one sample."""
    settings = yaml.safe_load((folder / "model.yaml").read_text())
    sys.path.insert(0, str(folder))
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in ONLY_FOR_DATA}):
        module = importlib.import_module(
            "denoising_diffusion_pytorch.video_denoising_diffusion_pytorch"
        )
    network = module.Unet3D(
        dim=settings["unet_dim"],
        channels=len(settings["selected_channels"]),
        attn_heads=settings["unet_attn_heads"],
        attn_dim_head=settings["unet_attn_dim_head"],
        use_sparse_linear_attn=settings["unet_use_sparse_linear_attn"],
        resnet_groups=settings["unet_resnet_groups"],
        cond_bias=True,
        cond_attention=settings["unet_cond_attention"],
        use_temporal_attention_cond=settings["unet_temporal_att_cond"],
        cond_to_time=settings["unet_cond_to_time"],
        per_frame_cond=settings["per_frame_cond"],
        padding_mode=settings["padding_mode"],
    )
    diffusion = module.GaussianDiffusion(
        network,
        image_size=96,
        num_frames=STEPS,
        channels=network.channels,
        timesteps=settings["train_timesteps"],
        loss_type="l1",
        use_dynamic_thres=settings["use_dynamic_thres"],
        sampling_timesteps=settings["sampling_timesteps"],
    )
    video, stress = torch.rand(1, network.channels, STEPS, 96, 96), torch.rand(1, STEPS)
    contender = Contender(
        "published, fp32", network, lambda: diffusion(video, cond=stress, null_cond_prob=0.1), False
    )
    contender.optimizer = torch.optim.Adam(network.parameters(), lr=settings["learning_rate"])
    # 256 steps, each with and without the condition.
    contender.sampling_passes = 2 * settings["sampling_timesteps"]
    return contender


def sampling_passes(settings: Generation) -> int:
    """Forward passes of one sample that one design takes, guidance included."""
    passes = 0

    def denoiser(x: Tensor, sigma: Tensor, stress: Tensor, known: Tensor) -> Tensor:
        nonlocal passes
        passes += len(x)
        return x

    one = torch.zeros(1, 1)
    denoise = guided(denoiser, one, one > 0, settings.guidance, settings.guidance_interval)
    sigmas = karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max)
    SAMPLERS[settings.sampler](denoise, torch.zeros(1, 1, 1, 1), sigmas)
    return passes


def measure(contenders: list[Contender], repeats: int) -> None:
    """Time every contender in turn, ``repeats`` times after one warm-up."""
    for repeat in range(repeats + 1):
        for contender in contenders:
            for what, work in (
                ("training step", contender.training_step),
                ("forward", contender.forward),
            ):
                start = time.process_time()
                work()
                if repeat:
                    contender.seconds[what].append(time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, help="folder of the published code")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    contenders = [ours(False), ours(True)]
    for contender in contenders:
        contender.sampling_passes = sampling_passes(Generation())
    if args.published:
        contenders.append(published(args.published))
    results = {
        c.name: {
            "parameters_m": c.parameters(),
            "forward_gflop": c.flops(),
            "kept_for_backward_gb": c.kept_memory(),
            "sampling_passes": c.sampling_passes,
        }
        for c in contenders
    }
    measure(contenders, args.repeats)
    for c in contenders:
        medians = {what: statistics.median(times) for what, times in c.seconds.items()}
        results[c.name] |= {
            "training_step_s": medians["training step"],
            "forward_s": medians["forward"],
            "sampling_s": medians["forward"] * c.sampling_passes,
        }
    for name, row in results.items():
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in row.items()), sep=": ")
    if args.published:
        theirs = results[contenders[-1].name]
        for c in contenders[:-1]:
            ratios = {
                what: theirs[what] / results[c.name][what]
                for what in ("training_step_s", "forward_s", "sampling_s")
            }
            results[c.name]["ratios_to_published"] = ratios
            text = ", ".join(f"{what} {ratio:.3g} times" for what, ratio in ratios.items())
            print(f"published / {c.name}: {text}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
