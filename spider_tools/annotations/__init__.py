"""What pathologists draw becomes polygons by class.

Takes a file of drawn objects (GeoJSON of QuPath, XML of ASAP, XML of Aperio ImageScope, NDPA of Hamamatsu) and the
`Frame` of the slide that it was drawn on; gives `Annotation`s in level-0 px of OpenSlide, and remarks on all that was
repaired or left out. It knows nothing of pixels, regions, models or splits, opens no slide and writes no file.
"""
