"""Model FLOPs utilization: the share of a device's peak arithmetic that training uses.

After PaLM (Chowdhery et al. 2022, appendix B): the arithmetic that the model needs,
recomputation not counted, over what the device could do. Peaks are the makers' figures
for dense bfloat16 matrix products, without sparsity; a device that is not listed has no
MFU, rather than a guessed one.
"""

from __future__ import annotations

# Fragment of torch.cuda.get_device_name() -> dense bf16 FLOP/s, from the data sheets.
# The first that fits is taken: variants stand before their plain names.
_PEAKS: tuple[tuple[str, float], ...] = (
    ("H100 PCIE", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989.4e12),  # SXM5
    ("H200 NVL", 835e12),
    ("H200", 989.4e12),
    ("GH200", 989.4e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
)


def peak_flops(device_name: str) -> float | None:
    """Return a device's peak for dense bfloat16 matrix products (FLOP/s), if it is known."""
    name = device_name.upper()
    words = name.replace("-", " ").split()
    for fragment, peak in _PEAKS:
        # Whole words: "A100" must not be found in "A1000", nor "L4" in "L40".
        wanted = fragment.split()
        if any(words[at : at + len(wanted)] == wanted for at in range(len(words))):
            return peak
    return None


def model_flops_utilization(
    tokens_per_second: float, flops_per_token: float, device_name: str, devices: int = 1
) -> float | None:
    """Return the utilization (0 to 1), or None on a device without a known peak.

    Args:
        tokens_per_second: of all devices together.
        flops_per_token: forward and backward, without recomputation.
        device_name: as torch.cuda.get_device_name() says it.
        devices: how many share the work.
    """
    peak = peak_flops(device_name)
    if peak is None or devices < 1:
        return None
    return tokens_per_second * flops_per_token / (peak * devices)
