"""The paper's claim on five twins: how many times fewer steps does R3 need than the rewards it replaces?"""
