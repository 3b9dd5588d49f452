"""Cases that need what some systems do not have."""

import sys
from collections.abc import Callable

import pytest

linux_alone = pytest.mark.skipif(sys.platform != "linux", reason="asks what Linux alone tells")
not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals, links or limits")


def files_no_larger_than(size: int) -> Callable[[], None]:
    """For `preexec_fn`: writing beyond so many bytes of a file fails in that process, as on a full disk."""

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit
