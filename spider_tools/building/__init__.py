"""From slides and annotations to a data set in the SPIDER layout.

Takes slides as `slides` opens them and polygons as `annotations` reads them; gives `images/`, `metadata.json`, a card
and pictures to check the labels by. It decides which patch has which class, which patients are for testing, and cuts
the patches; it never trains, and never changes a slide or an annotation.
"""
