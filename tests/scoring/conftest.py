"""Fixtures of the scoring tests."""

import pytest
from torch.nn.attention import flex_attention


@pytest.fixture
def flex_by_hand(monkeypatch):
    """FlexAttention's operator uncompiled: once torch's check is lifted it has a backward pass on a CPU."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda query, key, value: None)
