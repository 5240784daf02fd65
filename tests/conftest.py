"""What holds for the whole suite."""

import gc


def pytest_collection_finish() -> None:
    """What the imports made stays for good: later garbage collections (each run starts with one) skip it."""
    gc.collect()
    gc.freeze()
