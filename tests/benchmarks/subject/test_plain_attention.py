"""The plain reading of the attention loss against its closed form."""

import math

import pytest
import torch

from comfyui_fewshot.benchmarks.subject.plain_attention import local_loss_of_maxima
from comfyui_fewshot.trainers.losses import SURE


def half_mask():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :] = 1
    return mask


def test_it_divides_by_the_maximum():
    """Half the attention scaled by any factor is the same: the cross-entropy of 1 inside and 1/2 outside."""
    shares = (half_mask() + 1) * 0.01
    p, q = 1 - SURE, 0.5
    expected = -(math.log(p) + math.log(q)) / 2
    for scale in (1.0, 20.0):
        found = local_loss_of_maxima(shares * scale, half_mask(), torch.ones(1, 1))
        assert found.item() == pytest.approx(expected, rel=1e-4)


def test_rows_stand_for_themselves_and_invalid_ones_for_nothing():
    shares = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    both = local_loss_of_maxima(shares, half_mask().expand(2, 2, -1, -1), valid)
    alone = local_loss_of_maxima(shares[:1, :1], half_mask(), torch.ones(1, 1))
    assert both[0].item() == pytest.approx(alone.item()) and both[1].item() == 0
