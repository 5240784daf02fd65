"""The paper's claim on four twins: how many times fewer steps does R3 need than the rewards it replaces?"""
