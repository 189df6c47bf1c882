"""Memory of this process alone, as the kernel gives it: saves and writes past the page cache need its alignment."""

from __future__ import annotations

import mmap


def anonymous_memory(size: int) -> memoryview:
    """`size` bytes of this process alone, from a page's border on; in huge pages where the kernel has them."""
    pages = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            return memoryview(pages)[:size]  # a kernel without them: small pages serve as well
    return memoryview(pages)[:size]
