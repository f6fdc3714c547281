"""From labelled regions to a model folder.

Takes settings and a data set and leaves a complete model repository, with the run beside it in `training/`. `run` is
the order of things, `setup` builds what they need, `loop` trains, `record` writes down what was done. Beside scripts
and demo, nothing may import this room.
"""
