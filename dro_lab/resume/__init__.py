"""A run that stopped goes on: checkpoints, which run to go on with, and Ctrl-C.

`place` chooses a run's folder before Hydra makes it, `lock` keeps two processes from one run, `owner` says whose a lock
is where locks do not suffice, `checkpoint` writes what a run needs to go on and reads back the newest whole one,
`steps` ties it to the trainer, `interrupt` is Ctrl-C.
"""
