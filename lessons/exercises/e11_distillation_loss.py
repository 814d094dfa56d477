"""Lesson 11, exercise 1: the loss that listens to a teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation_loss(student: Tensor, teacher: Tensor, graded: Tensor, T: float) -> Tensor:
    """T² · KL(teacher's shares ‖ student's shares), both at temperature T, averaged over the graded positions
    (here those that a mask names; the authors' commands take all of a text).

    KL(q ‖ p) = Σ q·(ln q - ln p), over the vocabulary.

    student, teacher: logits (B, tokens, V); graded (B, tokens) bool. No gradient goes to the teacher. 0, not NaN, where
    nothing is graded.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e11_distillation_loss.py


def logits() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 7).double()
    return student.requires_grad_(), teacher.requires_grad_(), torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool()


def test_it_is_zero_for_a_perfect_student_and_positive_for_others():
    student, teacher, graded = logits()
    assert abs(distillation_loss(teacher + 3.0, teacher, graded, T=2.0).item()) < 1e-12, "a shift of all logits changes nothing"
    assert distillation_loss(student, teacher, graded, T=2.0).item() > 0.01


def test_its_value_and_its_gradient():
    student, teacher, graded = logits()
    loss = distillation_loss(student, teacher, graded, T=3.0)
    shares = F.softmax(teacher.detach() / 3, dim=2)
    expected = 9 * (shares * (shares.log() - F.log_softmax(student.detach() / 3, dim=2))).sum(dim=2)[graded].mean()
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert teacher.grad is None and (student.grad[~graded] == 0).all()
    torch.testing.assert_close(student.grad[graded], 3 * (F.softmax(student.detach() / 3, dim=2) - shares)[graded] / 4)


def test_nothing_graded_is_no_loss():
    student, teacher, graded = logits()
    assert distillation_loss(student, teacher, graded & False, T=2.0).item() == 0.0
