"""Lesson 11, exercise 2: where a student begins."""

import torch

from distilbert.config import DistilBertConfig
from distilbert.model import DistilBertModel


def student_of(teacher: DistilBertModel, blocks: list[int]) -> DistilBertModel:
    """A model of the teacher's sizes with only these of its blocks, in this order, and its embeddings.

    A model of its own: training it must leave the teacher as it is. Its config says how many blocks it has.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e11_every_second_block.py


def model_of(n_layers: int) -> DistilBertModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "max_position_embeddings": 7, "dim": 8, "hidden_dim": 12, "n_heads": 2}
    return DistilBertModel(DistilBertConfig(**sizes, n_layers=n_layers, initializer_range=0.5)).eval()


IDS = torch.tensor([[2, 9, 7, 3]])


def test_it_computes_with_every_second_block():
    teacher = model_of(6)
    student = student_of(teacher, [0, 2, 4]).eval()
    assert student.config.n_layers == 3 and len(student.blocks) == 3
    x = teacher.embeddings(IDS)
    for i in (0, 2, 4):
        x = teacher.blocks[i](x, None)
    torch.testing.assert_close(student(IDS), x)


def test_the_order_is_the_one_asked_for():
    teacher = model_of(4)
    expected = teacher.blocks[0](teacher.blocks[2](teacher.embeddings(IDS), None), None)
    torch.testing.assert_close(student_of(teacher, [2, 0]).eval()(IDS), expected)


def test_all_blocks_make_the_teacher_again():
    teacher = model_of(4)
    torch.testing.assert_close(student_of(teacher, [0, 1, 2, 3]).eval()(IDS), teacher(IDS))


def test_the_teacher_stays_as_it_is():
    teacher = model_of(4)
    before, student = teacher(IDS), student_of(teacher, [1, 3])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    torch.testing.assert_close(teacher(IDS), before, rtol=0, atol=0)
    assert teacher.config.n_layers == 4
