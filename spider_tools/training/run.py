"""A training run from its settings to a model folder."""

import logging
from pathlib import Path
from typing import Optional

from ..data.loading import RegionData
from ..data.settings import DataSettings
from ..environment import write_settings
from ..flags import as_json
from ..model_folder import save_model_folder
from ..publishing.publish import publish
from ..publishing.settings import PublishSettings
from ..publishing.upload import check_target
from .checkpoints import Progress, find_checkpoint
from .loop import fit
from .record import training_facts
from .settings import TrainingSettings
from .setup import TrainingSetup, load_training_data, prepare_accelerator, set_up
from .starting_model import merge_lora

logger = logging.getLogger(__name__)


def train(settings: TrainingSettings, data_settings: DataSettings) -> Optional[Path]:
    """Train a model as the settings say and save it as a complete repository.

    One process with the same settings gives the same weights twice on the same machine. Several processes, a GPU or
    another number of threads change the order of sums and so the last digits; several processes also draw other
    dropout masks.

    Returns:
        The model folder, `settings.output_dir`; None in all processes but the first.

    Raises:
        ValueError: Settings, data set or starting weights cannot be used.
        FloatingPointError: The loss became NaN or infinite; the last checkpoint stays.
        OSError: Something cannot be read, downloaded or written; the last checkpoint stays.
    """
    check_output_folder(settings)
    hub = PublishSettings(private=settings.hub_private)
    if settings.push_to_hub:
        check_target(str(settings.hub_model_id), hub)
    accelerator = prepare_accelerator(settings)
    data = load_training_data(accelerator, settings, data_settings)
    setup = set_up(accelerator, settings, data)
    if accelerator.is_main_process:
        write_settings(settings.run_folder, as_json(settings) | {"data": as_json(data_settings)})
    progress = fit(setup)
    export(setup, data, progress)
    if settings.push_to_hub and accelerator.is_main_process:
        logger.info("published %s", publish(settings.output_dir, str(settings.hub_model_id), hub))
    accelerator.end_training()
    return settings.output_dir if accelerator.is_main_process else None


def check_output_folder(settings: TrainingSettings) -> None:
    """Refuse a folder with the checkpoints of another run, and a checkpoint that cannot be resumed.

    Raises:
        ValueError: It is one of these.
    """
    checkpoints = settings.run_folder / "checkpoints"
    if settings.resume_from_checkpoint is not None:
        find_checkpoint(checkpoints, settings.resume_from_checkpoint)
    elif any(checkpoints.glob("step_*")):
        raise ValueError(
            f"{checkpoints} holds the checkpoints of an earlier run. Go on with --resume_from_checkpoint latest, "
            "choose another --output_dir, or remove them."
        )


def export(setup: TrainingSetup, data: RegionData, progress: Progress) -> None:
    """Save the best model, or the last one without a validation split, as a complete repository.

    Every process calls this; the first one writes.
    """
    settings = setup.settings
    if progress.best_checkpoint is not None:
        setup.checkpoints.load_weights(settings.run_folder / "checkpoints" / progress.best_checkpoint)
    setup.accelerator.wait_for_everyone()
    if not setup.accelerator.is_main_process:
        return
    model = setup.model
    merge_lora(model)
    model.freeze_backbone()
    model.config.training = training_facts(settings, data, progress)
    save_model_folder(model.eval(), setup.image_processor, settings.output_dir)
    logger.info("saved %s", settings.output_dir)
