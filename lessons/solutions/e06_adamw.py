"""Solution of lesson 6, exercise 1."""

from torch import Tensor


def adamw_step(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, lr: float, decay: float, epsilon: float = 1e-8
) -> tuple[Tensor, Tensor, Tensor]:
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    p = p - lr * decay * p
    return p - lr * m_hat / (v_hat.sqrt() + epsilon), m, v
