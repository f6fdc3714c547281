"""Configuration of SPIDER, a classifier of the central patch of a pathology region."""

import math
import os
from typing import Any, Optional, Union

from transformers import BertConfig, Dinov2WithRegistersConfig, PretrainedConfig

_POSITIVE_INTEGERS = (
    "context_size",
    "patch_size",
    "head_hidden_size",
    "head_num_hidden_layers",
    "head_num_attention_heads",
    "head_intermediate_size",
    "backbone_batch_size",
)
_PROBABILITIES = ("head_hidden_dropout_prob", "head_attention_probs_dropout_prob", "head_dropout_prob")
_FIELDS = ("backbone_config", "mpp", "freeze_backbone", *_POSITIVE_INTEGERS, *_PROBABILITIES)
_LABEL_FIELDS = ("class_names", "id2label", "label2id", "num_labels")

_HIBOU_L = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4,
    "image_size": 224,
    "patch_size": 14,
    "num_register_tokens": 4,
    "use_swiglu_ffn": True,
    "layerscale_value": 1.0,
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
}


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
        head_hidden_size (`int`, *optional*, defaults to 128):
            Width of the head; patch embeddings are projected to it.
        head_num_hidden_layers (`int`, *optional*, defaults to 1):
            Transformer layers of the head.
        head_num_attention_heads (`int`, *optional*, defaults to 1):
            Attention heads per layer of the head.
        head_intermediate_size (`int`, *optional*, defaults to 128):
            Width of the head's feed-forward layers.
        head_hidden_dropout_prob (`float`, *optional*, defaults to 0.5):
            Dropout after the head's embeddings, attention and feed-forward layers.
        head_attention_probs_dropout_prob (`float`, *optional*, defaults to 0.3):
            Dropout on the head's attention probabilities.
        head_dropout_prob (`float`, *optional*, defaults to 0.3):
            Dropout between the head's output and the classifier.
        backbone_batch_size (`int`, *optional*, defaults to 64):
            Patches that go through the backbone at once where no gradient is needed. It bounds the memory of a
            forward pass whatever the number of regions, and does not change the result.
        freeze_backbone (`bool`, *optional*, defaults to `True`):
            Whether the backbone runs without gradients, in training too, as in the paper.

    Raises:
        ValueError: A field is out of its range, or two fields contradict each other.
    """

    model_type = "spider"
    sub_configs = {"backbone_config": Dinov2WithRegistersConfig}
    keys_to_ignore_at_inference = ["label", "context_attention"]
    _auto_class = "AutoConfig"

    def __init__(
        self,
        backbone_config: Optional[Union[dict, Dinov2WithRegistersConfig]] = None,
        class_names: Optional[list[str]] = None,
        context_size: int = 5,
        patch_size: int = 224,
        mpp: float = 0.5,
        head_hidden_size: int = 128,
        head_num_hidden_layers: int = 1,
        head_num_attention_heads: int = 1,
        head_intermediate_size: int = 128,
        head_hidden_dropout_prob: float = 0.5,
        head_attention_probs_dropout_prob: float = 0.3,
        head_dropout_prob: float = 0.3,
        backbone_batch_size: int = 64,
        freeze_backbone: bool = True,
        **kwargs: Any,
    ) -> None:
        self.backbone_config: Dinov2WithRegistersConfig = _as_backbone_config(backbone_config)
        self.context_size = context_size
        self.patch_size = patch_size
        self.mpp = mpp
        self.head_hidden_size = head_hidden_size
        self.head_num_hidden_layers = head_num_hidden_layers
        self.head_num_attention_heads = head_num_attention_heads
        self.head_intermediate_size = head_intermediate_size
        self.head_hidden_dropout_prob = head_hidden_dropout_prob
        self.head_attention_probs_dropout_prob = head_attention_probs_dropout_prob
        self.head_dropout_prob = head_dropout_prob
        self.backbone_batch_size = backbone_batch_size
        self.freeze_backbone = freeze_backbone
        self._check_fields()

        names = _agreed_class_names(
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
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Like the base method; fields given as keyword arguments are checked like those of the dictionary.

        Labels among them replace all label fields of the dictionary, a dict for the backbone only the fields it has.
        """
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
        return super().from_dict(config_dict | fields, **kwargs)

    def save_pretrained(
        self, save_directory: Union[str, os.PathLike], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Like the base method; raises `ValueError`, and writes nothing, if fields were edited into a contradiction."""
        self._check_fields()
        _agreed_class_names(self.class_names, self.id2label, self.label2id, None)
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
            names = _agreed_class_names(value, None, None, None)
        elif key == "id2label":
            names = _agreed_class_names(None, value, None, None)
        else:
            names = _agreed_class_names(self.__dict__.get("class_names"), None, value, None)
        self.__dict__.update(
            class_names=names, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
        )

    def _check_fields(self) -> None:
        for field in _POSITIVE_INTEGERS:
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{field}` must be a positive integer, got {value!r}.")
        for field in _PROBABILITIES:
            value = getattr(self, field)
            if not _is_number(value) or not 0 <= value < 1:
                raise ValueError(f"`{field}` must lie in [0, 1), got {value!r}.")
        if not _is_number(self.mpp) or not 0 < self.mpp < math.inf:
            raise ValueError(f"`mpp` must be a positive number of micrometres per pixel, got {self.mpp!r}.")
        if not isinstance(self.freeze_backbone, bool):
            raise ValueError(f"`freeze_backbone` must be True or False, got {self.freeze_backbone!r}.")
        if self.context_size % 2 == 0:
            raise ValueError(f"`context_size` must be odd, so that one patch is the centre, got {self.context_size}.")
        if self.head_hidden_size % self.head_num_attention_heads:
            raise ValueError(
                f"`head_hidden_size` ({self.head_hidden_size}) must be a multiple of "
                f"`head_num_attention_heads` ({self.head_num_attention_heads})."
            )
        self._check_backbone()

    def _check_backbone(self) -> None:
        backbone = self.backbone_config
        if backbone.num_channels != 3:
            raise ValueError(f"`backbone_config.num_channels` must be 3, got {backbone.num_channels!r}.")
        if backbone.image_size != self.patch_size:
            raise ValueError(
                f"`patch_size` ({self.patch_size}) must equal `backbone_config.image_size` ({backbone.image_size}): "
                "the backbone embeds one patch as one image."
            )
        token = backbone.patch_size
        if not isinstance(token, int) or token < 1 or self.patch_size % token:
            raise ValueError(
                f"`patch_size` ({self.patch_size}) must be a multiple of the side of the backbone's tokens, "
                f"`backbone_config.patch_size` ({token})."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_backbone_config(
    backbone_config: Optional[Union[dict, Dinov2WithRegistersConfig]],
) -> Dinov2WithRegistersConfig:
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
    return Dinov2WithRegistersConfig(**backbone_config)


def _architecture(backbone: dict[str, Any]) -> dict[str, Any]:
    """The fields of a backbone without those that Transformers derives from them, and without its origin.

    The origin may be a folder of whoever made the model; the stages follow from the number of layers.
    """
    return {
        k: v for k, v in backbone.items() if k not in ("_name_or_path", "stage_names", "out_features", "out_indices")
    }


def _agreed_class_names(
    class_names: Optional[list[str]],
    id2label: Optional[dict],
    label2id: Optional[dict],
    num_labels: Optional[int],
) -> list[str]:
    """The class names in logit order, after checking that every field that is given says the same."""
    candidates: dict[str, list[str]] = {}
    if class_names is not None:
        if not isinstance(class_names, (list, tuple)):
            raise ValueError(f"`class_names` must be a list of strings, got {class_names!r}.")
        candidates["class_names"] = list(class_names)
    if id2label is not None:
        candidates["id2label"] = _in_logit_order("id2label", _items("id2label", id2label))
    if label2id is not None:
        pairs = [(index, name) for name, index in _items("label2id", label2id)]
        candidates["label2id"] = _in_logit_order("label2id", pairs)
    if num_labels is not None and (not isinstance(num_labels, int) or isinstance(num_labels, bool) or num_labels < 1):
        raise ValueError(f"`num_labels` must be a positive integer, got {num_labels!r}.")
    if not candidates:
        candidates["num_labels"] = [f"LABEL_{i}" for i in range(num_labels or 2)]

    first, names = next(iter(candidates.items()))
    for field, other in candidates.items():
        if other != names:
            raise ValueError(f"`{field}` contradicts `{first}`: {other} against {names}.")
    if num_labels is not None and num_labels != len(names):
        raise ValueError(f"`num_labels` is {num_labels}, but `{first}` names {len(names)} classes: {names}.")
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ValueError(f"`{first}` must name at least one class, each by a different, non-empty string, got {names}.")
    return names


def _items(field: str, mapping: Any) -> list[tuple[Any, Any]]:
    if not isinstance(mapping, dict):
        raise ValueError(f"`{field}` must be a dict, got {mapping!r}.")
    return list(mapping.items())


def _in_logit_order(field: str, pairs: list[tuple[Any, str]]) -> list[str]:
    """The names of `(index, name)` pairs by index; JSON makes strings of the indices that are keys."""
    names = {}
    for index, name in pairs:
        number = int(index) if isinstance(index, str) and index.isdecimal() else index
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(pairs) or number in names:
            raise ValueError(
                f"`{field}` must number its classes 0 to {len(pairs) - 1}, got {[index for index, _ in pairs]}."
            )
        names[number] = name
    return [names[i] for i in range(len(names))]
