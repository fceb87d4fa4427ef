"""`streamfn record`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from streamfn.cli.options import Settings, common_options, durability_option

if TYPE_CHECKING:
    from streamfn.log.storage.durability import Durability

_EPILOG = """\b
Examples:
  streamfn record kinesis://orders
  streamfn record kinesis://orders --from LATEST --duration 10m --stream sample
  streamfn record dynamodb-stream://customers --until now --json
  streamfn record arn:aws:kinesis:eu-west-1:123456789012:stream/orders --limit 100000
  streamfn record kinesis://orders --endpoint-url http://localhost:4566 --region us-east-1

\b
SOURCE is kinesis://NAME, dynamodb-stream://TABLE, or the ARN of a data stream, a
table or its stream. Credentials, region and endpoint are found as the AWS SDK finds
them (environment, profile, instance); pip install 'streamfn[aws]' brings the SDK.

\b
The stream keeps the source's ARN, shards with their lineage, sequence numbers and
times. Run it again and it goes on behind the last durable record of each shard,
whatever ended it: nothing comes twice, nothing is missing. What the source has
trimmed away meanwhile is said and noted.

\b
Ctrl-C ends it when what has come is durable, and says where it resumes; a second one
at once. Exit codes: 0 done, 1 failed, 2 refused before anything was made, 130 and 143
a second signal, or one before --until or --limit was reached.
"""


@click.command(epilog=_EPILOG)
@click.argument("source")
@click.option("--stream", metavar="S", help="Record into this stream; made if there is none.  [default: its name]")
@click.option(
    "--from",
    "begin",
    default="TRIM_HORIZON",
    show_default=True,
    metavar="TRIM_HORIZON|LATEST|TIME",
    help="Where the first recording begins; a later one goes on.",
)
@click.option("--until", metavar="now|TIME", help="End when everything up to then is recorded; now: what is there.")
@click.option("--duration", metavar="TIME", help="End after so long: 90s, 10m, 2h.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Record N records, then end.")
@click.option("--endpoint-url", metavar="URL", help="Ask this endpoint.  [env: AWS_ENDPOINT_URL]")
@click.option("--region", metavar="R", help="Of the source.  [default: the ARN's, or as the SDK finds it]")
@click.option("--profile", metavar="P", help="Of the SDK's configuration.  [env: AWS_PROFILE]")
@durability_option
@common_options
def record(
    settings: Settings,
    source: str,
    stream: str | None,
    begin: str,
    until: str | None,
    duration: str | None,
    limit: int | None,
    endpoint_url: str | None,
    region: str | None,
    profile: str | None,
    durability: Durability,
) -> int:
    """Record a live Kinesis stream, or a DynamoDB table's stream, into a stream here."""
    from streamfn.cli.recording import RecordRequest, run_record

    request = RecordRequest(
        source=source,
        stream=stream,
        begin=begin,
        until=until,
        duration=duration,
        limit=limit,
        endpoint_url=endpoint_url,
        region=region,
        profile=profile,
        durability=durability,
    )
    return run_record(settings, request)
