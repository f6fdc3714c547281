"""Whole slides: every patch is embedded once, and the classes become a map that a pathologist can open.

Takes slides and a model and leaves one folder per slide. From the slide to the map: `finding` lists files, also of
`manifests` and by the series of `dicom`, `preparing` has `probe` try a slide in another process and `reader` open it
with its um/px from `pixel_size` (a TIFF that OpenSlide does not read as a whole by `tiff_layout` and `tiff_slide`),
`content` tells it from others, `view` is the slide at one magnification, `lattice` says where its patches are, `tissue`
or the user's `drawings` which of them to name, without what is `left_out`, `embedding` embeds them once into
`saved_embeddings`, `classification` names them, and `outputs` writes what is left behind, of it `tool_outputs` what
other tools read. `one` does all this for one slide, `many` for a whole run, which processes share by `shared_run`. Each
process is a `working.Worker`: `records` tell it what others hold and what became of which slide, `staging` copies the
next one ahead, `remote_slides` downloads those by URL, and `cohort` writes the table of all. Beside `reader` and
`probe`, nothing may open a slide.
"""
