"""What a model shall remember of the regions that it has learnt from, and where the unfamiliar begins.

The score is measured, not guessed: of maximum probability, energy, nearest neighbours and the distances of Mahalanobis,
relative or not, on the central embedding, on all of them and on the head's encoding, the one that is built into the
model, `Familiarity` in certainty_spider.py, found most of what is foreign.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.covariance import ledoit_wolf
from torch import nn
from tqdm.auto import tqdm

from ..data.loaders import EmbeddedRegions, PixelRegions, evaluation_loader
from ..workers import worker_failures_in_words

if TYPE_CHECKING:
    from ..remote_code import SpiderForImageClassification

FALSE_ALARM_RATE = 0.05
MOST_REGIONS = 20_000  # means and one covariance gain nothing by more
LEAST_REGIONS = 30
_REGIONS_AT_ONCE = 256


@dataclass(frozen=True)
class FamiliarityFit:
    """What familiarity rests on.

    Attributes:
        fitted_to: Regions of the train split that means and covariance are of; 0 where there were too few.
        threshold: Largest unfamiliarity that counts as familiar; None where nobody can say.
        false_alarm_rate: Share of the validation regions that exceeds it, at most; None likewise.
        regions: Of the validation split.
        slides: Patients or slides that these are of.
        reason: Why something is missing, or None.
    """

    fitted_to: int
    threshold: Optional[float] = None
    false_alarm_rate: Optional[float] = None
    regions: int = 0
    slides: int = 0
    reason: Optional[str] = None

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def regions_to_fit_to(regions: int, seed: int) -> np.ndarray:
    """Numbers of the regions that a fit looks at, int64, ascending: all, or `MOST_REGIONS` that the seed draws."""
    if regions <= MOST_REGIONS:
        return np.arange(regions)
    return np.sort(np.random.default_rng(seed).choice(regions, MOST_REGIONS, replace=False))


@torch.no_grad()
def central_embeddings(
    accelerator: Accelerator, classifier: nn.Module, regions: Union[EmbeddedRegions, PixelRegions], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the central patches of regions, by all processes.

    Args:
        accelerator: Of the run.
        classifier: A prepared `RegionClassifier`; it is in evaluation mode afterwards.
        regions: Of a split; above `MOST_REGIONS`, so many of them are drawn.
        seed: Draws them.

    Returns:
        float32 `(n, hidden)`, and their labels, int64 `(n,)`.
    """
    classifier.eval()
    plain = accelerator.unwrap_model(classifier)
    numbers = regions_to_fit_to(len(regions), seed)
    loader = accelerator.prepare(evaluation_loader(regions.centers(numbers), _REGIONS_AT_ONCE, num_workers=0))
    embeddings, labels = [], []
    hidden = not accelerator.is_main_process
    with (
        worker_failures_in_words(),
        tqdm(total=len(numbers), desc="what is familiar", unit="region", disable=hidden) as bar,
    ):
        for batch in loader:
            with accelerator.autocast():
                embedded = plain.embed(batch)[:, 0].float()
            embeddings.append(accelerator.gather_for_metrics(embedded).cpu())
            labels.append(accelerator.gather_for_metrics(batch["labels"]).cpu())
            bar.update(len(labels[-1]))
    return torch.cat(embeddings).numpy(), torch.cat(labels).numpy()


def fit_familiarity(model: "SpiderForImageClassification", embeddings: np.ndarray, labels: np.ndarray) -> int:
    """Let a model remember what embeddings are familiar: a mean for each class, and one covariance for all.

    The covariance is shrunk as Ledoit and Wolf do ("A well-conditioned estimator for large-dimensional covariance
    matrices", 2004), so that fewer regions than dimensions will do.

    Args:
        model: Gets `familiarity`; its threshold is None afterwards.
        embeddings: Float `(regions, hidden)`, of the central patches that it has learnt from.
        labels: Integer `(regions,)`.

    Returns:
        Number of regions that it was fitted to: 0, and no `familiarity`, if there are fewer than `LEAST_REGIONS`, or
        all of their embeddings are equal.
    """
    model.config.unfamiliarity_threshold = None
    exact = embeddings.astype(np.float64)
    if len(labels) < LEAST_REGIONS or not np.ptp(exact, axis=0).any():
        model.remember(familiarity_means=0)
        return 0
    center = exact.mean(axis=0)
    present, index = np.unique(labels, return_inverse=True)
    means = np.stack([exact[labels == label].mean(axis=0) for label in present])
    covariance = ledoit_wolf(exact - means[index], assume_centered=True)[0]
    values, vectors = np.linalg.eigh(covariance)
    floor = max(float(values.max()) * 1e-10, np.finfo(np.float64).tiny)
    whitening = vectors / np.sqrt(np.maximum(values, floor))
    state = {"center": center, "whitening": whitening, "means": (means - center) @ whitening}
    model.remember(familiarity_means=len(means))
    tensors = {name: torch.from_numpy(array).float() for name, array in state.items()}
    model.get_submodule("familiarity").load_state_dict(tensors)
    return len(labels)


def threshold_of(unfamiliarity: np.ndarray, drawn_by: Sequence[str], rate: float = FALSE_ALARM_RATE) -> float:
    """The smallest score that at most a share of familiar regions exceeds, each patient or slide counting alike.

    Args:
        unfamiliarity: Float `(regions,)`, of regions that the model has not learnt from.
        drawn_by: The patient or slide of every region.
        rate: The share, in (0, 1).
    """
    names, columns, counts = np.unique(np.asarray(drawn_by, dtype=str), return_inverse=True, return_counts=True)
    weights = 1 / (len(names) * counts[columns])
    order = np.argsort(unfamiliarity)
    above = 1 - np.cumsum(weights[order])
    return float(unfamiliarity[order][np.argmax(above <= rate + 1e-12)])
