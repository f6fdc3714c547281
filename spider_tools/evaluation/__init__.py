"""From a model and a split to figures with intervals.

Takes a model and labelled regions and gives probabilities, metrics, intervals by slide, tables and pictures. Training
uses its metrics for the validation split; it must not touch weights, checkpoints or the data set itself.
"""
