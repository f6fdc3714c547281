"""Each unique patch is embedded once.

Takes a backbone and the names of patches and gives an `EmbeddingStore`, a folder of checked shards that any number of
processes fill and read. It knows backbones and preprocessing, not classes: nothing here may depend on labels, splits or
the head.
"""
