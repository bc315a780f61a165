"""The private descriptor pool that every generated module registers in.

The default pool is shared by the whole process, and other packages register the
Open Inference Protocol there under the same names; see tools/generate_stubs.py.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
