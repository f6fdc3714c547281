"""The outputs that hold embeddings for other tools: whether they can be written, how much they take, and who writes."""

from collections.abc import Sequence

from ..files import Writer
from .anndata_files import write_h5ad, write_zarr
from .feature_files import check_not_foreign, write_coords, write_features
from .output_files import H5AD_NAME, ZARR_NAME, check_class_names, files_of, place_of
from .outputs import listed_files
from .patch_features import PatchFeatures
from .preparing import PreparedSlide
from .settings import check_packages

_WITH_EMBEDDINGS = ("h5", "h5ad", "zarr")


def check_writable(prepared: PreparedSlide) -> None:
    """Refuse, before the work, outputs that could not be written after it.

    Raises:
        SlideError: They would replace a file of another program.
        ValueError: A package is missing, or a class has a name that cannot be written.
    """
    check_packages(prepared.outputs)
    check_class_names(prepared.request["class_names"], prepared.outputs)
    shared = files_of("h5", prepared.task.name) if "h5" in prepared.outputs else []
    for name in set(shared) - listed_files(prepared.folder):
        check_not_foreign(place_of(prepared.folder, name))


def bytes_for(outputs: Sequence[str], patches: int, hidden_size: int) -> int:
    """How much these outputs take of so many patches, about."""
    return 4 * hidden_size * patches * sum(output in _WITH_EMBEDDINGS for output in outputs)


def writers_for(outputs: Sequence[str], features: PatchFeatures) -> dict[str, Writer]:
    """By name of the file relative to the slide's folder, what writes it; only of these outputs."""
    features_name, coords_name = files_of("h5", features.name)
    writers: dict[str, dict[str, Writer]] = {
        "h5": {
            features_name: lambda path: write_features(path, features),
            coords_name: lambda path: write_coords(path, features),
        },
        "h5ad": {H5AD_NAME: lambda path: write_h5ad(path, features)},
        "zarr": {ZARR_NAME: lambda path: write_zarr(path, features)},
    }
    return {name: write for output in _WITH_EMBEDDINGS if output in outputs for name, write in writers[output].items()}
