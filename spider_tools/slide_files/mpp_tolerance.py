"""How much the um/px of a slide may differ from those of a model."""

MOST_MPP_TOLERANCE = 0.5  # relative: beyond it cells are of so different a size that no answer means anything
