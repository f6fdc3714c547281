"""Patches that look alike are found again, and those that are worth a pathologist's time are named.

Takes folders of results that segment_slide.py left, and stores of embeddings beside their data set, and gives an index
(`python -m spider_tools.retrieval index`), the patches most like an example (`query`) and those to annotate next
(`suggest`), as annotations for QuPath, a table and a sheet of pictures. `result_folder`, `store_source` and `sources`
read, `index_building` writes what `patch_index` searches, `examples` and `query` ask it, `strategies` and `suggest`
choose, `choosing` keeps both from overlapping, and `finding` writes. It embeds nothing but the images of a query, and
writes to the index and the output folder alone.
"""
