"""Calibrates a model that is there already: one temperature, fitted on a validation split.

Training does the same at its end. This is for models from elsewhere, and for other data than a model was trained on.
"""
