"""SPIDER: a vision transformer embeds each patch of a region, an attention head names the central one."""

import glob
import os
import shutil
from typing import Any, Optional, Union

import torch
from torch import nn
from transformers import AutoModelForImageClassification, BertModel, Dinov2WithRegistersModel, PreTrainedModel
from transformers.utils import logging

from .backbone_spider import accept_other_names, give_own_storage, has_adapters, learns, own_parameters, parameter_names
from .certainty_spider import ClassSets, Familiarity
from .checks_spider import describe, fits
from .configuration_spider import SpiderConfig
from .head_spider import attention_of, read_out
from .outputs_spider import SpiderOutput, output_type
from .pixels_spider import are_pixels, as_backbone_input, check_pixels, tiled
from .sources_spider import make_replaceable, refuse_weights_elsewhere, warn_of_other_code, warn_unless_verified

logger = logging.get_logger(__name__)

# On a CPU what goes through at once stays in the cache, and in memory that the process keeps.
_CPU_BATCH = 32


class SpiderForImageClassification(PreTrainedModel):
    r"""Names the tissue of the central patch of a region, with its surroundings as context.

    `forward` is `embed_patches` (the backbone, patch by patch) followed by `classify_grid` (the head). Callers whose
    regions overlap embed each patch once and call the two apart.

    By default the backbone is frozen, as in the paper: it stays in evaluation mode, needs no gradients, and runs in
    micro-batches of `config.backbone_batch_size` patches. `unfreeze_backbone()`, or loading with
    `freeze_backbone=False`, makes it trainable.

    Compiled or exported, the model and its halves take any number of regions. Such a graph has no
    micro-batches: all patches go through the backbone at once, missing ones too, and its caller bounds the memory;
    `model.backbone.compile()` keeps them. Nor does it look at values: an absent centre or a wrong label goes unseen.

    Args:
        config (`SpiderConfig`): Sizes and class names.
        backbone (`Dinov2WithRegistersModel`, *optional*): Of `config.backbone_config`, to be filled. One on the device
            "meta" costs no time; `load_state_dict(..., assign=True)` then gives it weights.
    """

    config_class = SpiderConfig
    base_model_prefix = "spider"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Dinov2WithRegistersEmbeddings", "Dinov2WithRegistersLayer", "BertEmbeddings", "BertLayer"]
    _auto_class = "AutoModelForImageClassification"
    familiarity: Optional[Familiarity]
    class_sets: Optional[ClassSets]

    def __init__(self, config: SpiderConfig, backbone: Optional[Dinov2WithRegistersModel] = None) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = Dinov2WithRegistersModel(config.backbone_config) if backbone is None else backbone
        self.backbone.register_load_state_dict_pre_hook(accept_other_names)
        self._backbone_names = parameter_names(self.backbone)
        self._is_frozen = False  # whether the backbone's parameters were frozen by this model
        self.projection = nn.Linear(config.backbone_config.hidden_size, config.head_hidden_size)
        self.context_encoder = BertModel(config.context_encoder_config(), add_pooling_layer=config.head_pooler)
        self.dropout = nn.Dropout(config.head_dropout_prob)
        self.classifier = nn.Linear(config.classifier_size, config.num_labels)
        self.remember(config.familiarity_means, config.conformal_scores)
        output_type(config.class_names)  # graphs find it made
        self.post_init()
        self._follow_freezing()

    @classmethod
    def from_pretrained(cls, *args: Any, use_safetensors: Optional[bool] = True, **kwargs: Any) -> Any:
        """Like the base method, but weights are taken from the model's own folder or repository alone.

        Pickled weights are taken only where `use_safetensors` is set to None or False.
        """
        source = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        refuse_weights_elsewhere(source, {**kwargs, "use_safetensors": use_safetensors})
        loaded = super().from_pretrained(*args, use_safetensors=use_safetensors, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        give_own_storage(model)
        model._is_frozen = False  # Transformers 5 makes the parameters anew
        model._follow_freezing()
        warn_of_other_code(source)
        warn_unless_verified(model.config)
        return loaded

    def forward(
        self,
        pixel_values: Optional[torch.Tensor] = None,
        patch_embeddings: Optional[torch.Tensor] = None,
        context_mask: Optional[torch.Tensor] = None,
        labels: Optional[torch.Tensor] = None,
        output_attentions: Optional[bool] = None,
        output_hidden_states: Optional[bool] = None,
        return_dict: Optional[bool] = None,
    ) -> Union[SpiderOutput, tuple]:
        """Classify regions from their pixels or from embeddings of their patches.

        Args:
            pixel_values: Float `(batch, context_size**2, 3, patch_size, patch_size)`, normalised, row-major, as the
                processor makes them; or uint8, as it makes them with `do_rescale=False, do_normalize=False`, which are
                normalised here by `config.image_mean` and `image_std`; or whole regions of either kind, `(batch, 3,
                region_size, region_size)`, which are tiled here. Patches that `context_mask` excludes are not embedded,
                or in a graph embedded in vain.
            patch_embeddings: Float `(batch, context_size**2, backbone hidden size)` from `embed_patches`; instead of
                `pixel_values`.
            context_mask: Bool `(batch, context_size**2)`, True where a patch is present, the centre always. All
                present by default.
            labels: Integer `(batch,)` in [0, num_labels), a tensor or a list.
            output_attentions: Whether to return `context_attention`.
            output_hidden_states: Refused if True; by default what the configuration says.
            return_dict: False for the tuple of `SpiderOutput.to_tuple`.

        Raises:
            ValueError: Shapes, mask or labels do not fit; the message says what was expected. In a graph the
                values of the mask and the labels are not checked, only their shapes.
        """
        if (pixel_values is None) == (patch_embeddings is None):
            raise ValueError(
                "Expected exactly one of `pixel_values` and `patch_embeddings`, got "
                + ("neither." if pixel_values is None else "both.")
            )
        return_dict = getattr(self.config, "return_dict", True) if return_dict is None else return_dict
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            raise ValueError("`output_hidden_states` is for patches: call `model.backbone(patches, ...)` with it.")
        if pixel_values is None:
            self._check_embedding_grid(patch_embeddings)
        else:
            check_pixels(pixel_values, self.config)
            if pixel_values.ndim == 4:
                pixel_values = tiled(pixel_values, self.config.context_size)
        grid = patch_embeddings if pixel_values is None else pixel_values
        context_mask, labels = self._checked_mask(context_mask, grid), self._checked_labels(labels, grid)
        if pixel_values is not None:
            patch_embeddings = self._embed_regions(pixel_values, context_mask)

        logits, context_attention = self._encode_grid(patch_embeddings, context_mask, bool(output_attentions))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels.to(logits.device))
        output = output_type(self.config.class_names)(
            loss=loss,
            logits=logits,
            label=logits.argmax(dim=-1),
            context_attention=context_attention,
            **self._doubts(patch_embeddings, context_mask, logits),
        )
        return output if return_dict else output.to_tuple()

    def embed_patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed patches one by one: the backbone's class token after its last layer norm.

        Where no gradient has to flow through the backbone (it is frozen, or gradients are off) the patches go through
        it in micro-batches of `config.backbone_batch_size`, on a CPU of 32 at most; all at once in a compiled or
        exported graph.

        Args:
            pixel_values: Float `(num_patches, 3, patch_size, patch_size)`, normalised; or uint8, which is normalised
                here, in the same micro-batches.

        Returns:
            Float `(num_patches, backbone hidden size)`, in the model's dtype.

        Raises:
            ValueError: The shape is another one, or bytes come to a model that does not say how to normalise them.
        """
        side = self.config.patch_size
        if not are_pixels(pixel_values, 3, side, side):
            raise ValueError(
                f"Expected float or uint8 patches of shape (N, 3, {side}, {side}), got {describe(pixel_values)}."
            )
        if pixel_values.shape[0] == 0:
            return pixel_values.new_zeros(0, self.config.backbone_config.hidden_size, dtype=self.dtype)
        frozen = self.config.freeze_backbone and not pixel_values.requires_grad and not learns(self.backbone)
        if torch.is_grad_enabled() and not frozen:
            return self.backbone(self._as_backbone_input(pixel_values)).pooler_output
        with torch.no_grad():
            if torch.compiler.is_compiling():  # a loop over micro-batches would tie the graph to their number
                return self.backbone(self._as_backbone_input(pixel_values)).pooler_output.clone()
            bound = self.config.backbone_batch_size
            chunks = pixel_values.split(min(bound, _CPU_BATCH) if pixel_values.device.type == "cpu" else bound)
            # The class token is a view of all tokens of its patch, which would stay in memory with it.
            inputs = map(self._as_backbone_input, chunks)
            return torch.cat([self.backbone(chunk).pooler_output.clone() for chunk in inputs])

    def classify_grid(
        self, patch_embeddings: torch.Tensor, context_mask: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """Classify the centre of each grid of patch embeddings.

        Args:
            patch_embeddings: Float `(batch, context_size**2, backbone hidden size)`, row-major.
            context_mask: Bool `(batch, context_size**2)`, True where a patch is present, the centre always. The
                embeddings of missing patches are never read.

        Returns:
            Logits, float `(batch, num_labels)`.

        Raises:
            ValueError: Shapes or mask do not fit.
        """
        self._check_embedding_grid(patch_embeddings)
        return self._encode_grid(patch_embeddings, self._checked_mask(context_mask, patch_embeddings), False)[0]

    def remember(self, familiarity_means: Optional[int] = None, conformal_scores: Optional[int] = None) -> None:
        """Make room for what the model knows of its own limits; the new `familiarity` or `class_sets` are to be filled.

        Args:
            familiarity_means: See the configuration, whose field it sets; 0 for no `familiarity`, None to keep it.
            conformal_scores: Likewise of `class_sets`.
        """
        config, device = self.config, self.device
        if familiarity_means is not None:
            config.familiarity_means, hidden = familiarity_means, config.backbone_config.hidden_size
            self.familiarity = Familiarity(hidden, familiarity_means).to(device) if familiarity_means else None
        if conformal_scores is not None:
            config.conformal_scores = conformal_scores
            self.class_sets = ClassSets(config.num_labels, conformal_scores).to(device) if conformal_scores else None

    def freeze_backbone(self) -> None:
        """Keep the backbone as it is in training: no gradients, no dropout. This is the default.

        Its own parameters are frozen. Adapters that were added to it, as by peft, learn.
        """
        self.config.freeze_backbone = True
        self._is_frozen = False
        self.train(self.training)

    def unfreeze_backbone(self) -> None:
        """Let training change the backbone; gradients then flow through it, and its micro-batches end.

        A backbone with adapters keeps its own parameters as they are: only the adapters are saved with them.
        """
        self.config.freeze_backbone = False
        if has_adapters(self.backbone, self._backbone_names):
            logger.warning("The backbone has adapters: they learn, its own parameters stay as they are.")
        else:
            self.backbone.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "SpiderForImageClassification":
        """Set training mode; a frozen backbone without adapters stays in evaluation mode."""
        super().train(mode)
        self._follow_freezing()
        return self

    def save_pretrained(self, save_directory: Union[str, os.PathLike], *args: Any, **kwargs: Any) -> None:
        """Like the base method; whoever may read the configuration may read the weights."""
        self._follow_freezing()
        make_replaceable()
        super().save_pretrained(save_directory, *args, **kwargs)
        for weights in glob.glob(os.path.join(save_directory, "*.safetensors")):
            shutil.copymode(os.path.join(save_directory, "config.json"), weights)

    def get_input_embeddings(self) -> nn.Module:
        """The layer that turns pixels into tokens; adapters with gradient checkpointing let gradients start there."""
        return self.backbone.get_input_embeddings()

    def set_attn_implementation(self, attn_implementation: Union[str, dict], *args: Any, **kwargs: Any) -> None:
        """Change the attention implementation of the backbone and, where Transformers can (5.x), of the head."""
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        if self.context_encoder._can_set_attn_implementation():
            self.context_encoder.set_attn_implementation(self.config._attn_implementation)

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if isinstance(module, (Familiarity, ClassSets)):
            module.forget()

    def _follow_freezing(self) -> None:
        """Freeze the backbone's own parameters if the configuration says so, unless somebody set them free since."""
        own = list(own_parameters(self.backbone, self._backbone_names))
        if self._is_frozen and self.config.freeze_backbone and any(parameter.requires_grad for parameter in own):
            if not self.training:
                return  # until training starts; Transformers 5 also sets gradients free while it loads
            logger.warning("Parameters of the backbone were set to learn: it is no longer frozen.")
            self.config.freeze_backbone = False
        self._is_frozen = self.config.freeze_backbone
        if self._is_frozen:
            for parameter in own:
                parameter.requires_grad_(False)
            if not has_adapters(self.backbone, self._backbone_names):
                self.backbone.eval()
        # Never part of a forward pass: as trainable parameters they would make DistributedDataParallel wait for them.
        self.backbone.embeddings.mask_token.requires_grad_(False)
        self.context_encoder.embeddings.word_embeddings.requires_grad_(False)

    def _as_backbone_input(self, patches: torch.Tensor) -> torch.Tensor:
        dtype = self.backbone.embeddings.cls_token.dtype  # replicas of DataParallel have tensors, and no parameters
        return as_backbone_input(patches, self.config.image_mean, self.config.image_std, dtype)

    def _embed_regions(self, pixel_values: torch.Tensor, context_mask: Optional[torch.Tensor]) -> torch.Tensor:
        """Embed the patches of a batch of regions, leaving out those that the mask excludes."""
        batch, patches = pixel_values.shape[:2]
        if context_mask is None or torch.compiler.is_compiling() or bool(context_mask.all()):
            return self.embed_patches(pixel_values.flatten(0, 1)).unflatten(0, (batch, patches))
        present = self.embed_patches(pixel_values[context_mask.to(pixel_values.device)])
        patch_embeddings = present.new_zeros(batch, patches, present.shape[-1])
        patch_embeddings[context_mask.to(present.device)] = present
        return patch_embeddings

    def _encode_grid(
        self, patch_embeddings: torch.Tensor, context_mask: Optional[torch.Tensor], with_attention: bool
    ) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Logits `(batch, num_labels)` and, on request, the attention of the read-out `(batch, context_size**2)`."""
        attention_mask = None
        if context_mask is not None:
            context_mask = context_mask.to(patch_embeddings.device)
            # Attention weights of 0 do not hide NaN, so that the content of missing patches must not get that far.
            patch_embeddings = patch_embeddings.masked_fill(~context_mask[..., None], 0)
            attention_mask = context_mask.long()
        # Not the projection's: a quantised layer has weights of another type than its input.
        dtype = self.context_encoder.embeddings.position_embeddings.weight.dtype
        patch_embeddings = patch_embeddings.to(dtype)
        projected = self.projection(patch_embeddings)
        encoded = self.context_encoder(
            inputs_embeds=projected,
            attention_mask=attention_mask,
            output_hidden_states=with_attention,
            return_dict=True,
        )
        tokens = encoded.last_hidden_state + projected if self.config.head_residual else encoded.last_hidden_state
        features = read_out(tokens, self.config.head_readout, self.config.center_index, context_mask)
        if self.config.head_pooler:
            features = self.context_encoder.pooler(features[:, None])  # which takes the first of one token
        if self.config.head_beside:
            beside = projected if self.config.head_beside == "projection" else patch_embeddings
            features = torch.cat([beside[:, self.config.center_index], features], dim=-1)
        logits = self.classifier(self.dropout(features))
        if self.config.logit_temperature != 1:
            logits = logits / self.config.logit_temperature
        if logits.shape[-1] != self.config.num_labels:
            raise ValueError(
                f"The classifier gives {logits.shape[-1]} logits, the configuration names {self.config.num_labels} "
                "classes: set `config.class_names` to theirs, in the order of the logits."
            )
        if not with_attention:
            return logits, None
        return logits, attention_of(self.context_encoder, encoded.hidden_states[-2], self.config, context_mask)

    def _doubts(
        self, patch_embeddings: torch.Tensor, context_mask: Optional[torch.Tensor], logits: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What an output says of its own limits, as far as the model remembers what that takes."""
        doubts = {}
        with torch.no_grad():
            if self.familiarity is not None:
                doubts["unfamiliarity"] = self.familiarity(patch_embeddings, context_mask)
                if self.config.unfamiliarity_threshold is not None:
                    doubts["is_familiar"] = doubts["unfamiliarity"] <= self.config.unfamiliarity_threshold
            if self.class_sets is not None:
                doubts["class_p_values"] = self.class_sets(logits.float().softmax(dim=-1))
        return doubts

    def _check_embedding_grid(self, patch_embeddings: torch.Tensor) -> None:
        patches, hidden = self.config.num_context_patches, self.config.backbone_config.hidden_size
        if not fits(patch_embeddings, patches, hidden) or patch_embeddings.shape[0] == 0:
            raise ValueError(
                f"Expected float `patch_embeddings` of shape (B, {patches}, {hidden}) with B > 0, got "
                f"{describe(patch_embeddings)}."
            )

    def _checked_mask(self, context_mask: Optional[torch.Tensor], grid: torch.Tensor) -> Optional[torch.Tensor]:
        if context_mask is None:
            return None
        if context_mask.shape != grid.shape[:2]:
            raise ValueError(
                f"Expected `context_mask` of shape {tuple(grid.shape[:2])}, got {tuple(context_mask.shape)}."
            )
        context_mask = context_mask.to(torch.bool)
        center = self.config.center_index
        if not torch.compiler.is_compiling() and not bool(context_mask[:, center].all()):
            absent = (~context_mask[:, center]).nonzero().flatten().tolist()
            raise ValueError(
                f"Expected `context_mask` to be True for the central patch, index {center}; it is False in the regions "
                f"{absent} of the batch."
            )
        return context_mask

    def _checked_labels(self, labels: Optional[torch.Tensor], grid: torch.Tensor) -> Optional[torch.Tensor]:
        if labels is None:
            return None
        if not isinstance(labels, torch.Tensor):
            labels = torch.as_tensor(labels, device=grid.device)
        classes = self.config.num_labels
        if labels.shape != grid.shape[:1] or labels.dtype.is_floating_point or labels.dtype == torch.bool:
            raise ValueError(f"Expected integer `labels` of shape ({len(grid)},), got {describe(labels)}.")
        if not torch.compiler.is_compiling() and not bool(((labels >= 0) & (labels < classes)).all()):
            raise ValueError(f"Expected `labels` from 0 to {classes - 1}, got {labels.tolist()}.")
        return labels.long()


# `pipeline("image-classification", model=...)` logs an error about a model of a class that is not registered.
AutoModelForImageClassification.register(SpiderConfig, SpiderForImageClassification, exist_ok=True)
