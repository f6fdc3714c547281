"""What to index, to search and to suggest, as flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from ..data.settings import METADATA_SIZE, DataSettings
from ..flags import Settings, setting

Strategy = Literal["uncertain", "diverse", "typical"]


@dataclass(frozen=True, kw_only=True)
class DatasetFlags(Settings):
    """Which data set the patches of a store are from; they take the words of `DataSettings`."""

    dataset: Optional[str] = setting(
        None, help="data set of an embedding store: says slide and class of its patches, and shows them"
    )
    dataset_revision: Optional[str] = setting(None, help="branch, tag or commit of a data set on the Hub")
    cache_dir: Optional[Path] = setting(None, help="folder for tables and unpacked archives of the data set")
    context_size: int = setting(METADATA_SIZE, help="patches along one side of a region, as the store was made with")
    image_column: Optional[str] = setting(None, help="of a data set of whole regions, as the store was made with")
    label_column: Optional[str] = setting(None, help="likewise")
    slide_column: Optional[str] = setting(None, help="likewise")

    def data_settings(self, patch_size: int) -> Optional[DataSettings]:
        """The same for `load_regions`, whole and without a split of its own; None without a data set."""
        if self.dataset is None:
            return None
        return DataSettings(
            dataset=self.dataset,
            dataset_revision=self.dataset_revision,
            cache_dir=self.cache_dir,
            context_size=self.context_size,
            patch_size=patch_size,
            validation_fraction=0,
            image_column=self.image_column,
            label_column=self.label_column,
            slide_column=self.slide_column,
        )


@dataclass(frozen=True, kw_only=True)
class IndexSettings(DatasetFlags):
    """How an index is built."""

    index: Path = setting(help="gets the index; an index that is there is replaced")
    ivf_from: int = setting(
        200_000, at_least=1, help="patches from which on the index has lists, of which a search reads some"
    )
    seed: int = setting(0, at_least=0, help="of the lists, and of the sample that their recall is measured on")


@dataclass(frozen=True, kw_only=True)
class FindingSettings(Settings):
    """What is left behind of what was found."""

    output_dir: Path = setting(help="gets the results; new, empty, or of an earlier run of this")
    top: int = setting(100, at_least=1, help="most patches")
    per_slide: Optional[int] = setting(None, at_least=1, help="most patches of one slide (default: any number)")
    slides: Optional[Path] = setting(
        None, help="slide, folder of slides or manifest, as segment_slide.py takes it, to show the patches from"
    )


@dataclass(frozen=True, kw_only=True)
class QuerySettings(FindingSettings, DatasetFlags):
    """What to search for.

    Attributes:
        class_name: The flag `--class`: of the annotations, predictions or labels to take; None for all of the file.
        patches: The flag `--patch`: texts SLIDE:X,Y in level-0 px.
        images: The flag `--image`: files.
    """

    index: Path = setting(help="folder of the index")
    annotation: Optional[Path] = setting(None, help="drawn examples: GeoJSON of QuPath, or what else annotations are")
    slide: Optional[str] = setting(None, help="name of the slide that they were drawn on, as in the index")
    class_name: Optional[str] = None
    predictions: bool = setting(False, help="the patches that the model is surest are of --class")
    labels: bool = setting(False, help="the patches of the data set that are labelled as --class")
    patches: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    model: Optional[str] = setting(None, help="folder or Hub id of the model that embeds the images")
    revision: Optional[str] = setting(None, help="commit of a model on the Hub")
    combine: Literal["mean", "max"] = setting(
        "mean", help="how near a patch is to several examples: to all of them, or to the one that it is nearest to"
    )
    name: Optional[str] = setting(None, help="what to suggest the found patches as (default: the class)")
    verify: bool = setting(False, help="compare the whole index with its checksums first: about 1 s per GB")
    seed: int = setting(0, at_least=0, help="of the choice where there are more examples than are used")

    def __post_init__(self) -> None:
        """Refuse what does not say one thing to search for."""
        super().__post_init__()
        kinds = {
            "--annotation": self.annotation,
            "--predictions": self.predictions,
            "--labels": self.labels,
            "--patch": self.patches,
            "--image": self.images,
        }
        given = [flag for flag, value in kinds.items() if value]
        if len(given) != 1:
            raise ValueError(f"Say what to search for with one of {', '.join(kinds)}, got {given or 'none'}.")
        needs = {"--annotation": "slide", "--predictions": "class_name", "--labels": "class_name", "--image": "model"}
        if given[0] in needs and getattr(self, needs[given[0]]) is None:
            raise ValueError(f"{given[0]} needs --{needs[given[0]].removesuffix('_name')} beside it.")


@dataclass(frozen=True, kw_only=True)
class SuggestSettings(FindingSettings):
    """What to annotate next.

    Attributes:
        results: The flag `--results`: folders that segment_slide.py left, or folders of such.
    """

    results: tuple[str, ...]
    strategy: Strategy = setting(
        help="patches between two classes, patches unlike each other, or one from the middle of every cluster"
    )
    annotated: Optional[Path] = setting(
        None, help="folder of annotations named like the slides: what they cover counts as chosen already"
    )
    most_similar: float = setting(
        0.95, above=0, at_most=1, help="cosine above which uncertain patches count as the same, and one is left out"
    )
    candidates: int = setting(
        100_000, at_least=1, help="most patches that diverse and typical look at, drawn from all slides alike"
    )
    seed: int = setting(0, at_least=0, help="of the clusters and of the drawing")
