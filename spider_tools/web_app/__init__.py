"""A page in the browser: a region in, its name, how sure and where it looked out; a small slide in, its map out.

Takes a model and gives a Gradio app, for this machine or as a Space of the Hub. It decides nothing by itself: regions
are read by the model, slides by `slides`. What came and what was made lies in one folder of its own, which is removed.
"""
