import os

from ledger import total

assert total([1, 2, 3]) == 6
assert os.environ["APP_NAME"] == "ledger"
