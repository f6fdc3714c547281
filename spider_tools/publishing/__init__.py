"""A model folder goes to the Hub, in one commit.

Takes a finished model folder and gives a card, a check that a stranger can load it, and the URL of a commit. It uploads
the model's own files and nothing else, and changes nothing on the Hub before all checks have passed.
"""
