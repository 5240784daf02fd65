"""Rubrics: lists of at most ten yes/no checks for one query."""
