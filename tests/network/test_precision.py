"""Which number format a device gets."""

from __future__ import annotations

import pytest
import torch

from cryomend.network.precision import autocast_dtype


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"avx2": True}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, None),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_multiplies_it(monkeypatch, found, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert autocast_dtype("auto", "cpu") is wanted


def test_what_is_asked_for_is_taken():
    assert autocast_dtype("float32", "cuda") is None
    assert autocast_dtype("bfloat16", "cpu") is torch.bfloat16
    assert autocast_dtype("float16", "cuda:1") is torch.float16


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_float16_is_refused_off_cuda(device):
    with pytest.raises(ValueError, match="float16 needs a CUDA device; use float32 or bfloat16"):
        autocast_dtype("float16", device)
