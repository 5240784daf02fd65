"""What a vLLM server's worker on a CPU imports: its weights stay where they can be loaded into."""

from __future__ import annotations

import vllm.model_executor.layers.utils as layers

from tests.vllm.engine import plain_linear

layers.dispatch_cpu_unquantized_gemm = plain_linear


class Worker:
    """Adds nothing."""
