"""Many slides: found, shared between processes and runs, done whatever becomes of each, and listed in one table.

`many` is a whole run. Each of its processes is a `working.Worker`; they share slides by `shared_run`, and runs side by
side by the claims of `records`, which also tell with `history` what became of which slide before. `cohort` writes
cohort.csv and cohort.html, from `cohort_rows` and `cohort_page`, as slides finish.
"""
