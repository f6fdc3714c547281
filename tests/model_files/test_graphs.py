"""The model and its halves as graphs, exported or compiled, that take any number of regions."""

import io

import numpy as np
import pytest
import torch
from tiny_spider import BACKBONE
from torch._dynamo.testing import CompileCounter

ANY = {0: torch.export.Dim.DYNAMIC}
BATCHES = (1, 2, 3, 7, 25)
HEADS = (
    {},
    {"head_readout": "first"},
    {"head_readout": "mean", "head_pooler": True},
    {"head_residual": True, "head_beside": "projection"},
    {"head_readout": "mean", "head_residual": True, "head_beside": "backbone", "head_pooler": True},
)


@pytest.fixture(scope="module")
def regions():
    """25 regions with masks of all kinds: pixels, masks and labels, of which batches are taken."""
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand(25, 25, generator=generator) > torch.linspace(0, 1, 25)[:, None]
    mask[:, 12] = True
    pixels = torch.randn(25, 25, 3, 28, 28, generator=generator)
    pixels[~mask] = float("nan")
    return {"pixel_values": pixels, "context_mask": mask, "labels": torch.arange(25) % 4}


@pytest.fixture(scope="module")
def knowing(make_model):
    """A model that has all that can come out."""
    model = make_model(
        familiarity_means=3,
        unfamiliarity_threshold=1.0,
        conformal_scores=9,
        logit_temperature=1.7,
        class_names=["Ω", 'a "b"', "c\x00", "d"],
        head_readout="mean",
        head_num_hidden_layers=1,
        backbone_config={**BACKBONE, "num_hidden_layers": 1},
    )
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.named_buffers():
        if name.startswith(("familiarity.", "class_sets.")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    model.class_sets.scores.copy_(model.class_sets.scores.sort(dim=1).values)
    model.class_sets.scores[1, 4:] = float("inf")
    return model


def first(inputs, batch):
    return {name: value[:batch] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def exported(model, inputs):
    shapes = {name: ANY if isinstance(value, torch.Tensor) else None for name, value in inputs.items()}
    return torch.export.export(model, (), first(inputs, 2), dynamic_shapes=shapes, strict=False)


def tensors(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs.to_tuple())


class Embedding(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model.embed_patches(pixel_values)


class Heads(torch.nn.Module):
    """Several heads side by side: one export for all of them."""

    def __init__(self, models):
        super().__init__()
        self.models = torch.nn.ModuleList(models)

    def forward(self, patch_embeddings, context_mask):
        both = (context_mask, None)
        return torch.stack([m.classify_grid(patch_embeddings, mask) for m in self.models for mask in both])


@torch.no_grad()
def test_an_exported_model_answers_any_number_of_regions_and_survives_saving(knowing, regions, make_model):
    program = exported(knowing, {**regions, "output_attentions": True})
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    make_model(class_names=list("wxyz"))
    graph = torch.export.load(saved).module()  # another model's type of output was made in between
    for batch in BATCHES:
        inputs = {**first(regions, batch), "output_attentions": True}
        expected, given = knowing(**inputs), graph(**inputs)
        assert given.predicted_class_names == expected.predicted_class_names
        assert given.keys() == expected.keys()
        torch.testing.assert_close(dict(given), dict(expected))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")
@torch.no_grad()
def test_onnx_of_the_whole_model_takes_any_number_of_whole_regions(knowing, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    side = knowing.config.region_size
    inputs = {"pixel_values": torch.randn(25, 3, side, side, generator=torch.Generator().manual_seed(6))}
    shapes = dict.fromkeys(inputs, ANY)
    torch.onnx.export(
        knowing, (), tmp_path / "m.onnx", kwargs=first(inputs, 2), dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for batch in BATCHES:
        given = session.run(None, {name: value.numpy() for name, value in first(inputs, batch).items()})
        for one, expected in zip(given, tensors(knowing(**first(inputs, batch)))):
            np.testing.assert_allclose(one, expected.numpy(), atol=1e-4)


@torch.no_grad()
def test_every_head_is_a_graph_for_any_number_of_regions(make_model, patch_embeddings, regions):
    heads = Heads([make_model(head_num_hidden_layers=1, **fields) for fields in HEADS]).eval()
    inputs = {"patch_embeddings": patch_embeddings.repeat(9, 1, 1)[:25], "context_mask": regions["context_mask"]}
    graph = exported(heads, inputs).module()
    for batch in BATCHES:
        torch.testing.assert_close(graph(**first(inputs, batch)), heads(**first(inputs, batch)))


@torch.no_grad()
def test_the_patch_encoder_is_a_graph_for_more_patches_than_a_micro_batch(model, regions):
    inputs = {"pixel_values": regions["pixel_values"].nan_to_num()[0]}
    graph = exported(Embedding(model).eval(), inputs).module()
    for batch in BATCHES:
        expected = model.embed_patches(inputs["pixel_values"][:batch])
        torch.testing.assert_close(graph(**first(inputs, batch)), expected)


@torch.no_grad()
def test_one_compiled_graph_serves_all_numbers_of_regions(knowing, regions):
    counter = CompileCounter()
    compiled = torch.compile(knowing, backend=counter, fullgraph=True, dynamic=True)
    for batch in BATCHES[1:]:
        inputs = first(regions, batch)
        torch.testing.assert_close(dict(compiled(**inputs)), dict(knowing(**inputs)))
    assert counter.frame_count == 1


@torch.no_grad()
def test_the_halves_compile_apart_with_names_that_were_edited(make_model, patch_embeddings, regions):
    model = make_model(head_num_hidden_layers=1, backbone_config={**BACKBONE, "num_hidden_layers": 1})
    model.config.class_names = ["never", "seen", "so", "far"]
    grid = {"patch_embeddings": patch_embeddings, "context_mask": regions["context_mask"][:3]}
    for function, inputs in (
        (model.embed_patches, {"pixel_values": regions["pixel_values"][0].nan_to_num()}),
        (model.classify_grid, grid),
        (model, grid),
    ):
        compiled = torch.compile(function, backend="eager", fullgraph=True, dynamic=True)
        for batch in (2, 3):
            expected = function(**first(inputs, batch))  # first: see output_type
            given = compiled(**first(inputs, batch))
            torch.testing.assert_close(tensors(given), tensors(expected))


def test_out_of_graphs_the_backbone_still_sees_micro_batches(model, regions):
    sizes = []
    model.backbone.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    model(regions["pixel_values"][:2], context_mask=regions["context_mask"][:2])
    present = int(regions["context_mask"][:2].sum())
    assert sizes == [7] * (present // 7) + [present % 7] * (present % 7 > 0)
