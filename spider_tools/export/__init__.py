"""A model as two graphs, patch encoder and head, for those who run it without this project and without Transformers.

Takes a model folder or a Hub id and gives a new folder: the graphs, for onnxruntime or for PyTorch alone, export.json
with all that their user must know, and a README.md that runs them. `graphs` says what goes in and comes out,
`onnx_files` and `torch_files` write and run a format, `drift` holds what was written against the model. It changes no
model.
"""
