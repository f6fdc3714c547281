"""Which data to load, and how, as flags."""

from dataclasses import dataclass
from pathlib import Path

from ..flags import Settings, setting

METADATA_SIZE = 5  # patches along one side of the published regions


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which data to load, and how."""

    dataset: str = setting(
        help="folder with metadata.json and images/, folder of tar parts, Hub id, or folder of whole regions: saved by "
        "`datasets`, Parquet, images in a folder per class, or a CSV file of their paths and labels"
    )
    dataset_revision: str | None = setting(None, help="branch, tag or commit of a data set on the Hub")
    cache_dir: Path | None = setting(
        None, help="folder for tables and unpacked archives (default: spider/ below the Hugging Face home)"
    )
    context_size: int = setting(METADATA_SIZE, help="1, 3 or 5 patches along one side of a region, the central ones")
    patch_size: int = setting(224, at_least=1, help="side of a patch in px")
    classes: tuple[str, ...] | None = setting(None, help="classes to restrict to, after the mapping: A,B,...")
    class_mapping: Path | None = setting(
        None, help='JSON file {"old name": "new name" or null} that merges, renames or drops classes'
    )
    class_names: tuple[str, ...] | None = setting(
        None, help="classes in the order of the logits (default: those of the data in alphabetical order)"
    )
    max_regions_per_class: int | None = setting(None, at_least=1, help="of every split, chosen at random")
    validation_fraction: float = setting(
        0.1,
        at_least=0,
        below=1,
        help="of train if the data have no validation split, cut by patient, or slide where none is named; 0: none",
    )
    skip_bad_records: bool = setting(False, help="decode all images once, leave bad records out and list them")
    image_column: str | None = setting(None, help="of a data set of whole regions (default: the one that fits)")
    label_column: str | None = setting(None, help="likewise")
    slide_column: str | None = setting(None, help="likewise (default: slide_id, if there is such a column)")
    patient_column: str | None = setting(None, help="likewise (default: patient_id, if there is such a column)")
    seed: int = setting(0, at_least=0, help="of the validation split and of --max_regions_per_class")

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        if self.context_size not in (1, 3, 5):
            raise ValueError(f"--context_size must be 1, 3 or 5, got {self.context_size}.")
        for option in ("classes", "class_names"):
            names = getattr(self, option)
            if names is not None and (not names or len(set(names)) != len(names)):
                raise ValueError(f"--{option} must be different class names, at least one, got {names}.")
