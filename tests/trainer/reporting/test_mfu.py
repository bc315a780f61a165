"""Utilization: known devices, unknown ones, and the arithmetic."""

from __future__ import annotations

import pytest

from trainer.reporting.mfu import model_flops_utilization, peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA RTX A1000", None),
        ("cpu (2 threads)", None),
    ],
)
def test_peak_flops(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_llm_c_baseline() -> None:
    # 124M parameters at T=1024: 6 N + 12 L D T = 8.6e8 FLOPs a token; 463k tok/s on one
    # H100 is 40% (the figure in llm.c's baseline).
    flops = 6 * 124e6 + 12 * 12 * 768 * 1024
    found = model_flops_utilization(463_000, flops, "NVIDIA H100 80GB HBM3")
    assert found == pytest.approx(0.40, abs=0.005)


def test_devices_share_the_tokens() -> None:
    one = model_flops_utilization(1e5, 1e9, "NVIDIA H100 80GB HBM3")
    eight = model_flops_utilization(8e5, 1e9, "NVIDIA H100 80GB HBM3", devices=8)
    assert one is not None
    assert eight == pytest.approx(one)


def test_a_cpu_has_none() -> None:
    assert model_flops_utilization(1e5, 1e9, "cpu (2 threads)") is None
