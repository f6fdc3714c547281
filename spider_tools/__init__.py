"""Everything around the SPIDER model; the remote-code files at the top of the repository never import it."""

__version__ = "0.2.0"
