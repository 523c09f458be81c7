"""Statistics of ways that take turns."""

import cv2
import pytest
import torch

from mmseg_semflow.benchmark.timing import alternate, one_thread, ratio


def test_ratios_and_alternation():
    row = ratio(dict(a=[2., 4., 6.], b=[1., 1., 2.]), 'a', 'b', 'a / b')
    assert row == dict(
        what='a / b', ratio=3., lower_quartile=2.5, upper_quartile=3.5, rounds=3)
    called = []
    times = alternate(
        {name: lambda name=name: called.append(name)
         for name in 'abc'}, 3)
    assert ''.join(called) == 'abccbaabc'
    assert {name: len(values) for name, values in times.items()} == dict(
        a=3, b=3, c=3)


def test_one_thread_gives_the_others_back():
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    try:
        torch.set_num_threads(2)
        cv2.setNumThreads(2)
        with pytest.raises(ZeroDivisionError), one_thread():
            assert torch.get_num_threads() == cv2.getNumThreads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == cv2.getNumThreads() == 2
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
