"""Any data set becomes labelled regions whose patches can be opened by name.

Takes what `--dataset` names (a SPIDER folder, its tar parts, a Hub id, whole regions) and gives `RegionData`: splits of
rows that name patches, the source that opens these, and the loaders that bring both to a model. It knows nothing of
models, embeddings, training or slides, and writes to its caches alone.
"""
