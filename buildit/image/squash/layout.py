"""The records of squashfs 4.0, little-endian, as the kernel reads them
(Documentation/filesystems/squashfs.rst, fs/squashfs/squashfs_fs.h)."""

from __future__ import annotations

import struct

MAGIC = 0x73717368
SUPERBLOCK = struct.Struct("<5I6H8Q")
"""magic, inodes, time, block size, fragments; compressor, log2 of the block size, flags, ids, then
the version; root, bytes used, and where tables begin: ids, attributes, inodes, directories,
fragments, export."""
COMPRESSORS = {"gzip": 1, "xz": 4, "zstd": 6}
NO_TABLE = 0xFFFFFFFFFFFFFFFF
NO_INDEX = 0xFFFFFFFF
"""No fragment, and no attributes."""
METADATA = 8192
"""Bytes of tables in one metadata block; it is stored behind its size in two bytes."""
PLAIN_METADATA = 1 << 15
PLAIN_DATA = 1 << 24
"""The bits of a size that say that the block is not compressed."""
LARGEST_METADATA_SIZE = PLAIN_METADATA - 1

DIRECTORY, FILE, SYMLINK = 1, 2, 3
EXTENDED = 7
"""What an inode's type has on top where it is extended."""
INODE = struct.Struct("<4H2I")
"""type, mode, index of uid and gid, time, number."""
BASIC_DIRECTORY = struct.Struct("<2I2HI")
"""block of the listing, links, size of the listing + 3, offset, number of the parent."""
EXTENDED_DIRECTORY = struct.Struct("<4I2HI")
"""links, size + 3, block, number of the parent, indices, offset, attributes."""
BASIC_FILE = struct.Struct("<4I")
"""first block, fragment, offset in it, size; a word for each block follows."""
EXTENDED_FILE = struct.Struct("<3Q4I")
"""first block, size, bytes of holes, links, fragment, offset in it, attributes; blocks follow."""
LINK = struct.Struct("<2I")
"""links, length of the target, which follows."""
WORD = struct.Struct("<I")
LONG = struct.Struct("<Q")

LISTING = struct.Struct("<3I")
"""Names that follow less one, block of their inodes, number that theirs are relative to."""
NAME = struct.Struct("<HhHH")
"""offset of the inode, its number less the listing's, basic type, length of the name less one."""
MOST_NAMES = 256
FRAGMENT = struct.Struct("<Q2I")
"""start, stored size, unused."""
ATTRIBUTES = struct.Struct("<Q2I")
"""Of one inode: where its attributes lie, how many there are, their bytes."""
ATTRIBUTE_TABLE = struct.Struct("<Q2I")
"""Where attributes begin, how many inodes have some, unused."""
PREFIXES = ("user.", "trusted.", "security.")
"""By the number that stands for each."""

BLOCK_SIZE = 1 << 17
NO_ATTRIBUTES = 0x200
DUPLICATES = 0x40
PLAIN = 0x1 | 0x2 | 0x8 | 0x100 | 0x800
"""Flags: nothing is compressed."""
