"""Handlers as people write them with AWS Lambda Powertools and aws_kinesis_agg, which know nothing of this engine."""

import base64
import json
import os

from answering import note
from aws_kinesis_agg.deaggregator import deaggregate_records
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    BatchProcessor,
    EventType,
    async_process_partial_response,
    process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes import DynamoDBStreamEvent, KinesisStreamEvent, event_source
from aws_lambda_powertools.utilities.parser import BaseModel, event_parser
from aws_lambda_powertools.utilities.parser.models import (
    DynamoDBStreamChangedRecordModel,
    DynamoDBStreamModel,
    DynamoDBStreamRecordModel,
    KinesisDataStreamModel,
    KinesisDataStreamRecord,
    KinesisDataStreamRecordPayload,
)
from pydantic import Json

kinesis_processor = BatchProcessor(event_type=EventType.KinesisDataStreams)
async_processor = AsyncBatchProcessor(event_type=EventType.KinesisDataStreams)
dynamodb_processor = BatchProcessor(event_type=EventType.DynamoDBStreams)
raising_processor = BatchProcessor(event_type=EventType.KinesisDataStreams, raise_on_entire_batch_failure=False)


def tell(said):
    with open(os.environ["SAID"], "a") as file:
        file.write(json.dumps(said) + "\n")


def process(data):
    if data in json.loads(os.environ["FAILING"]):
        raise ValueError(f"{data} cannot be processed")
    tell(data)


def one_record(record):
    process(record.kinesis.data_as_text())


async def one_record_async(record):
    process(record.kinesis.data_as_text())


def one_change(record):
    process(record.dynamodb.new_image["data"])


def kinesis_batch(event, context):
    note(event, context)
    return process_partial_response(
        event=event, record_handler=one_record, processor=kinesis_processor, context=context
    )


def async_batch(event, context):
    note(event, context)
    return async_process_partial_response(
        event=event, record_handler=one_record_async, processor=async_processor, context=context
    )


def batch_that_never_raises(event, context):
    note(event, context)
    return process_partial_response(
        event=event, record_handler=one_record, processor=raising_processor, context=context
    )


def dynamodb_batch(event, context):
    note(event, context)
    return process_partial_response(
        event=event, record_handler=one_change, processor=dynamodb_processor, context=context
    )


@event_source(data_class=KinesisStreamEvent)
def kinesis_classes(event: KinesisStreamEvent, context):
    for record in event.records:
        kinesis = record.kinesis
        tell(
            {
                "id": record.event_id,
                "name": record.event_name,
                "source": record.event_source,
                "arn": record.event_source_arn,
                "version": record.event_version,
                "role": record.invoke_identity_arn,
                "region": record.aws_region,
                "arrival": kinesis.approximate_arrival_timestamp,
                "schema": kinesis.kinesis_schema_version,
                "key": kinesis.partition_key,
                "number": kinesis.sequence_number,
                "json": kinesis.data_as_json(),
            }
        )


@event_source(data_class=DynamoDBStreamEvent)
def dynamodb_classes(event: DynamoDBStreamEvent, context):
    for record in event.records:
        change = record.dynamodb
        tell(
            {
                "id": record.event_id,
                "name": record.event_name.name,
                "source": record.event_source,
                "arn": record.event_source_arn,
                "version": record.event_version,
                "region": record.aws_region,
                "created": change.approximate_creation_date_time,
                "keys": change.keys,
                "new": {name: str(value) for name, value in change.new_image.items()},
                "old": change.old_image,
                "number": change.sequence_number,
                "bytes": change.size_bytes,
                "view": change.stream_view_type.name,
                "user": record.user_identity,
            }
        )


class Order(BaseModel):
    order: int


class OrderPayload(KinesisDataStreamRecordPayload):
    data: Json[Order]


class OrderRecord(KinesisDataStreamRecord):
    kinesis: OrderPayload


class Orders(KinesisDataStreamModel):
    Records: list[OrderRecord]


@event_parser(model=Orders)
def kinesis_models(event: Orders, context):
    for record in event.Records:
        payload = record.kinesis
        tell(
            {
                "order": payload.data.order,
                "key": payload.partitionKey,
                "number": payload.sequenceNumber,
                "id": record.eventID,
            }
        )


class Item(BaseModel):
    id: str
    data: str


class ItemChange(DynamoDBStreamChangedRecordModel):
    NewImage: Item | None = None
    OldImage: Item | None = None


class ItemRecord(DynamoDBStreamRecordModel):
    dynamodb: ItemChange


class Items(DynamoDBStreamModel):
    Records: list[ItemRecord]


@event_parser(model=Items)
def dynamodb_models(event: Items, context):
    for record in event.Records:
        change = record.dynamodb
        tell(
            {
                "name": record.eventName,
                "keys": change.Keys,
                "new": change.NewImage and change.NewImage.model_dump(),
                "old": change.OldImage and change.OldImage.model_dump(),
                "number": change.SequenceNumber,
                "created": change.ApproximateCreationDateTime.timestamp(),
            }
        )


def deaggregates(event, context):
    note(event, context)
    for record in deaggregate_records(event["Records"]):
        tell(
            {
                "key": record["kinesis"]["partitionKey"],
                "data": base64.b64decode(record["kinesis"]["data"]).decode(),
                "number": record["kinesis"]["sequenceNumber"],
                "aggregated": record["kinesis"].get("aggregated", False),
                "id": record["eventID"],
            }
        )


@event_source(data_class=KinesisStreamEvent)
def kinesis_window(event: KinesisStreamEvent, context):
    """Adds up numbers, with the batch processor for the records and the window's state for the sum."""
    numbers = []

    def one_number(record):
        numbers.append(record.kinesis.data_as_json())

    reported = {}
    if event.raw_event["Records"]:  # the processor refuses an event without any, which a final invocation may be
        reported = process_partial_response(
            event=event.raw_event, record_handler=one_number, processor=kinesis_processor, context=context
        )
    total = (event.state or {}).get("sum", 0) + sum(numbers)
    tell(
        {
            "window": [event.window.start, event.window.end],
            "numbers": numbers,
            "sum": total,
            "final": event.is_final_invoke_for_window,
            "early": event.is_window_terminated_early,
            "shard": event.shard_id,
            "arn": event.event_source_arn,
        }
    )
    return {**reported, "state": {"sum": total}}
