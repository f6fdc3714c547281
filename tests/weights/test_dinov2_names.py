"""The spellings of a backbone: one table, which the model files repeat because they travel alone."""

import pytest
import torch

from spider_tools import remote_code
from spider_tools.weights.dinov2_names import TRANSFORMERS_4, TRANSFORMERS_5, in_pieces, projection_names


@pytest.fixture
def backbone(make_model):
    return make_model().backbone


def in_spelling(backbone, spelling):
    """A state dict of the backbone in one of the two versions' names, stacked where that version stacks."""
    pieces = in_pieces(backbone.state_dict())
    names = dict.fromkeys(spelling.name_of(piece) for piece in pieces)
    return {name: torch.cat([pieces[p] for p in spelling.pieces(name)]) for name in names}


def test_both_versions_are_cut_into_the_same_pieces(backbone):
    older, newer = (in_spelling(backbone, spelling) for spelling in (TRANSFORMERS_4, TRANSFORMERS_5))
    assert older.keys() != newer.keys()
    assert any("weights_in" in name for name in older)
    for name, tensor in in_pieces(older).items():
        assert torch.equal(tensor, in_pieces(newer)[name]), name
    assert in_pieces(newer).keys() == newer.keys()


def test_the_renaming_of_the_model_files_is_that_of_the_table(backbone):
    """`load_state_dict` of a model takes the older names wherever the backbone has the newer ones."""
    hook = remote_code.model_class().__init__.__globals__["accept_other_names"]
    state = {f"x.{name}": tensor for name, tensor in in_spelling(backbone, TRANSFORMERS_4).items()}
    hook(backbone, state, "x.")
    if any(".q_proj." in name for name in backbone.state_dict()):
        expected = in_spelling(backbone, TRANSFORMERS_5)
        assert state.keys() == {f"x.{name}" for name in expected}
        assert all(torch.equal(state[f"x.{name}"], tensor) for name, tensor in expected.items())
    else:
        assert state.keys() == {f"x.{name}" for name in in_spelling(backbone, TRANSFORMERS_4)}


def test_the_projections_that_adapters_go_to_are_three_a_layer_of_this_version(backbone):
    names = projection_names(backbone.state_dict())
    assert len(names) == 3
    layers = [name for name, _ in backbone.named_modules() if name.rpartition(".")[2] in names]
    assert len(layers) == 3 * backbone.config.num_hidden_layers


def test_names_of_something_else_stay_as_they_are(backbone):
    state = {**backbone.state_dict(), "adapter.weight": torch.ones(2)}
    assert in_pieces(state)["adapter.weight"].tolist() == [1, 1]
