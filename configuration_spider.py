"""Configuration of SPIDER, a classifier of the central patch of a pathology region."""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Union

from transformers import BertConfig, Dinov2WithRegistersConfig, PretrainedConfig

from .checks_spider import (
    agreed_class_names,
    check_channels,
    check_choice,
    check_integer,
    check_number,
    check_optional_number,
    check_probability,
    check_type,
    check_values,
    nearest,
)
from .pixels_spider import HIBOU_MEAN, HIBOU_STD

_LABEL_FIELDS = ("class_names", "id2label", "label2id", "num_labels")
# Names that Transformers and spider_tools give to what is no field of SPIDER.
_COMMON = PretrainedConfig()
_OF_LOADING = ("attn_implementation", "auto_map", "experts_implementation")
_RECORDS = (*_OF_LOADING, "calibration", "import", "spider_tools_version", "training")

_HIBOU_L: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_ratio": 4}
_HIBOU_L |= {"image_size": 224, "patch_size": 14, "num_register_tokens": 4, "use_swiglu_ffn": True, "qkv_bias": True}
_HIBOU_L |= {"layerscale_value": 1.0, "layer_norm_eps": 1e-6}


class SpiderConfig(PretrainedConfig):
    r"""Sizes of the backbone and the attention head, and the names of the tissue classes.

    The defaults are Hibou-L and the head of the SPIDER paper (Table A2, arXiv 2503.02876).

    Args:
        backbone_config (`dict` or `Dinov2WithRegistersConfig`, *optional*, defaults to Hibou-L):
            The vision transformer that embeds one patch. Its `image_size` must equal `patch_size`.
        class_names (`list[str]`, *optional*):
            Tissue classes in the order of the logits. Without it the names come from `id2label`, `label2id` or
            `num_labels`, in this order. All four always agree.
        context_size (`int`, *optional*, defaults to 5):
            Patches along one side of the region. Odd, so that one patch is the centre.
        patch_size (`int`, *optional*, defaults to 224):
            Side of one patch in px.
        mpp (`float`, *optional*, defaults to 0.5):
            Micrometres per pixel of the regions that the model was trained on.
        image_mean (`list[float]`, *optional*, defaults to Hibou's):
            Mean of each channel, for values in [0, 1], by which the model normalises bytes; as the image processor's,
            which normalises floats. None in folders of earlier versions, which say it in preprocessor_config.json
            alone: their models take no bytes.
        image_std (`list[float]`, *optional*, defaults to Hibou's):
            Standard deviation of each channel, likewise.
        head_hidden_size (`int`, *optional*, defaults to 128):
            Width of the head; patch embeddings are projected to it.
        head_num_hidden_layers (`int`, *optional*, defaults to 1):
            Transformer layers of the head.
        head_num_attention_heads (`int`, *optional*, defaults to 1):
            Attention heads per layer of the head.
        head_intermediate_size (`int`, *optional*, defaults to 128):
            Width of the head's feed-forward layers.
        head_readout (`str`, *optional*, defaults to `"center"`):
            The token of the head's encoder that the class is read from: `"center"`, the central patch; `"first"`, the
            first patch that is present, in row-major order; `"mean"`, the mean over all that are present.
        head_pooler (`bool`, *optional*, defaults to `False`):
            Whether BERT's pooler, a dense layer and tanh, follows the read-out.
        head_residual (`bool`, *optional*, defaults to `False`):
            Whether the input of the head's encoder is added to its output, token by token.
        head_beside (`str`, *optional*):
            What the classifier reads of the central patch in front of the head's output: `"projection"`, its input to
            the head's encoder; `"backbone"`, its patch embedding; nothing by default.
        head_hidden_dropout_prob (`float`, *optional*, defaults to 0.5):
            Dropout after the head's embeddings, attention and feed-forward layers.
        head_attention_probs_dropout_prob (`float`, *optional*, defaults to 0.3):
            Dropout on the head's attention probabilities.
        head_dropout_prob (`float`, *optional*, defaults to 0.3):
            Dropout between the head's output and the classifier.
        logit_temperature (`float`, *optional*, defaults to 1.0):
            What the logits are divided by, so that their softmax is calibrated (Guo et al., arXiv 1706.04599). It
            changes no order of classes. Fitted on regions that the model has not learnt from, see `calibration`.
        familiarity_means (`int`, *optional*, defaults to 0):
            Number of means of the model's `familiarity`, which measures how unlike what it has learnt from a region
            is; 0 for a model without.
        unfamiliarity_threshold (`float`, *optional*):
            The largest `unfamiliarity` of a region that counts as familiar. None where nobody fitted one.
        conformal_scores (`int`, *optional*, defaults to 0):
            Most scores of a class that the model's `class_sets` remembers, by which it tells what classes are
            plausible; 0 for a model without.
        backbone_batch_size (`int`, *optional*, defaults to 64):
            Patches that go through the backbone at once where no gradient is needed, on a CPU 32 at most. It bounds the
            memory of a forward pass whatever the number of regions, and does not change the result.
        freeze_backbone (`bool`, *optional*, defaults to `True`):
            Whether the backbone runs without gradients, in training too, as in the paper.

    Raises:
        ValueError: A field is out of its range, or two fields contradict each other.
        TypeError: A keyword is a misspelt field. One that resembles no field is kept, with a warning.
    """

    model_type = "spider"
    sub_configs = {"backbone_config": Dinov2WithRegistersConfig}
    keys_to_ignore_at_inference = ["label", "context_attention", "unfamiliarity", "is_familiar", "class_p_values"]
    _auto_class = "AutoConfig"

    def __init__(
        self,
        backbone_config: Optional[Union[dict, Dinov2WithRegistersConfig]] = None,
        class_names: Optional[list[str]] = None,
        context_size: int = 5,
        patch_size: int = 224,
        mpp: float = 0.5,
        image_mean: Optional[Sequence[float]] = HIBOU_MEAN,
        image_std: Optional[Sequence[float]] = HIBOU_STD,
        head_hidden_size: int = 128,
        head_num_hidden_layers: int = 1,
        head_num_attention_heads: int = 1,
        head_intermediate_size: int = 128,
        head_readout: str = "center",
        head_pooler: bool = False,
        head_residual: bool = False,
        head_beside: Optional[str] = None,
        head_hidden_dropout_prob: float = 0.5,
        head_attention_probs_dropout_prob: float = 0.3,
        head_dropout_prob: float = 0.3,
        logit_temperature: float = 1.0,
        familiarity_means: int = 0,
        unfamiliarity_threshold: Optional[float] = None,
        conformal_scores: int = 0,
        backbone_batch_size: int = 64,
        freeze_backbone: bool = True,
        **kwargs: Any,
    ) -> None:
        _refuse_misspelt(kwargs, _FIELDS)
        without_effect = sorted(name for name in kwargs if not _is_known(name))
        if without_effect:
            warnings.warn(f"SpiderConfig keeps {without_effect}, which have no effect on the model.", stacklevel=2)
        self.backbone_config: Dinov2WithRegistersConfig = _as_backbone_config(backbone_config)
        self.context_size = context_size
        self.patch_size = patch_size
        self.mpp = mpp
        self.image_mean = list(image_mean) if isinstance(image_mean, tuple) else image_mean
        self.image_std = list(image_std) if isinstance(image_std, tuple) else image_std
        self.head_hidden_size = head_hidden_size
        self.head_num_hidden_layers = head_num_hidden_layers
        self.head_num_attention_heads = head_num_attention_heads
        self.head_intermediate_size = head_intermediate_size
        self.head_readout = head_readout
        self.head_pooler = head_pooler
        self.head_residual = head_residual
        self.head_beside = head_beside
        self.head_hidden_dropout_prob = head_hidden_dropout_prob
        self.head_attention_probs_dropout_prob = head_attention_probs_dropout_prob
        self.head_dropout_prob = head_dropout_prob
        self.logit_temperature = logit_temperature
        self.familiarity_means = familiarity_means
        self.unfamiliarity_threshold = unfamiliarity_threshold
        self.conformal_scores = conformal_scores
        self.backbone_batch_size = backbone_batch_size
        self.freeze_backbone = freeze_backbone
        self._check_fields()

        names = agreed_class_names(
            class_names, kwargs.pop("id2label", None), kwargs.pop("label2id", None), kwargs.pop("num_labels", None)
        )
        super().__init__(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}, **kwargs)
        self.class_names = names
        # Entries of a loaded file may carry a "repo--" prefix that would tie a saved copy to that repository.
        self.auto_map = {
            "AutoConfig": "configuration_spider.SpiderConfig",
            "AutoModel": "modeling_spider.SpiderForImageClassification",
            "AutoModelForImageClassification": "modeling_spider.SpiderForImageClassification",
        }

    @property
    def num_context_patches(self) -> int:
        """Patches of one region, the centre included: `context_size ** 2`."""
        return self.context_size**2

    @property
    def center_index(self) -> int:
        """Index of the central patch in row-major order: 12 of 25."""
        return self.num_context_patches // 2

    @property
    def classifier_size(self) -> int:
        """Width of what the classifier reads: `head_hidden_size`, and before it that of what `head_beside` names."""
        beside = {"projection": self.head_hidden_size, "backbone": self.backbone_config.hidden_size}
        return self.head_hidden_size + (beside[self.head_beside] if self.head_beside else 0)

    @property
    def region_size(self) -> int:
        """Side of a region in px: `context_size * patch_size`."""
        return self.context_size * self.patch_size

    def context_encoder_config(self) -> BertConfig:
        """The BERT configuration of the head's encoder, one position per patch of the region."""
        return BertConfig(
            vocab_size=1,  # the encoder is fed embeddings; BERT has no way to go without a word table
            hidden_size=self.head_hidden_size,
            num_hidden_layers=self.head_num_hidden_layers,
            num_attention_heads=self.head_num_attention_heads,
            intermediate_size=self.head_intermediate_size,
            hidden_dropout_prob=self.head_hidden_dropout_prob,
            attention_probs_dropout_prob=self.head_attention_probs_dropout_prob,
            max_position_embeddings=self.num_context_patches,
            use_cache=False,
            attn_implementation=self._attn_implementation,
        )

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> Any:
        """Like the base method; refuses the pipeline that would return logits as features."""
        if kwargs.get("_from_pipeline") == "image-feature-extraction":
            raise ValueError("This pipeline would take logits for features: call `model.embed_patches` for embeddings.")
        return super().get_config_dict(*args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Like the base method; fields given as keyword arguments are checked like those of the dictionary.

        Labels among them replace all label fields of the dictionary, a dict for the backbone only the fields it has.
        A dictionary is a file's: what is no field in it is kept, and only a keyword can be refused as misspelt.
        """
        _refuse_misspelt(kwargs, _FIELDS)
        new_labels = {field: kwargs.pop(field) for field in _LABEL_FIELDS if field in kwargs}
        new_labels = {field: value for field, value in new_labels.items() if value is not None}
        if new_labels:
            old = {field: config_dict[field] for field in _LABEL_FIELDS if field in config_dict}
            if list(new_labels) == ["num_labels"] and old:
                names = cls(**old).class_names
                new_labels = old if len(names) == new_labels["num_labels"] else new_labels
            config_dict = {k: v for k, v in config_dict.items() if k not in _LABEL_FIELDS} | new_labels
        fields = {field: kwargs.pop(field) for field in _FIELDS if field in kwargs}
        if isinstance(fields.get("backbone_config"), dict):
            backbone = _architecture(config_dict.get("backbone_config") or _HIBOU_L)
            fields["backbone_config"] = backbone | fields["backbone_config"]
        config_dict = dict.fromkeys(("image_mean", "image_std")) | config_dict | fields
        records = {name: kwargs.pop(name, config_dict.pop(name)) for name in list(config_dict) if not _is_known(name)}
        misspelt = [f"`{name}` (is it `{nearest(name, _FIELDS)}`?)" for name in records if nearest(name, _FIELDS)]
        if misspelt:
            warnings.warn(f"config.json has {', '.join(misspelt)}, which has no effect on the model.", stacklevel=2)
        loaded = super().from_dict(config_dict, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).__dict__.update(records)
        return loaded

    def save_pretrained(
        self, save_directory: Union[str, os.PathLike], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Like the base method; raises `ValueError`, and writes nothing, if fields were edited into a contradiction."""
        self._check_fields()
        agreed_class_names(self.class_names, self.id2label, self.label2id, None)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """The content of `config.json`; the backbone in it is the same in every version of Transformers."""
        fields = super().to_diff_dict()
        common = PretrainedConfig().to_dict()
        backbone = _architecture(fields["backbone_config"])
        fields["backbone_config"] = {k: v for k, v in backbone.items() if k not in common or v != common[k]}
        return fields

    def __setattr__(self, key: str, value: Any) -> None:
        """Set a field; `class_names`, `id2label` and `label2id` move together, the backbone may be a dict."""
        if key == "backbone_config":
            value = _as_backbone_config(value)
        if key not in ("class_names", "id2label", "label2id") or value is None:
            super().__setattr__(key, value)
            return
        if key == "class_names":
            names = agreed_class_names(value, None, None, None)
        elif key == "id2label":
            names = agreed_class_names(None, value, None, None)
        else:
            names = agreed_class_names(self.__dict__.get("class_names"), None, value, None)
        self.__dict__.update(
            class_names=names, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
        )

    def _check_fields(self) -> None:
        check_values(_CHECKS, self.__dict__)
        if self.context_size % 2 == 0:
            raise ValueError(f"`context_size` must be odd, so that one patch is the centre, got {self.context_size}.")
        if self.head_hidden_size % self.head_num_attention_heads:
            raise ValueError(
                f"`head_hidden_size` ({self.head_hidden_size}) must be a multiple of "
                f"`head_num_attention_heads` ({self.head_num_attention_heads})."
            )
        if (self.image_mean is None) != (self.image_std is None):
            raise ValueError(f"`image_mean` and `image_std` go together, got {self.image_mean} and {self.image_std}.")
        self._check_backbone()

    def _check_backbone(self) -> None:
        backbone = self.backbone_config
        check_values(_BACKBONE_CHECKS, backbone.__dict__, "backbone_config.")
        if backbone.image_size != self.patch_size:
            raise ValueError(
                f"`patch_size` ({self.patch_size}) must equal `backbone_config.image_size` ({backbone.image_size}): "
                "the backbone embeds one patch as one image."
            )
        token = backbone.patch_size
        if token < 1 or self.patch_size % token:
            raise ValueError(
                f"`patch_size` ({self.patch_size}) must be a multiple of the side of the backbone's tokens, "
                f"`backbone_config.patch_size` ({token})."
            )


def _is_known(name: str) -> bool:
    """Whether a keyword is a field, of SPIDER or of any configuration, or a record that is kept beside them."""
    return name in (*_FIELDS, *_LABEL_FIELDS, *_RECORDS) or name.startswith("_") or hasattr(_COMMON, name)


def _refuse_misspelt(names: Iterable[str], fields: Iterable[str], owner: str = "") -> None:
    for name in names:
        near = None if _is_known(name) else nearest(name, fields)
        if near:
            raise TypeError(f"There is no field `{owner}{name}`. Did you mean `{owner}{near}`?")


# Each field's check and limits: a file from elsewhere must not ask for a model that is never done being built.
_CHECKS: dict[str, tuple] = {
    "context_size": (check_integer, 1, 99),
    "patch_size": (check_integer, 1, 4096),
    "mpp": (check_number, 0.01, 1000, "a positive number of micrometres per pixel"),
    "image_mean": (check_channels, 0, 1),
    "image_std": (check_channels, 0.001, 10),
    "head_hidden_size": (check_integer, 1, 16_384),
    "head_num_hidden_layers": (check_integer, 1, 512),
    "head_num_attention_heads": (check_integer, 1, 1024),
    "head_intermediate_size": (check_integer, 1, 65_536),
    "head_readout": (check_choice, "center", "first", "mean"),
    "head_pooler": (check_type,),
    "head_residual": (check_type,),
    "head_beside": (check_choice, None, "projection", "backbone"),
    "head_hidden_dropout_prob": (check_probability,),
    "head_attention_probs_dropout_prob": (check_probability,),
    "head_dropout_prob": (check_probability,),
    "logit_temperature": (check_number, 0.01, 100, "a positive number"),
    "familiarity_means": (check_integer, 0, 100_000),
    "unfamiliarity_threshold": (check_optional_number, 0, 1e6),
    "conformal_scores": (check_integer, 0, 100_000),
    "backbone_batch_size": (check_integer, 1, 2**31 - 1),
    "freeze_backbone": (check_type,),
}
_FIELDS = ("backbone_config", *_CHECKS)
_BACKBONE_CHECKS: dict[str, tuple] = {
    "hidden_size": (check_integer, 1, 16_384),
    "num_hidden_layers": (check_integer, 1, 512),
    "num_attention_heads": (check_integer, 1, 1024),
    "image_size": (check_integer, 1, 4096),
    "patch_size": (check_integer, 0, 4096),  # the check against the model's `patch_size` says more of 0
    "num_channels": (check_integer, 3, 3),
    "num_register_tokens": (check_integer, 0, 4096),
    "mlp_ratio": (check_integer, 1, 100),
    "initializer_range": (check_number, 0, 10),
    "layer_norm_eps": (check_number, 0, 1),
    "layerscale_value": (check_number, -1000, 1000),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"), (check_probability,)),
    **dict.fromkeys(("qkv_bias", "use_swiglu_ffn", "apply_layernorm", "reshape_hidden_states"), (check_type,)),
    "hidden_act": (check_type, str, "the name of an activation"),
}


def _as_backbone_config(backbone_config: Any) -> Dinov2WithRegistersConfig:
    if backbone_config is None:
        return Dinov2WithRegistersConfig(**_HIBOU_L)
    if isinstance(backbone_config, Dinov2WithRegistersConfig):
        return backbone_config
    expected = Dinov2WithRegistersConfig.model_type
    if not isinstance(backbone_config, dict):
        raise ValueError(
            f"`backbone_config` must be a dict or a Dinov2WithRegistersConfig, got {type(backbone_config).__name__}."
        )
    if backbone_config.get("model_type", expected) != expected:
        raise ValueError(
            f"`backbone_config` must have the model_type {expected!r}, got {backbone_config['model_type']!r}."
        )
    _refuse_misspelt(backbone_config, _BACKBONE_CHECKS, "backbone_config.")
    check_values(_BACKBONE_CHECKS, backbone_config, "backbone_config.")
    return Dinov2WithRegistersConfig(**backbone_config)


def _architecture(backbone: dict[str, Any]) -> dict[str, Any]:
    """The fields of a backbone without those that Transformers derives, its maker's folder, and how it was loaded."""
    left_out = ("_name_or_path", "stage_names", "out_features", "out_indices", "dtype", "torch_dtype")
    return {k: v for k, v in backbone.items() if k not in left_out}
