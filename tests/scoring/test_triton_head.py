"""The head that TRL brings for CUDA: what we ask of it, and its kernels under Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from triton_head import CASES, hold

from mallowspo import compat
from mallowspo.scoring.response_head import LogitTransform

SCRIPT = Path(__file__).with_name("triton_head.py")


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Without Triton, TRL computes the same in torch; its arguments and its answers are those of the kernels."""
    monkeypatch.setattr(compat, "is_triton_available", lambda: True)
    monkeypatch.setattr(compat, "_VOCABULARY_TILE", 1500)


@pytest.mark.parametrize(("transform", "bias"), CASES, ids=str)
def test_values_and_gradients_are_those_of_plain_logits(on_a_cpu, transform, bias):
    hold(transform, bias, "cpu")


def test_bfloat16(on_a_cpu):
    hold(LogitTransform(), False, "cpu", torch.bfloat16)


def test_no_tokens_at_all(on_a_cpu):
    h, w = torch.zeros(0, 4, requires_grad=True), torch.ones(8, 4, requires_grad=True)
    log_prob, entropy, mean_logit, top1 = compat.triton_response_head(
        h, w, None, torch.zeros(0, dtype=torch.long), scale=1.0, softcap=None
    )
    log_prob.sum().backward()
    assert log_prob.shape == entropy.shape == mean_logit.shape == top1.shape == (0,) and w.grad.abs().sum() == 0


def test_without_triton_there_is_none(monkeypatch):
    monkeypatch.setattr(compat, "is_triton_available", lambda: False)
    assert compat.triton_response_head(None, None, None, None, scale=1.0, softcap=None) is None


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install triton")
def test_the_kernels_under_the_interpreter():
    """Forward and backward kernel on a CPU, one program after the other."""
    tests = str(SCRIPT.parent.parent)
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 cases held" in done.stdout
