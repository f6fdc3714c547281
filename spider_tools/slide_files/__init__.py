"""Files of slides: whatever a scanner wrote, as levels of RGB pixels whose um/px are known.

Takes a path and gives a `slide.Slide`. `probe` tries a file in another process, `reader` opens it, by OpenSlide, as a
plain image, or, where OpenSlide does not read a TIFF as a whole, by `tiff_layout` and `tiff_slide`; `pixel_size` says
where its um/px stand, `content` tells it from others, `dicom` and `companions` which files belong to it. `view` is a
slide at one magnification and `lattice` says where its patches are. Beside `reader` and `probe`, nothing may open a
slide, and nothing here knows of models.
"""
