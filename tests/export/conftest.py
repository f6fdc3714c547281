"""A model that knows its limits, its folder, and its exports in both formats, made once."""

import pytest
import torch
from tiny_spider import BACKBONE

from spider_tools.export.run import export_model
from spider_tools.export.settings import ExportSettings
from spider_tools.model_folder import save_model_folder

MEAN, STD = [0.6, 0.5, 0.7], [0.2, 0.3, 0.25]


@pytest.fixture(scope="session")
def exportable(make_model):
    model = make_model(
        class_names=["Ω gland", 'a "b" <c>', "d\ne", "f"],
        backbone_config={**BACKBONE, "num_hidden_layers": 1},
        head_num_hidden_layers=1,
        head_readout="mean",
        logit_temperature=1.7,
        mpp=0.25,
        familiarity_means=3,
        unfamiliarity_threshold=1.25,
        conformal_scores=9,
    )
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.named_buffers():
        if name.startswith(("familiarity.", "class_sets.")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    model.class_sets.scores.copy_(model.class_sets.scores.sort(dim=1).values)
    return model


@pytest.fixture(scope="session")
def exportable_processor(make_processor):
    return make_processor(image_mean=MEAN, image_std=STD, allow_missing_context=True)


@pytest.fixture(scope="session")
def exportable_folder(tmp_path_factory, exportable, exportable_processor):
    folder = tmp_path_factory.mktemp("exportable") / "tiny model"
    save_model_folder(exportable, exportable_processor.image_processor, folder)
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory, exportable_folder):
    """`exported(format)`: the folder of an export and what `export_model` said."""
    made = {}

    def export(file_format):
        if file_format not in made:
            out = tmp_path_factory.mktemp("exports") / "parent" / file_format
            made[file_format] = out, export_model(ExportSettings(str(exportable_folder), out, file_format))
        return made[file_format]

    return export
