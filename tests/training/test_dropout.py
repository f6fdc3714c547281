"""Dropout that is faster: against torch's own, element by element."""

import pytest
import torch
from torch import nn

from spider_tools.training.dropout import SameDropout, draws_alike, speed_up_dropout

# Elsewhere training keeps torch's dropout, and there is nothing to compare.
alike_here = pytest.mark.skipif(not draws_alike(), reason="on this CPU torch draws dropout masks in another way")


@alike_here
@pytest.mark.parametrize("p", [0.5, 0.3, 0.1, 0.123456789, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_gradients_and_the_generator_are_those_of_torch(p, dtype):
    start = torch.randn(37, 25, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = []
    for dropout in (nn.Dropout(p), SameDropout(p)):
        values = start.clone().requires_grad_()
        torch.manual_seed(3)
        dropped = dropout(values)
        (dropped * start).sum().backward()
        found.append((dropped, values.grad, torch.get_rng_state()))
    assert 0 < (found[0][0] == 0).float().mean() < 1
    for theirs, ours in zip(*found):
        assert torch.equal(theirs, ours)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_nothing_is_dropped_or_drawn_without_need(p, training):
    values, before = torch.randn(5, 4), torch.get_rng_state()
    assert torch.equal(SameDropout(p).train(training)(values), values)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_share_of_one_drops_everything():
    assert SameDropout(1.0)(torch.randn(5, 4)).tolist() == torch.zeros(5, 4).tolist()


@alike_here
def test_the_layers_of_a_model_are_replaced_and_it_computes_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.Dropout(0.4), nn.Linear(16, 3)), nn.Dropout(0.0)).train()
    values, names = torch.randn(50, 8), list(model.state_dict())
    torch.manual_seed(1)
    before = model(values)

    speed_up_dropout(model)

    assert [type(module) for module in model.modules()].count(SameDropout) == 1
    assert list(model.state_dict()) == names
    torch.manual_seed(1)
    assert torch.equal(model(values), before)
    assert not torch.equal(model(values), before), "masks differ from call to call"


def test_finding_out_leaves_the_generator_alone():
    before = torch.get_rng_state()
    draws_alike()
    assert torch.equal(torch.get_rng_state(), before)
