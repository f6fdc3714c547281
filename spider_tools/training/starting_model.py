"""The model that a training run starts from: its backbone, its head, and what of them learns."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from .. import remote_code
from ..files import read_json_object
from ..import_record import RECORD
from ..normalization import let_model_normalize
from ..weights.dinov2_names import projection_names
from ..weights.loading import (
    has_image_processor,
    load_backbone,
    load_config,
    load_image_processor,
    load_spider,
    stated_normalization,
)
from .settings import TrainingSettings

if TYPE_CHECKING:
    from ..remote_code import SpiderConfig, SpiderForImageClassification

logger = logging.getLogger(__name__)

_AS_HIBOU = "%s does not say how it normalises patches: it is taken to be as Hibou does"

# 64 tokens of 28 px in a 224 px patch.
SMALL_BACKBONE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 28,
    "num_register_tokens": 1,
}
_HEAD_FIELDS = (
    "head_hidden_size",
    "head_num_hidden_layers",
    "head_num_attention_heads",
    "head_intermediate_size",
    "head_hidden_dropout_prob",
    "head_attention_probs_dropout_prob",
    "head_dropout_prob",
)


def starting_model(
    settings: TrainingSettings, class_names: list[str], context_size: int, patch_size: int
) -> "SpiderForImageClassification":
    """The model that training starts from, in float32, whose configuration says how patches are normalised.

    Args:
        settings: Says where the weights come from and what of the backbone learns.
        class_names: Classes, in the order of the logits.
        context_size: Patches along one side of a region.
        patch_size: Side of a patch in px.

    Raises:
        ValueError: The source is no SPIDER model, no backbone of this kind, or of other sizes.
        OSError: The source cannot be found or downloaded.
    """
    if settings.init_from is not None:
        model = _from_spider(settings.init_from, class_names, context_size)
        # What is of weights that training changes; `record` notes the import, the end of training calibrates anew.
        model.config.__dict__.pop(RECORD, None)
        model.config.__dict__.pop("calibration", None)
    else:
        model = _with_backbone(settings, class_names, context_size, patch_size)
    if model.config.patch_size != patch_size:
        raise ValueError(f"{settings.init_from} embeds patches of {model.config.patch_size} px, got {patch_size} px.")
    if settings.train_backbone == "full":
        model.unfreeze_backbone()
    elif settings.train_backbone == "lora":
        _add_lora(model, settings.lora_rank)
    return model


def merge_lora(model: "SpiderForImageClassification") -> None:
    """Add LoRA matrices to the weights that they adapt, so that the backbone is a plain one again."""
    if hasattr(model.backbone, "merge_and_unload"):
        model.backbone = model.backbone.merge_and_unload()


def _with_backbone(
    settings: TrainingSettings, class_names: list[str], context_size: int, patch_size: int
) -> "SpiderForImageClassification":
    if settings.backbone == "random":
        backbone, backbone_config = None, _random_backbone_config(settings.backbone_config, patch_size)
        colours: dict[str, Any] = {}
    else:
        backbone = load_backbone(settings.backbone, patch_size, settings.interpolate_positions, settings.backbone_heads)
        backbone_config = backbone.config
        colours = stated_normalization(settings.backbone)
        if not colours:
            logger.warning(_AS_HIBOU, settings.backbone)
    config = remote_code.config_class()(
        backbone_config=backbone_config,
        patch_size=patch_size,
        class_names=class_names,
        context_size=context_size,
        **colours,
        **{field: getattr(settings, field) for field in _HEAD_FIELDS},
    )
    if backbone is None:
        return remote_code.model_class()(config)
    model = _without_backbone(config)
    model.backbone.load_state_dict(backbone.state_dict(), assign=True)
    return model


def _without_backbone(config: "SpiderConfig") -> "SpiderForImageClassification":
    """A model whose head is drawn, and whose backbone has shapes but no values: seconds for nothing otherwise."""
    with torch.device("meta"):
        hollow = Dinov2WithRegistersModel(config.backbone_config)
    return remote_code.model_class()(config, hollow)


def _random_backbone_config(name: str, patch_size: int) -> Any:
    if name == "hibou-L":
        return None
    if name == "small":
        return SMALL_BACKBONE | {"image_size": patch_size}
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"--backbone_config must be 'hibou-L', 'small' or a JSON file, got {name!r}.")
    return Dinov2WithRegistersConfig(**read_json_object(path, "--backbone_config")).to_dict()


def _from_spider(source: str, class_names: list[str], context_size: int) -> "SpiderForImageClassification":
    """A SPIDER model with another list of classes; those that it knows keep their rows of the classifier."""
    trained = load_spider(source)
    _know_colours(trained, source)
    _forget_limits(trained)
    side = trained.config.context_size
    if side != context_size:
        raise ValueError(f"{source} reads regions of {side}x{side} patches, --context_size is {context_size}.")
    known = trained.config.class_names
    if known == class_names:
        return trained
    model = _without_backbone(load_config(source, class_names=class_names))
    model.config.image_mean, model.config.image_std = trained.config.image_mean, trained.config.image_std
    _forget_limits(model)
    kept = [(new, known.index(name)) for new, name in enumerate(class_names) if name in known]
    weights = trained.state_dict()
    for name, parameter in (("weight", model.classifier.weight), ("bias", model.classifier.bias)):
        rows = parameter.detach().clone()
        for new, old in kept:
            rows[new] = weights[f"classifier.{name}"][old]
        weights[f"classifier.{name}"] = rows
    model.load_state_dict(weights, assign=True)
    logger.info("%d of %d classes keep their part of the classifier of %s", len(kept), len(class_names), source)
    return model


def _know_colours(model: "SpiderForImageClassification", source: str) -> None:
    """Normalise as the model's image processor does, or where it was saved without one, as its configuration says."""
    if has_image_processor(source):
        let_model_normalize(model, load_image_processor(source))
    elif model.config.image_mean is None:
        hibou = remote_code.config_class()()
        model.config.image_mean, model.config.image_std = hibou.image_mean, hibou.image_std
        logger.warning(_AS_HIBOU, source)


def _forget_limits(model: "SpiderForImageClassification") -> None:
    """Undo what a model knows of how sure it may be and of what is familiar: it is about to learn something else."""
    model.remember(familiarity_means=0, conformal_scores=0)
    model.config.unfamiliarity_threshold = None
    model.config.logit_temperature = 1.0


def _add_lora(model: "SpiderForImageClassification", rank: int) -> None:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("--train_backbone lora needs the package peft.") from error
    targets = projection_names(model.backbone.state_dict())
    model.unfreeze_backbone()
    model.backbone = get_peft_model(model.backbone, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
