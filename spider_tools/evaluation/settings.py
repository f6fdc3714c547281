"""What an evaluation can be told, as the flags of evaluate.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..data.disturbances import MOST_VIEWS
from ..embeddings.settings import EmbeddingFlags
from ..flags import setting
from ..paper_results import Organ

# Of the data settings.
DECIDED_BY_THE_MODEL = ("context_size", "patch_size", "class_names")


@dataclass(frozen=True, kw_only=True)
class ModelFlags(EmbeddingFlags):
    """The flags of every script that asks a model about a split, for its settings to inherit."""

    model: str = setting(help="folder or Hub id of a SPIDER model")
    revision: Optional[str] = setting(None, help="commit of a model on the Hub")
    batch_size: int = setting(256, at_least=1, help="regions at once through the head, in each process")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(ModelFlags):
    """What to evaluate, and what to report."""

    output_dir: Path = setting(help="gets the report")
    split: str = setting("test", help="split of the data set")
    context_sizes: Optional[tuple[str, ...]] = setting(
        None, help="contexts to compare by masking, in patches along one side, such as 5,3,1"
    )
    robustness: bool = setting(
        False,
        help="also evaluate turned, restained, darker, brighter, compressed, blurred and wrongly magnified regions: "
        "embeds every patch once more for each of 17 disturbances",
    )
    test_time_views: int = setting(
        1,
        at_least=1,
        at_most=MOST_VIEWS,
        help="mean of the probabilities of so many views of each region: turns and mirrors up to 8, with other stains "
        "beyond; the model alone does not answer so",
    )
    compare: Optional[Organ] = setting(None, help="organ to show the published figures of")
    allow_subset: bool = setting(
        False, help="evaluate among the classes that model and data share, if their lists differ"
    )
    coverage: Optional[float] = setting(
        None, above=0, below=1, help="also report prediction sets that shall hold the true class so often, such as 0.9"
    )
    few_shot: Optional[int] = setting(
        None, at_least=1, help="compare the head with prototypes of so many regions per class of the train split"
    )
    resamples: int = setting(1000, at_least=1, help="sets of patients, or slides, that the 95% intervals come from")
    seed: int = setting(0, at_least=0, help="chooses these sets, and the regions of --few_shot")

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        for size in self.context_sizes or ():
            if not size.isdigit() or int(size) % 2 == 0:
                raise ValueError(f"--context_sizes must be odd numbers separated by commas, got {size!r}.")
        if self.few_shot is not None and self.split == "train":
            raise ValueError(
                "--few_shot draws prototypes from the train split: --split must be another one, got 'train'."
            )
        if self.coverage is not None and self.test_time_views > 1:
            raise ValueError(
                "--coverage reports the prediction sets of the model alone: it does not go with --test_time_views "
                f"{self.test_time_views}."
            )
        if self.robustness and self.test_time_views > 1:
            raise ValueError(
                "--robustness asks the model alone about disturbed regions: it does not go with --test_time_views "
                f"{self.test_time_views}."
            )
