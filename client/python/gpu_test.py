"""What of shardwright.gpu needs no GPU; tests/peers runs it on one."""

import unittest

import shardwright
from shardwright import gpu

LAYOUT = """
name: job
world_size: 2
modules:
- {name: language, role: LANGUAGE, first_rank: 0, rank_count: 2,
   parallelism: {cp: 2}}
"""


class FakeTensor:
    """Enough of a torch.Tensor: nobody reads what it points to."""

    def __init__(self, elements, element_size, contiguous=True):
        self._elements = elements
        self._element_size = element_size
        self._contiguous = contiguous

    def data_ptr(self):
        return 0x1000 if self._elements else 0

    def numel(self):
        return self._elements

    def element_size(self):
        return self._element_size

    def is_contiguous(self):
        return self._contiguous


class GpuTest(unittest.TestCase):
    def setUp(self):
        job = shardwright.Layout(LAYOUT)
        self.plan = job.shard_plan(1, seq_length=8, micro_batch=1)

    def operation(self, **changes):
        fields = {
            "plan": self.plan,
            "table": shardwright.EMBEDDINGS,
            "row_elements": 16,
            "dtype": "bf16",
            "sources": [FakeTensor(128, 2)],
            "destination": FakeTensor(64, 2),
        }
        return gpu._operation(shardwright.Operation(**{**fields, **changes}))

    def test_an_operation_says_where_its_bytes_are(self):
        operation = self.operation()
        self.assertEqual(operation.sources[0].data, 0x1000)
        self.assertEqual(operation.sources[0].size_bytes, 256)
        self.assertEqual(operation.destination.size_bytes, 128)
        self.assertEqual(operation.dtype, b"bf16")

    def test_no_destination_is_a_view(self):
        destination = self.operation(destination=None).destination
        self.assertIsNone(destination.data)
        self.assertEqual(destination.size_bytes, 0)

    def test_a_tensor_that_is_not_contiguous_is_refused_by_name(self):
        with self.assertRaisesRegex(
            shardwright.ShardwrightError, "source 0 is not contiguous"
        ):
            self.operation(sources=[FakeTensor(128, 2, contiguous=False)])

    def test_a_fill_that_is_not_one_element_is_refused(self):
        with self.assertRaisesRegex(
            shardwright.ShardwrightError, "fill has 1 bytes, must be one bf16"
        ):
            self.operation(fill=b"x")
        self.assertEqual(self.operation(fill=b"xy").fill, b"xy")

    def test_a_machine_without_a_gpu_says_so(self):
        try:
            shardwright.Gpu(0).close()
        except shardwright.ShardwrightError as error:
            self.assertIn(error.reason, ("NO_GPU", "GPU_NOT_BUILT"))
        with self.assertRaises(shardwright.ShardwrightError):
            shardwright.Gpu(-1)


if __name__ == "__main__":
    unittest.main()
