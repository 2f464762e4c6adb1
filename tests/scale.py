"""How much the tests try: a sample by default, all of it with `BUILDIT_TEST_WHOLE=1`.

What takes long because it tries much is marked `scale`: `-m unit` leaves it out, `scripts/test`
runs its sample, and `BUILDIT_TEST_WHOLE=1 scripts/test -m "unit or scale"` runs the whole.
"""

from __future__ import annotations

import os

WHOLE = os.environ.get("BUILDIT_TEST_WHOLE", "") == "1"


def examples(whole: int) -> int:
    """How many examples hypothesis makes up: `whole`, or a sample of a tenth and at least eight."""
    return whole if WHOLE else max(8, whole // 10)
