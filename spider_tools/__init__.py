"""Everything around the SPIDER model: data sets, training, evaluation, weights, publishing and whole slides.

The public functions and their settings stand here. Importing the package costs nothing: each is loaded when it is first
asked for.

```python
from spider_tools import DataSettings, EvaluationSettings, evaluate_model

results = evaluate_model(
    EvaluationSettings(model="runs/skin", output_dir="runs/skin/evaluation"),
    DataSettings(dataset="histai/SPIDER-skin"),
)
```

The remote-code files at the top of the repository never import this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .building.run import build_dataset as build_dataset
    from .building.settings import BuildSettings as BuildSettings
    from .cohorts.many import segment_slide as segment_slide
    from .cohorts.many import segment_slides as segment_slides
    from .data.loading import RegionData as RegionData
    from .data.loading import load_regions as load_regions
    from .data.settings import DataSettings as DataSettings
    from .evaluation.run import evaluate_model as evaluate_model
    from .evaluation.settings import EvaluationSettings as EvaluationSettings
    from .export.run import export_model as export_model
    from .export.settings import ExportSettings as ExportSettings
    from .publishing.publish import publish as publish
    from .publishing.settings import PublishSettings as PublishSettings
    from .slides.settings import SlideSettings as SlideSettings
    from .training.run import train as train
    from .training.settings import TrainingSettings as TrainingSettings
    from .weights.loading import load_backbone as load_backbone
    from .weights.loading import load_spider as load_spider

__version__ = "0.2.0"

_HOMES = {
    "BuildSettings": "building.settings",
    "DataSettings": "data.settings",
    "EvaluationSettings": "evaluation.settings",
    "ExportSettings": "export.settings",
    "PublishSettings": "publishing.settings",
    "RegionData": "data.loading",
    "SlideSettings": "slides.settings",
    "TrainingSettings": "training.settings",
    "build_dataset": "building.run",
    "evaluate_model": "evaluation.run",
    "export_model": "export.run",
    "load_backbone": "weights.loading",
    "load_regions": "data.loading",
    "load_spider": "weights.loading",
    "publish": "publishing.publish",
    "segment_slide": "cohorts.many",
    "segment_slides": "cohorts.many",
    "train": "training.run",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """A public name, from the module where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
