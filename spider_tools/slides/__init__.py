"""Whole slides: every patch is embedded once, and the classes become a map that a pathologist can open.

From the slide to the map: `reader` opens files, `view` is the slide at one magnification, `lattice` says where its
patches are, `tissue` which of them to name, `embedding` embeds them once and saves that in `embedding_file`,
`classification` names them, and `outputs` writes what is left behind with `polygons`, `composition`, `pictures` and
`html_report`. `segmentation` does all this for one slide, `runs` for many.
"""
