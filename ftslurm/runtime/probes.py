def gpu_pids(deadline_s: float) -> frozenset[int] | None:
    return None
