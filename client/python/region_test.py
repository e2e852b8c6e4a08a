"""What of shardwright.region needs no GPU; tests/gpu/daemon.py runs on one."""

import unittest

import shardwright
from shardwright import region


class FakeTensor:
    """Enough of a torch.Tensor: nobody reads what it points to."""

    def __init__(self, address, elements, element_size, contiguous=True):
        self._address = address
        self._elements = elements
        self._element_size = element_size
        self._contiguous = contiguous

    def data_ptr(self):
        return self._address

    def numel(self):
        return self._elements

    def element_size(self):
        return self._element_size

    def is_contiguous(self):
        return self._contiguous


class FakeArray:
    """Enough of a CuPy array."""

    def __init__(self, strides=None):
        self.__cuda_array_interface__ = {
            "data": (0x2000, False),
            "shape": (4, 2),
            "typestr": "<f4",
            "strides": strides,
        }


class RegionTest(unittest.TestCase):
    def test_tensors_say_where_their_bytes_are(self):
        self.assertEqual(
            region._memory("t", FakeTensor(0x1000, 8, 2)), (0x1000, 16, 2)
        )
        self.assertEqual(region._memory("t", FakeArray()), (0x2000, 32, 4))

    def test_what_cannot_be_handed_over_is_refused_by_name(self):
        for tensor, words in (
            (FakeTensor(0x1000, 8, 2, contiguous=False), "is not contiguous"),
            (FakeArray(strides=(4, 16)), "is not contiguous"),
            ([1.0], "is a list, not a tensor of a GPU"),
        ):
            with self.assertRaisesRegex(
                shardwright.ShardwrightError, f"source 0 {words}"
            ):
                region._memory("source 0", tensor)

    def test_a_session_without_a_gpu_or_a_worker_is_refused(self):
        worker = shardwright.worker("127.0.0.1:1", timeout=0.5)
        with self.assertRaises(shardwright.ShardwrightError) as refused:
            worker.gpu_session()
        self.assertIn(
            refused.exception.reason,
            ("GPU_NOT_BUILT", "DEVICE_FAILED", "UNREACHABLE", "CALL_TIMEOUT"),
        )
        with self.assertRaisesRegex(
            shardwright.ShardwrightError, "order is 'fast', must be one of"
        ):
            worker.gpu_session(order="fast")


if __name__ == "__main__":
    unittest.main()
