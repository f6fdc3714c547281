"""How fast it is: every row of `python -m benchmarks` measures our way beside another one, in alternating runs."""
