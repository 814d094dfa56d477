"""Solution of lesson 7, exercise 2."""

import math


class Scaler:
    def __init__(self, scale: float = 1024.0, patience: int = 3):
        self.scale, self.patience, self.good = scale, patience, 0

    def step(self, scaled_gradients: list[float]) -> list[float] | None:
        if not all(map(math.isfinite, scaled_gradients)):
            self.scale, self.good = self.scale / 2, 0
            return None
        gradients = [g / self.scale for g in scaled_gradients]
        self.good += 1
        if self.good == self.patience:
            self.scale, self.good = self.scale * 2, 0
        return gradients
