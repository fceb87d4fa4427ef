"""Every limit, with its unit and its reason, in one place."""

from __future__ import annotations

MIB = 1024 * 1024

# Lambda's own limits (Lambda Developer Guide, event source mappings; botocore's service model): a mapping
# that is valid here is valid there.
BATCH_SIZE_MAX = 10_000
BATCH_SIZE_DEFAULT = 100
BATCH_WINDOW_S_MAX = 300
PARALLELIZATION_FACTOR_MAX = 10
RETRY_ATTEMPTS_MAX = 10_000
RECORD_AGE_S_MIN = 60
RECORD_AGE_S_MAX = 604_800  # a week
TUMBLING_WINDOW_S_MAX = 900
WINDOW_STATE_BYTES_MAX = MIB  # "1 MB per shard", of the state's JSON
FILTERS_MAX_DEFAULT = 5
FILTERS_MAX = 10  # AWS raises the quota to that
FILTER_CHARS_MAX = 4096
DESTINATION_CHARS_MAX = 350
FUNCTION_NAME_CHARS_MAX = 256
EVENT_BYTES_MAX = 6 * MIB  # "6 MB" of event JSON
FUNCTION_TIMEOUT_S_MAX = 900
FUNCTION_TIMEOUT_S_DEFAULT = 3
MEMORY_MB_MIN = 128  # MB of 1,048,576 bytes
MEMORY_MB_MAX = 10_240
STORAGE_MB_MIN = 512
STORAGE_MB_MAX = 10_240
ENVIRONMENT_BYTES_MAX = 4096  # of a function's variables, as JSON
LAYERS_MAX = 5
RESPONSE_BYTES_MAX = 6 * MIB + 100  # 6291556: recorded from the service's own error text

# Kinesis' own limits (botocore's service model).
PARTITION_KEY_CHARS_MAX = 256
RECORD_BYTES_MAX = 10 * MIB
SEQUENCE_DIGITS_MAX = 129
SEQUENCE_DIGITS_TOLD = 16  # ours: so many digits are a sequence number, and fewer a time (year 9999 in ms: 15)
SHARDS_MAX = 1_024  # ours: what one directory and one runtime are tested with
STREAM_NAME_PATTERN = r"[a-zA-Z0-9_.-]{1,128}"

# A sequence number that is given here and has not been pushed up by captured ones: stream, shard, offset.
SEQUENCE_DIGITS_GIVEN = 56

# DynamoDB: an item is at most 400 KB, its JSON longer by names of types and escapes; a change has two of them.
CHANGE_BYTES_MAX = 10 * MIB

# Arrival times: milliseconds from the epoch to the last moment of year 9999, so that seconds with three
# decimals always have a short and exact decimal form.
ARRIVAL_MS_MAX = 253_402_300_799_999

# The shard log.  A segment is sparse and has its full size from the start; a message (one Arrow record
# batch) always fits one.  Sealed row groups are larger than appended messages and small enough that
# checking one's CRC takes a few milliseconds.
SEGMENT_BYTES = 128 * MIB
SEGMENT_BYTES_RETAINED_MIN = 16 * MIB  # how small retention by bytes may make one; any record fits
MESSAGE_BYTES_TARGET = 2 * MIB
MESSAGE_ROWS_MAX = 65_536
SEALED_GROUP_BYTES = 8 * MIB
# An append of columns from here on goes straight into sealed segments: written once, in their row groups.
STRAIGHT_BYTES = 32 * MIB

# Appends are refused below this much free disk, so that checkpoints and discards still fit (on a small
# file system: a quarter of it).
FREE_BYTES_MIN = 16 * MIB

# The rings.  128 entries hold enough single-record batches to hide a wake-up of the runtime.  The arena
# holds one batch of 10,000 single-row extents of 80 bytes.
RING_CAPACITY = 128
EXTENT_BYTES = 80
ARENA_BYTES = MIB

# A checkpoint is durable at the latest this long after the completion it speaks of.
CHECKPOINT_DELAY_S = 0.05

ACCOUNT = "000000000000"  # in every ARN that is given here
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/lambda-role"  # of every function, and in its events

INIT_TIMEOUT_S = 10  # Lambda's Init phase
LOG_LINE_BYTES_MAX = 64 * 1024

assert RING_CAPACITY & (RING_CAPACITY - 1) == 0, "ring indexes are masked"
assert BATCH_SIZE_MAX * EXTENT_BYTES <= ARENA_BYTES, "a batch of single-row extents must fit the arena"
assert RECORD_BYTES_MAX + MIB < SEGMENT_BYTES_RETAINED_MIN < SEGMENT_BYTES, "any record must fit a fresh segment"
