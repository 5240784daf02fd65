"""A bake-off before training: which reward would teach this policy on these rows, and how fast?"""
