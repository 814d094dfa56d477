"""Whatever is in a file, a loader reads it or refuses it in words: no other exception, no hang, no crash, bounded memory."""

import pytest
import warm
from fuzz import KINDS, limited

EACH = {"evaluate": 25, "measure": 25, "resume": 130}  # inputs of a kind in the fast suite; the first two are slow to read


def fuzzed(kind: str, numbers: range, run, timeout: float) -> int:
    """Fuzzes in a process of its own, because a library may end it -> how many inputs were refused."""
    receiver, sender = warm.WARM.Pipe(duplex=False)
    process = warm.WARM.Process(target=limited, args=(kind, numbers, run, sender.send))
    process.start()
    sender.close()
    reports = []
    try:
        while receiver.poll(timeout):
            reports.append(receiver.recv())
    except EOFError:
        pass
    process.kill()
    process.join()
    *failures, refused = reports or [None]
    assert isinstance(refused, int) and not failures, "\n".join(map(str, reports))
    return refused


def count(kind: str) -> int:
    return EACH.get(kind, 60)


def test_a_thousand_broken_inputs_are_made():
    assert sum(map(count, KINDS)) >= 1_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_is_read_or_refused_in_words(kind, finished):
    assert fuzzed(kind, range(count(kind)), finished.directory, timeout=600) > count(kind) // 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_of_twenty_thousand_broken_files_each_is_read_or_refused_in_words(kind, finished):
    number = 20 * count(kind)
    assert fuzzed(kind, range(number), finished.directory, timeout=600) > number // 20
