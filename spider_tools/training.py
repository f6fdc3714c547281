"""Training: an accelerate loop over regions that share patches."""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from . import remote
from .data import PatchNormalizer, RegionDataset, SharedPatchCollator, SlideOrderSampler, class_names_of, read_regions

logger = logging.getLogger(__name__)

# A backbone that learns from scratch in a minute on a CPU: 64 tokens of 28 px in a 224 px patch.
SMALL_BACKBONE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 28,
    "num_register_tokens": 1,
}


@dataclass(frozen=True)
class TrainingSettings:
    """What `train.py` was asked to do; its flags explain the fields."""

    dataset: Path
    output_dir: Path
    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    context_dropout: float = 0.1
    warmup_epochs: float = 1.0
    head_dropout: float = 0.1
    seed: int = 0
    num_workers: int = 2

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for field in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, field) > 0:
                raise ValueError(f"`{field}` must be positive, got {getattr(self, field)}.")
        for field in ("label_smoothing", "context_dropout", "head_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"`{field}` must lie in [0, 1), got {getattr(self, field)}.")


class SharedPatchClassifier(nn.Module):
    """Classifies regions that share patches, embedding each patch once; gradients flow through all of it.

    Args:
        model: A `SpiderForImageClassification`.
        normalize: Turns uint8 `(patches, P, P, 3)` into the backbone's input.
    """

    def __init__(self, model: Any, normalize: PatchNormalizer) -> None:
        super().__init__()
        self.model = model
        self.normalize = normalize

    def forward(self, patches: torch.Tensor, patch_index: torch.Tensor, context_mask: torch.Tensor) -> torch.Tensor:
        """Logits `(regions, classes)`.

        Args:
            patches: Unique patches, uint8 `(patches, P, P, 3)`.
            patch_index: int64 `(regions, 25)`; what it says of missing patches is not read.
            context_mask: bool `(regions, 25)`.
        """
        embeddings = self.model.embed_patches(self.normalize(patches))
        return self.model(patch_embeddings=embeddings[patch_index.clamp(min=0)], context_mask=context_mask).logits


def train(settings: TrainingSettings) -> Path:
    """Train a small backbone and its head from scratch and save a complete model folder.

    One process with the same settings gives the same weights twice on the same machine. Several processes, a GPU or
    another number of threads change the order of sums and so the last digits.

    Returns:
        The model folder, `settings.output_dir`.

    Raises:
        ValueError: The data set cannot be used.
        FloatingPointError: The loss became NaN or infinite; nothing is saved.
    """
    accelerator = Accelerator()
    regions = [region for region in read_regions(settings.dataset) if region.split == "train"]
    class_names = class_names_of(regions)
    if len(class_names) < 2:
        raise ValueError(f"{settings.dataset} has training regions of the classes {class_names}; expected two or more.")
    set_seed(settings.seed)
    model = _new_model(settings, class_names)
    image_processor = remote.image_processor_class()(patch_size=model.config.patch_size)
    sampler = SlideOrderSampler(regions, settings.seed)
    loader = DataLoader(
        RegionDataset(regions, class_names),
        batch_size=settings.batch_size,
        sampler=sampler,
        collate_fn=SharedPatchCollator(settings.dataset / "images", model.config.patch_size),
        num_workers=settings.num_workers,
        persistent_workers=settings.num_workers > 0,
    )
    classifier = SharedPatchClassifier(model, PatchNormalizer(image_processor))
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], settings.learning_rate, weight_decay=settings.weight_decay
    )
    classifier, optimizer, loader = accelerator.prepare(classifier, optimizer, loader)
    schedule = get_cosine_schedule_with_warmup(
        optimizer, int(settings.warmup_epochs * len(loader)), settings.epochs * len(loader)
    )

    bar = tqdm(total=settings.epochs * len(regions), unit="region", disable=not accelerator.is_main_process)
    for epoch in range(settings.epochs):
        sampler.set_epoch(epoch)
        _train_epoch(accelerator, classifier, loader, optimizer, schedule, settings, bar)
    bar.close()

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        trained = accelerator.unwrap_model(classifier).model.eval()
        trained.freeze_backbone()
        save_model_folder(trained, remote.processor_class()(image_processor), settings)
    accelerator.end_training()
    return settings.output_dir


def _train_epoch(
    accelerator: Accelerator,
    classifier: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    settings: TrainingSettings,
    bar: tqdm,
) -> None:
    classifier.train()
    for batch in loader:
        mask = drop_context(batch["patch_index"] >= 0, settings.context_dropout)
        logits = classifier(batch["patches"], batch["patch_index"], mask)
        loss = nn.functional.cross_entropy(logits.float(), batch["labels"], label_smoothing=settings.label_smoothing)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss.item()}; nothing was saved. Lower --learning_rate ({settings.learning_rate})."
            )
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        bar.update(len(batch["labels"]) * accelerator.num_processes)


def drop_context(context_mask: torch.Tensor, probability: float) -> torch.Tensor:
    """Mask each patch but the centre with a probability; `(regions, 25)` bool in and out."""
    if probability == 0:
        return context_mask
    keep = torch.rand(context_mask.shape, device=context_mask.device) >= probability
    keep[:, context_mask.shape[1] // 2] = True
    return context_mask & keep


def _new_model(settings: TrainingSettings, class_names: list[str]) -> Any:
    config = remote.config_class()(
        backbone_config={**SMALL_BACKBONE, "image_size": 224},
        class_names=class_names,
        head_hidden_dropout_prob=settings.head_dropout,
        head_attention_probs_dropout_prob=settings.head_dropout,
        head_dropout_prob=settings.head_dropout,
        freeze_backbone=False,
    )
    return remote.model_class()(config)


def save_model_folder(model: Any, processor: Any, settings: Optional[TrainingSettings] = None) -> None:
    """Write a complete model repository beside its place, then move it there: whole or not at all.

    Args:
        model: A `SpiderForImageClassification`.
        processor: Its `SpiderProcessor`.
        settings: Where to save, and what to note in `training_settings.json`.
    """
    assert settings is not None
    target = settings.output_dir
    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    facts = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    (unfinished / "training_settings.json").write_text(json.dumps(facts, indent=2) + "\n")
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(unfinished.iterdir()):
        os.replace(path, target / path.name)
    unfinished.rmdir()
