"""What tells the files of learning in one pass apart, for readers that have Python alone, too.

Knowledge files (artifact/knowledge.py) are safetensors files of a format of their own. A journal
(device/closed_form/journal.py) keeps features of images on their way into one:

    header   magic, SHA-256 of what computes the features and of their layout, bytes of a row (uint64)
    record   digest of the image, CRC-32 of digest and row (uint32), row (edge_s2a.codec.features)
"""

import struct

KNOWLEDGE_FORMAT = "edge-s2a knowledge 1"  # metadata "format"
RECORD = "record"  # metadata: what learning says of itself, a JSON object
JOURNAL_MAGIC = b"edge-s2a journal 1\n"
JOURNAL_HEADER = struct.Struct("<19s32sQ")
JOURNAL_PREFIX = struct.Struct("<16sI")  # of a record: what stands before its row
