"""One slide to one folder: every patch is embedded once, and the classes become a map that a pathologist can open.

`one` does it: `preparing` opens the slide and says what decides its result, `embedding` embeds its patches once into
`saved_embeddings`, `classification` names them as `predictions`, and `mapped_slide` has all files written: `pictures`,
`polygons`, `composition`, `facts`, the report (`html_report`, with `report_*` for its map) and by `tool_outputs` what
other tools read. `outputs` writes them whole, slide.json last. Rooms below open files and find tissue, `cohorts` above
does many slides.
"""
