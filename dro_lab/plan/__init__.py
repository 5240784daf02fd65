"""What a run would take, before anything is started: memory, FLOPs and time (``python -m dro_lab.plan``)."""
