"""A training run from its settings to a model folder."""

import logging
from pathlib import Path
from typing import Any, Optional

from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors import SafetensorError

from ..data.loaders import EmbeddedRegions
from ..data.loading import RegionData
from ..data.settings import DataSettings
from ..embeddings.identity import store_content
from ..environment import write_settings
from ..files import require_writable
from ..flags import as_json
from ..hugging_face_home import require_hugging_face_home
from ..model_folder import save_model_folder
from ..output_folder import only_run_in
from ..publishing.checks import model_files
from ..publishing.publish import publish
from ..publishing.settings import PublishSettings
from ..publishing.upload import check_target
from .calibration import calibrate
from .checkpoints import damage_of, find_checkpoint, read_progress
from .loop import fit
from .progress import Progress
from .record import base_model_import, training_facts
from .resuming import check_data, check_model, check_settings, identity_of, take_over
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
    require_writable(settings.output_dir, "--output_dir")
    settings.require_store_folder()
    require_hugging_face_home()
    if settings.push_to_hub:
        hub = PublishSettings(private=settings.hub_private)
        check_target(str(settings.hub_model_id), hub, _exported(settings))
    accelerator = prepare_accelerator(settings)
    with only_run_in(settings.run_folder, accelerator):
        _train(accelerator, settings, data_settings)
    accelerator.end_training()
    return settings.output_dir if accelerator.is_main_process else None


def _train(accelerator: Accelerator, settings: TrainingSettings, data_settings: DataSettings) -> None:
    resumed = check_output_folder(settings)
    data = load_training_data(accelerator, settings, data_settings)
    identity = identity_of(settings, data_settings, data)
    if resumed is not None:
        check_data(read_progress(resumed), identity)
    setup = set_up(accelerator, settings, data)
    identity |= model_identity(setup)
    progress = start(setup, identity, resumed)
    if accelerator.is_main_process:
        write_settings(settings.run_folder, as_json(settings) | {"data": as_json(data_settings)})
    progress = fit(setup, progress)
    export(setup, data, progress)
    if settings.push_to_hub and accelerator.is_main_process:
        hub = PublishSettings(private=settings.hub_private)
        logger.info("published %s", publish(settings.output_dir, str(settings.hub_model_id), hub))


def _exported(settings: TrainingSettings) -> dict[str, Path]:
    """The model that the run that is resumed exported; no files if it did not come so far, or none is resumed."""
    if settings.resume_from_checkpoint is None:
        return {}
    try:
        return model_files(settings.output_dir)
    except ValueError:
        return {}


def check_output_folder(settings: TrainingSettings) -> Optional[Path]:
    """Refuse a folder with the checkpoints of another run, and a checkpoint that cannot be resumed with these settings.

    Returns:
        The checkpoint to resume from, if the settings ask for one.

    Raises:
        ValueError: It is one of these.
    """
    checkpoints = settings.checkpoints_folder
    if settings.resume_from_checkpoint is not None:
        found = find_checkpoint(checkpoints, settings.resume_from_checkpoint)
        check_settings(read_progress(found), settings)
        return found
    if any(checkpoints.glob("step_*")):
        raise ValueError(
            f"{checkpoints} holds the checkpoints of an earlier run. Go on with --resume_from_checkpoint latest, "
            "choose another --output_dir, or remove them."
        )
    return None


def model_identity(setup: TrainingSetup) -> dict[str, Any]:
    """What of the model decides a run beside its settings: a backbone that does not learn, and the precision."""
    if isinstance(setup.train, EmbeddedRegions):  # whose store is named by the same, hashed a moment ago
        content = setup.train.store.index.content | {"dtype": "", "source": None}
    else:
        # Adapters are as the seed made them; the weights of a backbone that learns come from the checkpoint.
        content = store_content(None, setup.model, setup.image_processor, "")
    if setup.settings.train_backbone == "full":
        del content["backbone_sha256"]
    return {
        "backbone": content,
        "precision": setup.accelerator.mixed_precision,
    }


def start(setup: TrainingSetup, identity: dict[str, Any], checkpoint: Optional[Path]) -> Progress:
    """The state that a run starts from: the seed's, or that of a checkpoint, whose model must be the same.

    Raises:
        ValueError: The checkpoint does not fit.
    """
    set_seed(setup.settings.seed, device_specific=True)
    if checkpoint is None:
        return Progress(identity=identity, base_model_import=base_model_import(setup.settings))
    check_model(read_progress(checkpoint), identity)
    progress = setup.checkpoints.load(checkpoint)
    take_over(progress, identity)
    setup.checkpoints.go_on_at(setup.settings.learning_rate)
    return progress


def export(setup: TrainingSetup, data: RegionData, progress: Progress) -> None:
    """Calibrate the best model, or the last one without a validation split, and save it as a complete repository.

    Every process calls this; the first one writes.
    """
    settings = setup.settings
    if progress.best_checkpoint is not None:
        best = settings.checkpoints_folder / progress.best_checkpoint
        damage = damage_of(best)
        if damage:
            raise OSError(f"The best checkpoint, {best}, is damaged: {damage} Restore it, then resume to export it.")
        setup.checkpoints.load_weights(best)
    calibrate(setup, data)
    setup.accelerator.wait_for_everyone()
    if not setup.accelerator.is_main_process:
        return
    model = setup.model
    merge_lora(model)
    model.freeze_backbone()
    model.config.training = training_facts(settings, data, progress)
    try:
        save_model_folder(model.eval(), setup.image_processor, settings.output_dir)
    except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own error for a full disk
        raise OSError(
            f"The model could not be written to {settings.output_dir} ({error}). What was learnt is in "
            f"{setup.checkpoints.latest()}: make room, then --resume_from_checkpoint latest exports it."
        ) from error
    logger.info("saved %s", settings.output_dir)
