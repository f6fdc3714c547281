"""Where regions come from: a SPIDER folder or a data set of whole regions, behind one interface."""

from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from .caches import digest, file_digest, only_one_process
from .columns import Columns
from .contents import content_digest
from .opening import open_dataset
from .patches import FolderPatches, PatchSource
from .settings import METADATA_SIZE, DataSettings
from .spider_layout import build_table, place_of
from .tables import BadRecord
from .whole_regions import WholeRegions

TABLE_VERSION = 3  # of the tables in the cache


class Source(Protocol):
    """Where regions come from.

    Attributes:
        name: How reports call the data set.
        fingerprint: Changes when the data change.
        table_size: Patches along one side of the regions of its table.
    """

    name: str
    fingerprint: str
    table_size: int

    def build_table(self, skip: bool, work: Path) -> list[BadRecord]:
        """Write `work / TABLE_NAME`; see `spider_layout.build_table`."""

    def patches(self, table: Path) -> PatchSource:
        """Opens the patches that the table names."""

    def place_of(self, number: int, split: str) -> str:
        """How messages call a record."""


class SpiderFolder:
    """A folder with `metadata.json` and `images/`."""

    table_size = METADATA_SIZE

    def __init__(self, folder: Path, name: str, settings: DataSettings, cache_dir: Path) -> None:
        self.name = name
        images = content_digest(folder / "images", cache_dir)
        self.fingerprint = digest(file_digest(folder / "metadata.json"), images)
        self._folder, self._patch_size = folder, settings.patch_size
        checked = digest(TABLE_VERSION, self.fingerprint, settings.patch_size, settings.skip_bad_records)
        self._memory = cache_dir / "headers" / f"{checked}.json"

    def build_table(self, skip: bool, work: Path) -> list[BadRecord]:
        """See `Source`."""
        with only_one_process(self._memory):
            return build_table(self._folder, self._patch_size, skip, work, self._memory)

    def patches(self, table: Path) -> PatchSource:
        """See `Source`."""
        return FolderPatches(self._folder / "images", self._patch_size, table)

    def place_of(self, number: int, split: str) -> str:
        """See `Source`."""
        return place_of(number)


class WholeRegionFolder:
    """A folder that holds one image per region; see `opening`."""

    def __init__(self, folder: Path, name: str, settings: DataSettings, cache_dir: Path) -> None:
        columns = Columns(settings.image_column, settings.label_column, settings.slide_column, settings.patient_column)
        size = (settings.context_size, settings.patch_size)
        self.name = name
        self.table_size = settings.context_size
        content = content_digest(folder, cache_dir)
        # Names of patches mean other pixels with another grid. Folders of before did not know of patients.
        named = {name: column for name, column in asdict(columns).items() if name != "patient" or column is not None}
        self.fingerprint = digest(content, named, size)
        self._regions = WholeRegions(open_dataset(folder, columns, content, cache_dir), columns, size, folder)

    def build_table(self, skip: bool, work: Path) -> list[BadRecord]:
        """See `Source`."""
        return self._regions.build_table(skip, work)

    def patches(self, table: Path) -> PatchSource:
        """See `Source`."""
        return self._regions.patches()

    def place_of(self, number: int, split: str) -> str:
        """See `Source`."""
        return f"row {number} of split {split!r}"
