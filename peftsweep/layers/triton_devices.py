"""Where do Triton's kernels run?"""

from __future__ import annotations

import importlib.util

import torch


def runs_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run on the device: on GPUs since Ampere."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
