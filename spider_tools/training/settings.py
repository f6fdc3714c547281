"""What a training run can be told, and the two recipes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..embeddings.settings import PRECISIONS, check_precision
from ..flags import setting


@dataclass(frozen=True)
class TrainingSettings:
    """Hyper-parameters and places of a training run. The defaults are those of the paper (Tables A1 and A2)."""

    output_dir: Path = setting(help="gets the trained model, a complete repository, and training/ with the run")
    backbone: str = setting("histai/hibou-L", help="Hub id or folder of the backbone, or 'random'")
    backbone_config: str = setting(
        "hibou-L", help="sizes of a random backbone: 'hibou-L', 'small' or a JSON file of Dinov2WithRegistersConfig"
    )
    interpolate_positions: bool = setting(
        False, help="fit the backbone's position embeddings to patches of another size than it was trained on"
    )
    init_from: Optional[str] = setting(
        None, help="SPIDER model to start from instead; classes that it knows keep their part of the classifier"
    )
    train_backbone: str = setting(
        "frozen", choices=("frozen", "full", "lora"), help="what of the backbone learns; frozen embeds patches once"
    )
    lora_rank: int = setting(8, help="rank of the LoRA matrices, merged into the backbone on export")
    epochs: int = setting(10, help="passes over the training regions")
    batch_size: int = setting(256, help="regions per optimizer step, over all processes and accumulation steps")
    gradient_accumulation_steps: int = setting(1, help="parts that a process cuts its share of a batch into")
    learning_rate: float = setting(4e-4, help="peak of the AdamW learning rate")
    weight_decay: float = setting(0.01, help="of AdamW")
    warmup_epochs: float = setting(1.0, help="epochs of linear warm-up before the cosine")
    label_smoothing: float = setting(0.2, help="of the cross entropy")
    max_grad_norm: Optional[float] = setting(None, help="clips gradients to this norm; the paper does not")
    class_weights: str = setting("none", choices=("none", "balanced"), help="weights of the regions in the loss")
    context_dropout: float = setting(0.0, help="chance that a context patch is masked in training")
    flip: bool = setting(False, help="mirror and turn regions at random; needs --train_backbone full or lora")
    head_hidden_size: int = setting(128, help="width of the head")
    head_num_hidden_layers: int = setting(1, help="layers of the head")
    head_num_attention_heads: int = setting(1, help="attention heads per layer of the head")
    head_intermediate_size: int = setting(128, help="width of the head's feed-forward layers")
    head_hidden_dropout_prob: float = setting(0.5, help="dropout after the head's layers")
    head_attention_probs_dropout_prob: float = setting(0.3, help="dropout on the head's attention")
    head_dropout_prob: float = setting(0.3, help="dropout before the classifier")
    batch_order: str = setting(
        "random",
        choices=("random", "slide"),
        help="'slide' keeps a slide's regions together: their shared patches are then embedded once per batch",
    )
    early_stopping_patience: Optional[int] = setting(None, help="epochs without a better validation macro-F1")
    seed: int = setting(0, help="same seed, same weights, for one process on one machine")
    mixed_precision: Optional[str] = setting(
        None,
        choices=("no", "fp16", "bf16"),
        help="default: what accelerate launch was told, else fp16 on a GPU, as in the paper, and no on a CPU",
    )
    embedding_dtype: str = setting(
        "float32",
        choices=PRECISIONS,
        help="of the frozen backbone while it embeds patches; int8 on a CPU, with torchao installed",
    )
    embedding_compile: bool = setting(
        False, help="compile the frozen backbone first: a minute for Hibou-L, then it embeds faster"
    )
    embedding_store: Optional[Path] = setting(None, help="folder of patch embeddings (default: in the output folder)")
    embedding_batch_size: int = setting(64, help="patches at once through the frozen backbone")
    num_workers: int = setting(2, help="processes that decode images")
    checkpoint_every: Optional[int] = setting(None, help="steps between checkpoints (default: one per epoch)")
    checkpoints_kept: int = setting(2, help="newest checkpoints that are kept beside the best")
    resume_from_checkpoint: Optional[str] = setting(None, help="'latest' or the folder of a checkpoint")
    report_to: Optional[str] = setting(None, help="accelerate tracker: tensorboard, wandb, trackio ...")
    push_to_hub: bool = setting(False, help="publish the trained model under --hub_model_id")
    hub_model_id: Optional[str] = setting(None, help="org/name on the Hub")
    hub_private: bool = setting(False, help="make the repository private")

    def __post_init__(self) -> None:
        """Refuse values out of range, before any work."""
        check_precision(self.embedding_dtype)
        for field in (
            "epochs",
            "batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "lora_rank",
            "embedding_batch_size",
            "checkpoints_kept",
        ):
            _require(getattr(self, field) > 0, field, "positive", getattr(self, field))
        for field in ("max_grad_norm", "early_stopping_patience", "checkpoint_every"):
            value = getattr(self, field)
            _require(value is None or value > 0, field, "positive", value)
        for field in ("weight_decay", "num_workers", "seed"):
            _require(getattr(self, field) >= 0, field, "0 or more", getattr(self, field))
        for field in ("label_smoothing", "context_dropout"):
            _require(0 <= getattr(self, field) < 1, field, "in [0, 1)", getattr(self, field))
        _require(0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", f"0 to {self.epochs}", self.warmup_epochs)
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("--push_to_hub needs --hub_model_id org/name.")
        if self.flip and self.train_backbone == "frozen":
            raise ValueError(
                "--flip needs --train_backbone full or lora: embeddings of a frozen backbone are made once."
            )

    @property
    def run_folder(self) -> Path:
        """Where the run keeps its settings, history and checkpoints."""
        return self.output_dir / "training"


# What each recipe sets; a flag that is given overrides it.
RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    # A backbone that learns from scratch on a CPU in a minute, trained with the head end to end.
    "small": {
        "backbone": "random",
        "backbone_config": "small",
        "train_backbone": "full",
        "epochs": 30,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "label_smoothing": 0.1,
        "max_grad_norm": 1.0,
        "context_dropout": 0.1,
        "head_hidden_dropout_prob": 0.1,
        "head_attention_probs_dropout_prob": 0.1,
        "head_dropout_prob": 0.1,
        "batch_order": "slide",
        "flip": True,
        "mixed_precision": "no",
    },
}


def _require(holds: bool, field: str, expected: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"--{field} must be {expected}, got {value}.")
