"""Several processes: the command that starts them, and the checks that they are what ``launch=`` says.

The engines are accelerate's (DDP, FSDP2, DeepSpeed ZeRO-3); ``conf/launch/NAME.yaml`` is an accelerate configuration.
"""
