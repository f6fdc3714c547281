"""Whole slides: every patch is embedded once, and the classes become a map that a pathologist can open.

Takes slides and a model and leaves one folder per slide. From the slide to the map: `finding` lists files, `reader`
opens them, `view` is the slide at one magnification, `lattice` says where its patches are, `tissue` which of them to
name, `embedding` embeds them once into `saved_embeddings`, `classification` names them, and `outputs` writes what
is left behind. `one` does all this for one slide, `many` for a whole run, which processes share by `shared_run`.
Beside `reader`, nothing may open a slide.
"""
