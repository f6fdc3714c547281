"""What a training run can be told, and the two recipes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

from ..data.disturbances import MOST_VIEWS
from ..embeddings.settings import EmbeddingFlags
from ..flags import setting


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(EmbeddingFlags):
    """Hyper-parameters and places of a training run. The defaults are those of the paper (Tables A1 and A2)."""

    output_dir: Path = setting(help="gets the trained model, a complete repository, and training/ with the run")
    backbone: str = setting("histai/hibou-L", help="Hub id or folder of the backbone, or 'random'")
    backbone_config: str = setting(
        "hibou-L", help="sizes of a random backbone: 'hibou-L', 'small' or a JSON file of Dinov2WithRegistersConfig"
    )
    interpolate_positions: bool = setting(
        False, help="fit the backbone's position embeddings to patches of another size than it was trained on"
    )
    backbone_heads: Optional[int] = setting(
        None, at_least=1, help="attention heads of a backbone whose configuration does not state them"
    )
    init_from: Optional[str] = setting(
        None, help="SPIDER model to start from instead; classes that it knows keep their part of the classifier"
    )
    train_backbone: Literal["frozen", "full", "lora"] = setting(
        "frozen", help="what of the backbone learns; frozen embeds patches once"
    )
    lora_rank: int = setting(8, at_least=1, help="rank of the LoRA matrices, merged into the backbone on export")
    epochs: int = setting(10, at_least=1, help="passes over the training regions")
    batch_size: int = setting(
        256, at_least=1, help="regions per optimizer step, over all processes and accumulation steps"
    )
    gradient_accumulation_steps: int = setting(
        1, at_least=1, help="parts that a process cuts its share of a batch into"
    )
    learning_rate: float = setting(4e-4, above=0, help="peak of the AdamW learning rate")
    weight_decay: float = setting(0.01, at_least=0, help="of AdamW")
    warmup_epochs: float = setting(1.0, at_least=0, help="epochs of linear warm-up before the cosine")
    label_smoothing: float = setting(0.2, at_least=0, below=1, help="of the cross entropy")
    max_grad_norm: Optional[float] = setting(None, above=0, help="clips gradients to this norm; the paper does not")
    class_weights: Literal["none", "balanced"] = setting("none", help="weights of the regions in the loss")
    context_dropout: float = setting(0.0, at_least=0, below=1, help="chance that a context patch is masked in training")
    flip: bool = setting(False, help="mirror and turn regions at random; needs --train_backbone full or lora")
    views: int = setting(
        1,
        at_least=1,
        at_most=MOST_VIEWS,
        help="ways in which regions are shown in training: turns and mirrors up to 8, with other stains beyond; each "
        "embeds every patch of train once more, and no gain was measured; needs --train_backbone frozen",
    )
    head_hidden_size: int = setting(128, at_least=1, help="width of the head")
    head_num_hidden_layers: int = setting(1, at_least=1, help="layers of the head")
    head_num_attention_heads: int = setting(1, at_least=1, help="attention heads per layer of the head")
    head_intermediate_size: int = setting(128, at_least=1, help="width of the head's feed-forward layers")
    head_hidden_dropout_prob: float = setting(0.5, at_least=0, below=1, help="dropout after the head's layers")
    head_attention_probs_dropout_prob: float = setting(0.3, at_least=0, below=1, help="dropout on the head's attention")
    head_dropout_prob: float = setting(0.3, at_least=0, below=1, help="dropout before the classifier")
    batch_order: Literal["random", "slide"] = setting(
        "random",
        help="'slide' keeps a slide's regions together: their shared patches are then embedded once per batch",
    )
    early_stopping_patience: Optional[int] = setting(
        None, at_least=1, help="epochs without a better validation macro-F1"
    )
    seed: int = setting(0, at_least=0, help="same seed, same weights, for one process on one machine")
    mixed_precision: Optional[Literal["no", "fp16", "bf16"]] = setting(
        None,
        help="default: what accelerate launch was told, else fp16 on a GPU, as in the paper, and no on a CPU",
    )
    checkpoint_every: Optional[int] = setting(
        None, at_least=1, help="steps between checkpoints (default: one per epoch)"
    )
    checkpoints_kept: int = setting(2, at_least=1, help="newest checkpoints that are kept beside the best")
    resume_from_checkpoint: Optional[str] = setting(None, help="'latest' or the folder of a checkpoint")
    report_to: Optional[str] = setting(None, help="accelerate tracker: tensorboard, wandb, trackio ...")
    push_to_hub: bool = setting(False, help="publish the trained model under --hub_model_id")
    hub_model_id: Optional[str] = setting(None, help="org/name on the Hub")
    hub_private: bool = setting(False, help="make the repository private")

    def __post_init__(self) -> None:
        """Refuse what does not go together, before any work."""
        super().__post_init__()
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"--warmup_epochs must be at most --epochs, {self.epochs}, got {self.warmup_epochs:g}.")
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("--push_to_hub needs --hub_model_id org/name.")
        if self.flip and self.train_backbone == "frozen":
            raise ValueError(
                "--flip needs --train_backbone full or lora: embeddings of a frozen backbone are made once. --views 8 "
                "makes those of all turns and mirrors."
            )
        if self.views > 1 and self.train_backbone != "frozen":
            raise ValueError(
                f"--views {self.views} needs --train_backbone frozen: a backbone that learns embeds anew in each step, "
                "and --flip turns its regions."
            )

    @property
    def run_folder(self) -> Path:
        """Where the run keeps its settings, history and checkpoints."""
        return self.output_dir / "training"

    @property
    def checkpoints_folder(self) -> Path:
        """Where the run keeps its checkpoints."""
        return self.run_folder / "checkpoints"


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


def recipe_settings(name: Optional[str]) -> dict[str, Any]:
    """What a recipe sets, the published one by default.

    Raises:
        ValueError: There is no such recipe.
    """
    if name is not None and name not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {name!r}.")
    return RECIPES[name or "published"]
