"""Precision of matrix products and convolutions; weights are kept in fp32 throughout."""

from __future__ import annotations

import torch

from crumple.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(precision: str, device_type: str, setting: str) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``; ``auto`` looks at the hardware.

    Parameters
    ----------
    precision
        What the setting says.
    device_type
        ``cpu`` or ``cuda``.
    setting
        Name of the setting, for the sentence.

    Raises
    ------
    UserError
        When the device cannot do it.
    """
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if device_type == "cuda" else _cpu_multiplies_bf16()
        return "bf16" if fast else "fp32"
    if precision == "fp16" and device_type != "cuda":
        raise UserError(f"{setting} fp16 needs a GPU: use auto, bf16 or fp32")
    return precision


def autocast(precision: str, device_type: str) -> torch.autocast:
    """Return the context in which a network computes in a resolved precision."""
    return torch.autocast(device_type, DTYPES[precision], enabled=precision != "fp32")


def _cpu_multiplies_bf16() -> bool:
    cpu = torch.backends.cpu.get_cpu_capability()
    return cpu == "AVX512" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
