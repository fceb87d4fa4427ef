"""An Arrow handler: whole columns of a batch instead of record after record, over the log as it lies on the disk.

    python examples/columns.py [DATA_DIR]
    streamfn run columns.handler --stream readings --until-caught-up

The same function is called with a Lambda event where it is deployed to Lambda, and with either in a test.
"""

import struct
import sys

import pyarrow as pa
import pyarrow.compute as pc

import streamfn


@streamfn.arrow_handler
def handler(batch, context):
    """The mean of each sensor's readings; the data of a record are one little-endian double."""
    values = pc.cast(batch["data"], pa.binary(8)).view(pa.float64())
    means = (
        pa.table({"sensor": batch["partition_key"], "value": values}).group_by("sensor").aggregate([("value", "mean")])
    )
    return {row["sensor"]: round(row["value_mean"], 3) for row in means.sort_by("sensor").to_pylist()}


def reading(number):
    return streamfn.NewRecord(struct.pack("<d", number / 2), f"sensor-{number % 3}")


def main(data_dir):
    with streamfn.open_sync(data_dir) as session:
        session.put_many("readings", [reading(number) for number in range(3_000)])
        options = {"batch_size": 1_000, "workers": 1}
        with session.mapping(handler, "readings", **options) as mapping, mapping.outcomes() as outcomes:
            for outcome in outcomes:
                print(outcome.records, outcome.result)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
