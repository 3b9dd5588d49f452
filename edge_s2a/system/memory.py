"""The memory of this process, and what it can have; every size in bytes.

resident_bytes()                resident memory now
peak_resident_bytes()           the largest resident memory in the life of this process
attainable_bytes()              the resident memory that it can reach before the machine, or a limit, has no more
make_allocator_predictable()    has the C allocator return freed memory at once, where it can be told to
"""

from edge_s2a.system import memory_linux, memory_portable
from edge_s2a.system.which import IS_LINUX

_here = memory_linux if IS_LINUX else memory_portable
resident_bytes = _here.resident_bytes
peak_resident_bytes = _here.peak_resident_bytes
attainable_bytes = _here.attainable_bytes
make_allocator_predictable = _here.make_allocator_predictable
