import os
import unittest

from ledger import total


class Ledger(unittest.TestCase):
    def test_total(self) -> None:
        self.assertEqual(total([1, 2, 3]), 6)

    def test_environment(self) -> None:
        self.assertEqual(os.environ["APP_NAME"], "ledger")
