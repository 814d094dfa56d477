"""Solution of lesson 6, exercise 2."""

import math


def cosine_factor(step: int, total_steps: int, warmup_steps: int, floor: float = 0.0) -> float:
    if step < warmup_steps:
        return step / warmup_steps
    way = (step - warmup_steps) / max(total_steps - warmup_steps, 1)  # 0 at the peak, 1 at the end
    return floor + (1 - floor) * (1 + math.cos(math.pi * way)) / 2
