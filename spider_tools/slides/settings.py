"""What to do with slides, as the flags of segment_slide.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Optional, get_args

from ..embeddings.settings import Precision, check_precision
from ..flags import Settings, setting
from ..slide_files.mpp_tolerance import MOST_MPP_TOLERANCE
from ..tissue.search import TissueSearch

Output = Literal["geojson", "parquet", "h5", "h5ad", "zarr"]
OUTPUTS: tuple[str, ...] = get_args(Output)
USUAL_OUTPUTS: tuple[Output, ...] = ("geojson", "parquet")
# What each needs that the package itself does not.
_PACKAGES = {"h5": ("h5py",), "h5ad": ("anndata",), "zarr": ("anndata", "zarr")}


def check_packages(outputs: Sequence[str]) -> None:
    """Refuse outputs whose packages are not installed.

    Raises:
        ValueError: One is not.
    """
    for output in outputs:
        absent = [package for package in _PACKAGES.get(output, ()) if find_spec(package) is None]
        if absent:
            raise ValueError(
                f"--outputs {output} needs the package {absent[0]}, which is not installed: "
                f'pip install "spider-pathology[outputs]", or pip install {" ".join(absent)}.'
            )


@dataclass(frozen=True)
class SlideSettings(Settings):
    """How slides are classified, and what is left behind."""

    model: str = setting(help="folder or Hub id of a SPIDER model")
    output_dir: Path = setting(help="gets one folder per slide, of the slide's name")
    revision: Optional[str] = setting(None, help="commit of a model on the Hub")
    mpp: Optional[float] = setting(None, help="um/px of the slides at full resolution, instead of what the files say")
    mpp_from_objective: bool = setting(
        False, help="take 10 um/px by the objective power, 0.25 at 40x, where a file says that and no um/px"
    )
    mpp_tolerance: float = setting(
        0.02,
        at_least=0,
        at_most=MOST_MPP_TOLERANCE,
        help="relative difference to the model's um/px up to which pixels are taken without resampling",
    )
    stride: Optional[int] = setting(
        None,
        at_least=1,
        help="distance of two predictions in px at the model's um/px: 224, 112 or 56 (default: the patch size)",
    )
    mask: Optional[Path] = setting(
        None,
        help="tissue as an image or as GeoJSON with QuPath's coordinates: for one slide the file, for several a folder "
        "of files named like the slides",
    )
    min_tissue: float = setting(0.1, above=0, at_most=1, help="least share of tissue in a cell of the map, 0 to 1")
    tissue_threshold: Optional[float] = setting(
        None, above=0, below=1, help="saturation that tissue exceeds, instead of what is found for each slide"
    )
    tissue_model: Optional[Path] = setting(
        None,
        help="folder of the tissue masks that a segmenter wrote (TRIDENT, HistoQC, GrandQC, ...), one for each slide; "
        "pen, bubbles, folds and blur are still left out of them",
    )
    keep_artifacts: bool = setting(
        False, help="take pen, bubbles, folds and out-of-focus tissue for tissue where they look like it"
    )
    abstain: bool = setting(
        False, help="map what the model finds unfamiliar as a class of its own, not as the class that it guesses"
    )
    tiles: bool = setting(False, help="also write one square per prediction into prediction.geojson")
    outputs: tuple[Output, ...] = setting(
        USUAL_OUTPUTS,
        help="what is written beside report, pictures and composition: geojson for QuPath, parquet for tables, h5 for "
        "CLAM and TRIDENT, h5ad and zarr for AnnData",
    )
    dtype: Precision = setting("float32", help="of the backbone; int8 on a CPU, with torchao installed")
    compile: bool = setting(False, help="compile the backbone first: a minute for Hibou-L, then it is faster")
    batch_size: int = setting(64, at_least=1, help="patches at once through the backbone")
    num_workers: int = setting(2, at_least=0, help="processes that read each slide")
    save_every: float = setting(30.0, at_least=0, help="seconds of embedding that a killed run loses at most")
    stage_dir: Optional[Path] = setting(
        None,
        help="folder on a fast disk: the next slide is copied there while one is embedded, and removed once it is "
        "done; room for two slides per process (slides by URL come there too, by default below --output_dir)",
    )
    retry_failed: bool = setting(False, help="take only the slides that failed before, which cohort.csv lists")

    def __post_init__(self) -> None:
        """Refuse what cannot be used here."""
        super().__post_init__()
        check_precision(self.dtype)
        check_packages(self.outputs)
        if self.tissue_model is None:
            return
        if not self.tissue_model.is_dir():
            raise ValueError(f"--tissue_model {self.tissue_model} is no folder; give the one that holds the masks.")
        for name, value in (("--mask", self.mask), ("--tissue_threshold", self.tissue_threshold)):
            if value is not None:
                raise ValueError(f"Give --tissue_model or {name}, not both: each says by itself where tissue is.")

    @property
    def tissue_search(self) -> TissueSearch:
        """How tissue is found where nobody has drawn it."""
        return TissueSearch(self.tissue_threshold, self.keep_artifacts)

    def checked_stride(self, patch_size: int) -> int:
        """The stride for a model's patches.

        Raises:
            ValueError: It is neither the patch size nor a half nor a quarter of it.
        """
        allowed = [patch_size // part for part in (1, 2, 4) if patch_size % part == 0]
        if self.stride is not None and self.stride not in allowed:
            raise ValueError(f"--stride must be one of {allowed} for patches of {patch_size} px, got {self.stride}.")
        return self.stride or patch_size
