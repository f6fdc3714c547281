"""Where a slide holds tissue: found by its colour, drawn by the user, or in the mask of a segmenter.

`tissue_mask` asks `pixel_tissue`, the user's `drawings` or `learned_masks`, and leaves out what `left_out` gathers from
`artifacts` (ink), `bubbles`, `folds` and `focus` (blur). It gives a mask at low magnification, its shares in the cells
of a lattice, and what was left out in words. Nothing here knows of models.
"""
