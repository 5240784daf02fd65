"""dro_lab: experiments on reasoning rewards (DRO, REPRO and their rivals) over TRL's GRPO."""
