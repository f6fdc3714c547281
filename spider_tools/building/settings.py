"""How a data set is built, as the flags of build_dataset.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from ..flags import Settings, setting
from ..hub import is_hub_id


@dataclass(frozen=True)
class BuildSettings(Settings):
    """How a data set is built from slides and annotations."""

    output_dir: Path = setting(help="gets images/, metadata.json, README.md and pictures to check the labels by")
    annotations: tuple[str, ...] = setting(
        (),
        help="folders of files named like the slides: QuPath GeoJSON, ASAP or ImageScope XML, NDPA; of several, A,B, "
        "all count, as of suggestions that were checked",
    )
    mpp: Optional[float] = setting(None, help="um/px of the slides at full resolution, instead of what the files say")
    target_mpp: float = setting(0.5, above=0, at_most=100, help="um/px of the patches, the model's")
    mpp_tolerance: float = setting(
        0.02, at_least=0, at_most=0.5, help="relative difference up to which pixels are taken without resampling"
    )
    upsample: bool = setting(
        False, help="enlarge slides that are coarser than --target_mpp, up to twice, instead of refusing them"
    )
    patch_size: int = setting(224, at_least=16, at_most=4096, help="side of a patch in px at --target_mpp")
    stride: Optional[int] = setting(
        None, at_least=1, help="distance of central patches in px; a whole part of the patch size (default: itself)"
    )
    min_coverage: float = setting(0.5, above=0, at_most=1, help="least share of a patch that its class covers")
    max_other: float = setting(0.1, at_least=0, below=1, help="largest share of it that any other class covers")
    unannotated: Optional[str] = setting(
        None, help="class of tissue that nobody outlined, on slides that are annotated fully"
    )
    fully_annotated: bool = setting(
        False, help="all slides are annotated fully (default: what the column fully_annotated of a manifest says)"
    )
    class_mapping: Optional[Path] = setting(
        None, help='JSON file {"old name": "new name" or null} that merges, renames or drops classes'
    )
    max_regions_per_class: Optional[int] = setting(None, at_least=1, help="evenly over slides, then over their area")
    max_per_annotation: Optional[int] = setting(None, at_least=1, help="evenly over the area of each drawn object")
    test_fraction: float = setting(
        0.2, at_least=0, below=1, help="of every class, cut by patient, or by slide where no patient is named"
    )
    validation_fraction: float = setting(
        0.0, at_least=0, below=1, help="of the rest, likewise (default: 0, train.py then cuts by slide)"
    )
    image_format: Literal["jpeg", "png"] = setting("jpeg", help="of the patches; PNG changes no pixel")
    jpeg_quality: int = setting(92, at_least=50, at_most=100, help="of JPEG patches")
    num_workers: int = setting(2, at_least=0, help="processes, each of which takes a slide at a time")
    seed: int = setting(0, at_least=0, help="of the splits")
    push_to_hub: Optional[str] = setting(None, help="org/name of a data set repository, made private if absent")
    hub_public: bool = setting(False, help="make the repository public if it is made, and take one that is")
    hub_replace: bool = setting(False, help="replace the data set of a repository that has files already")

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        super().__post_init__()
        if self.patch_size % self.central_stride:
            raise ValueError(f"--stride must divide the patch size, {self.patch_size} px, got {self.stride}.")
        if self.fully_annotated and self.unannotated is None:
            raise ValueError("--fully_annotated says nothing without --unannotated CLASS.")
        if self.unannotated is not None and not self.unannotated.strip():
            raise ValueError(f"--unannotated must be a class name, got {self.unannotated!r}.")
        if self.max_other > 1 - self.min_coverage and self.max_other >= self.min_coverage:
            raise ValueError(
                f"--max_other ({self.max_other:g}) must be below --min_coverage ({self.min_coverage:g}): a patch could "
                "have two classes."
            )
        if self.push_to_hub is not None and not is_hub_id(self.push_to_hub):
            raise ValueError(f"--push_to_hub must be org/name, got {self.push_to_hub!r}.")
        for flag in ("hub_public", "hub_replace"):
            if getattr(self, flag) and self.push_to_hub is None:
                raise ValueError(f"--{flag} says nothing without --push_to_hub org/name.")

    @property
    def central_stride(self) -> int:
        """Distance of central patches in px at `target_mpp`."""
        return self.stride or self.patch_size

    @property
    def suffix(self) -> str:
        """Of the patches' files."""
        return ".jpg" if self.image_format == "jpeg" else ".png"
