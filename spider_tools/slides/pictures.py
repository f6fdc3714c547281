"""Pictures of a slide: the tissue that was found, the class map, and the probability of every class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as MatplotlibPath
from scipy import ndimage

from ..slide_files.lattice import Lattice
from ..slide_files.slide import Slide
from ..slide_files.view import SlideView
from ..tissue.left_out import OF_SLIDE, percent
from ..tissue.tissue_mask import TissueMask
from .colors import Look, looks_of
from .polygons import cells_to_polygon
from .predictions import SlidePredictions

_LONG_SIDE = 1600
_MOST_NUMBERS_PER_CLASS = 3
_LEAST_CELLS_FOR_NUMBER = 4
_HATCH = "////"
_HATCH_OF_KIND = {"pen": "xxx", "bubbles": "oo", "folds": "|||", "blurred": "..."}


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A slide small enough to look at.

    Attributes:
        pixels: uint8 `(height, width, 3)`.
        size_mm: `(width, height)` of what it shows.
    """

    pixels: np.ndarray
    size_mm: tuple[float, float]

    @property
    def extent_mm(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top for drawing, in mm from the upper left corner."""
        return (0.0, self.size_mm[0], self.size_mm[1], 0.0)


def make_thumbnail(slide: Slide) -> Thumbnail:
    """Read a slide with at most 1600 px along the longer side; what cannot be read is white."""
    factor = max(1.0, max(slide.size) / _LONG_SIDE)
    # A very narrow slide keeps at least one px.
    view = SlideView(slide, (min(factor, slide.size[0]), min(factor, slide.size[1])))
    width, height = (side * um / 1000 for side, um in zip(view.size, view.mpp))
    return Thumbnail(view.read_readable()[0], (width, height))


def draw_tissue(thumbnail: Thumbnail, tissue: TissueMask, cells: np.ndarray, lattice: Lattice, mpp: Any) -> Figure:
    """The slide, with the outline of the tissue that was found, the cells that are predicted, and what is left out."""
    figure, (axes,) = _panels(thumbnail, 1)
    axes.imshow(thumbnail.pixels, extent=thumbnail.extent_mm)
    # Up to the slide's edge, less than a patch away, nothing is predicted.
    frame = lattice.context_step + 1
    framed = np.pad(cells, frame)
    shade = np.zeros((*framed.shape, 4))
    shade[~framed] = to_rgba("black", 0.35)
    left, right, bottom, top = _extent_of_cells(lattice, mpp)
    x, y = frame * (right - left) / cells.shape[1], frame * (bottom - top) / cells.shape[0]
    axes.imshow(shade, extent=(left - x, right + x, bottom + y, top - y), interpolation="nearest")
    height, width = tissue.mask.shape
    x, y = ((np.arange(n) + 0.5) * s * um / 1000 for n, s, um in zip((width, height), tissue.scale, mpp))
    if tissue.mask.any() and not tissue.mask.all() and min(height, width) > 1:
        axes.contour(x, y, tissue.mask, levels=[0.5], colors="#0072B2", linewidths=1.0)
    handles = _hatch_left_out(axes, tissue, x, y)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    title = f"Tissue: {tissue.origin} (blue line). {cells.sum():,} predictions; what is dark is left out."
    axes.set_title(title, fontsize=9, parse_math=False, wrap=True)
    _finish(axes, thumbnail)
    return figure


def _hatch_left_out(axes: Any, tissue: TissueMask, x: np.ndarray, y: np.ndarray) -> list[Patch]:
    """Hatch what is left out, each kind in its own way, and say how much it is, for the legend."""
    if tissue.left_out is None:
        return []
    handles = []
    for kind, place in tissue.left_out.places.items():
        if not place.any():
            continue
        # A row and a column twice, so that a mask one px high has an area to hatch.
        grown = np.pad(place, ((0, 1), (0, 1)), mode="edge")
        beyond = [np.append(places, places[-1] + 1e-6) for places in (x, y)]
        axes.contourf(*beyond, grown, levels=[0.5, 1.5], colors="none", hatches=[_HATCH_OF_KIND[kind]])
        label = f"{kind} {percent(tissue.left_out.shares[kind])} of the {'slide' if kind in OF_SLIDE else 'tissue'}"
        handles.append(Patch(facecolor="white", edgecolor="black", hatch=_HATCH_OF_KIND[kind], label=label))
    return handles


def draw_overview(thumbnail: Thumbnail, predictions: SlidePredictions, title: str) -> Figure:
    """The slide beside its class map, with a legend of the classes that occur."""
    figure, (left, right) = _panels(thumbnail, 2, legend=True)
    left.imshow(thumbnail.pixels, extent=thumbnail.extent_mm)
    left.set_title("Slide", fontsize=11)
    right.imshow(_faded(thumbnail.pixels), extent=thumbnail.extent_mm)
    looks = looks_of(predictions)
    table = np.array([looks[name].color for name in predictions.shown_names], dtype=np.uint8)
    classes = predictions.map_of(predictions.shown, -1)
    picture = np.dstack([table[classes], np.where(classes >= 0, 225, 0).astype(np.uint8)])
    right.imshow(picture, extent=_extent_of_cells(predictions.lattice, predictions.mpp), interpolation="nearest")
    right.set_title("Predicted class", fontsize=11)
    hatched = _hatch_unfamiliar(right, predictions)
    _write_marks(right, predictions, classes, looks)
    legend = figure.legend(
        handles=[*_legend_handles(predictions, looks), *hatched], loc="outside right upper", frameon=False, fontsize=10
    )
    legend.set_title("Share of the tissue")
    for text in legend.get_texts():
        text.set_parse_math(False)
    for axes in (left, right):
        _finish(axes, thumbnail)
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def _legend_handles(predictions: SlidePredictions, looks: Mapping[str, Look]) -> list[Patch]:
    """Of the classes that occur, from the most frequent one on."""
    areas = np.bincount(predictions.shown, predictions.tissue_mm2, len(predictions.shown_names))
    handles = []
    for i in np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)]:
        name = predictions.shown_names[i]
        label = f"{looks[name].mark}  {name}  {percent(areas[i] / areas.sum())}"
        red, green, blue = (value / 255 for value in looks[name].color)
        handles.append(Patch(facecolor=(red, green, blue), edgecolor="0.3", label=label))
    return handles


def _hatch_unfamiliar(axes: Any, predictions: SlidePredictions) -> list[Patch]:
    """Hatch what is unfamiliar, and say so in the legend; where the map abstains, it is a class of its own."""
    unfamiliar = predictions.is_unfamiliar
    if unfamiliar is None or predictions.abstain:
        return []
    cells = predictions.map_of(unfamiliar, False)
    if cells.any():
        edges = (side * um / 1000 for side, um in zip(predictions.lattice.cell_edges_level0(), predictions.mpp))
        axes.add_patch(PathPatch(_outline(cells, *edges), fill=False, hatch=_HATCH, linewidth=0.4, edgecolor="black"))
    label = f"//  unfamiliar  {percent(predictions.unfamiliar_share or 0.0)}"
    return [Patch(facecolor="white", edgecolor="black", hatch=_HATCH, label=label)]


def _outline(cells: np.ndarray, x_edges: np.ndarray, y_edges: np.ndarray) -> MatplotlibPath:
    """The outlines, holes included, of all areas of cells, bool `(rows, columns)`, as one path."""
    areas, count = ndimage.label(cells)
    rings = []
    for area, window in enumerate(ndimage.find_objects(areas, max_label=count), start=1):
        inside = areas[window] == area
        polygon = cells_to_polygon(inside, x_edges[window[1].start :], y_edges[window[0].start :])
        rings += [ring.coords for ring in (polygon.exterior, *polygon.interiors)]
    return MatplotlibPath.make_compound_path(*(MatplotlibPath(np.asarray(ring), closed=True) for ring in rings))


def draw_heatmaps(thumbnail: Thumbnail, predictions: SlidePredictions, title: str) -> Figure:
    """The probability of every class over the slide, all on one scale from 0 to 1."""
    names = predictions.class_names
    figure, panels = _panels(thumbnail, len(names), most_columns=4, panel_inches=3.2)
    faded = _faded(thumbnail.pixels)
    extent = _extent_of_cells(predictions.lattice, predictions.mpp)
    for number, axes in enumerate(panels):
        axes.imshow(faded, extent=thumbnail.extent_mm)
        grid = predictions.map_of(predictions.probabilities[:, number].astype(np.float64), np.nan)
        axes.imshow(grid, extent=extent, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        share = percent(np.average(predictions.predicted == number, weights=predictions.tissue_mm2))
        highest = predictions.probabilities[:, number].max()
        label = f"{names[number]}\n{share} of the tissue, highest {highest:.2f}"
        axes.set_title(label, fontsize=9, parse_math=False)
        _finish(axes, thumbnail)
    scale = ScalarMappable(Normalize(0, 1), "cividis")
    bar = figure.colorbar(scale, ax=list(panels), shrink=0.6, aspect=30, pad=0.01)
    bar.set_label("Probability of the class", fontsize=9)
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def _panels(
    thumbnail: Thumbnail, count: int, legend: bool = False, most_columns: int = 2, panel_inches: float = 6.0
) -> tuple[Figure, list[Any]]:
    """A figure with panels of the slide's shape, as many as asked for."""
    wide = thumbnail.size_mm[0] / thumbnail.size_mm[1]
    wide = min(max(wide, 0.2), 5.0)
    width, height = (panel_inches, panel_inches / wide) if wide > 1 else (panel_inches * wide, panel_inches)
    width = max(width, 2.7)  # for the title
    columns = min(count, most_columns)
    rows = -(-count // columns)
    size = (columns * (width + 0.3) + (3.4 if legend else 0.9), rows * (max(height, 1.5) + 0.6) + 0.6)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, list(panels[:count])


def _finish(axes: Any, thumbnail: Thumbnail) -> None:
    """The same frame for all panels, and a bar of a round length in mm."""
    width, height = thumbnail.size_mm
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    length = _round_length(width / 4)
    x, y = 0.04 * width, height * 0.96
    for color, line_width in (("white", 5), ("black", 2.5)):
        axes.plot([x, x + length], [y, y], color=color, linewidth=line_width, solid_capstyle="butt")
    text = f"{length:g} mm" if length >= 0.1 else f"{length * 1000:g} µm"
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
    axes.text(x, y - 0.02 * height, text, fontsize=8, ha="left", va="bottom", bbox=box)


def _round_length(most: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most `most`."""
    power = 10.0 ** np.floor(np.log10(most))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9)))


def _write_marks(axes: Any, predictions: SlidePredictions, classes: np.ndarray, looks: Mapping[str, Look]) -> None:
    """Mark the largest areas of every class, so that the map can be read without its colours."""
    x_edges, y_edges = predictions.lattice.cell_edges_level0()
    for i, name in enumerate(predictions.shown_names):
        areas, _ = ndimage.label(classes == i)
        sizes = np.bincount(areas.ravel())
        sizes[0] = 0
        for area in np.argsort(-sizes, kind="stable")[:_MOST_NUMBERS_PER_CLASS]:
            if sizes[area] < _LEAST_CELLS_FOR_NUMBER:
                continue
            # The cell that is deepest inside the area: the centre of a ring lies outside of it.
            depth = ndimage.distance_transform_cdt(np.pad(areas == area, 1), metric="chessboard")[1:-1, 1:-1]
            row, column = np.unravel_index(np.argmax(depth), depth.shape)
            x = (x_edges[column] + x_edges[column + 1]) / 2 * predictions.mpp[0] / 1000
            y = (y_edges[row] + y_edges[row + 1]) / 2 * predictions.mpp[1] / 1000
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "linewidth": 0}
            axes.text(x, y, looks[name].mark, fontsize=7.5, ha="center", va="center", bbox=box)


def _extent_of_cells(lattice: Lattice, mpp: tuple[float, float]) -> tuple[float, float, float, float]:
    x_edges, y_edges = (edges * um / 1000 for edges, um in zip(lattice.cell_edges_level0(), mpp))
    return (x_edges[0], x_edges[-1], y_edges[-1], y_edges[0])


def _faded(pixels: np.ndarray) -> np.ndarray:
    """Grey and pale, as a background for colours."""
    grey = pixels.mean(axis=2, keepdims=True)
    return np.repeat((255 - (255 - grey) * 0.5).astype(np.uint8), 3, axis=2)
