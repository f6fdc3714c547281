"""Weights from elsewhere, strictly: every tensor is used once and every parameter is filled.

Takes files, folders and Hub ids and gives backbones and models in float32. It reads pickles only with
`weights_only=True`, and refuses what is missing, left over, mis-shaped or ambiguous. A source's own code runs only in a
child process, to prove an import, and only with the user's consent.
"""
