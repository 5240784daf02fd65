"""Reads what runs leave in `outputs/`; never a model or a trainer."""
