"""The demo: drawn tissue, a small model trained on it, and what it says of regions that it has not seen.

Takes nothing, or one image, and leaves a data set, a model folder and a picture. It is a user of the other rooms, as
the scripts are; only `synthetic`, which draws the tissue, serves tests and benchmarks too.
"""
