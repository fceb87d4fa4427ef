"""The event source mapping API, from the command line: answers, defaults, states and refusals as they were recorded."""

import json
import re
import threading

import pytest
from api_rig import Api, refusal

from streamfn.functions.refusals import ServiceRefused
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping import request
from streamfn.mapping.managing import Mappings
from streamfn.state.owner import Ownership
from streamfn.state.store import Store

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CREATE, UPDATE = "CreateEventSourceMapping", "UpdateEventSourceMapping"


def not_found(operation, which):
    """Lambda's words, and ours behind them: which mapping it was."""
    gone = f"The resource you requested does not exist. (there is no mapping {which!r})"
    return refusal("ResourceNotFoundException", operation, gone)


class MappingApi(Api):
    group = "mapping"

    def refused(self, *arguments):
        """The one line with which a request is refused; nothing was made, not even a store."""
        before = self.stored()
        said = super().refused(*arguments)
        assert self.stored() == before
        return said

    def stored(self):
        path = self.data / "state.db"
        if not path.exists():
            return None
        with Store.open(path, create=False, read_only=True) as store:
            return store.all_managed()

    def create(self, *more, stream="s", position="TRIM_HORIZON"):
        return self("create", *SOURCE, stream, "--starting-position", position, *more)


SOURCE = ("--function-name", "app.handler", "--event-source-arn")
COMPLETE = (*SOURCE, "s", "--starting-position", "TRIM_HORIZON")


@pytest.fixture
def streams(tmp_path):
    data = DataDir.open(tmp_path / "data", create=True)
    return {"s": data.create_stream("s"), "d": data.create_stream("d", kind="dynamodb")}


@pytest.fixture
def api(tmp_path, streams, capsys, monkeypatch):
    for name in ("app", "other"):
        (tmp_path / f"{name}.py").write_text("def handler(event, context): pass\n")
    monkeypatch.chdir(tmp_path)
    return MappingApi(tmp_path, capsys)


# ---- answers


@pytest.mark.conformance(
    "mappings/create-answers-exactly-these-keys",
    source="recorded",
    rule="`create` answers with exactly the recorded key set and defaults for Kinesis and DynamoDB streams; "
    "`LastModified` is seconds since 1970, as on the wire.",
)
@pytest.mark.parametrize("kind", ["s", "d"])
def test_create_answers_with_the_recorded_keys_and_defaults(api, streams, kind):
    made = api.create(stream=kind)
    assert re.fullmatch(UUID, made["UUID"])
    assert isinstance(made["LastModified"], float)
    assert made == {
        "BatchSize": 100,
        "BisectBatchOnFunctionError": False,
        "DestinationConfig": {"OnFailure": {}},
        "EventSourceArn": streams[kind].arn,
        "EventSourceMappingArn": f"arn:aws:lambda:us-east-1:000000000000:event-source-mapping:{made['UUID']}",
        "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:app-handler",
        "FunctionResponseTypes": [],
        "LastModified": made["LastModified"],
        "LastProcessingResult": "No records processed",
        "MaximumBatchingWindowInSeconds": 0,
        "MaximumRecordAgeInSeconds": -1,
        "MaximumRetryAttempts": -1,
        "ParallelizationFactor": 1,
        "StartingPosition": "TRIM_HORIZON",
        "State": "Creating",
        "StateTransitionReason": "User action",
        "TumblingWindowInSeconds": 0,
        "UUID": made["UUID"],
    }
    assert api("show", made["UUID"]) == {**made, "State": "Enabled"}


PATTERN = '{"data": {"n": [{"numeric": [">", 1]}]}}'


@pytest.mark.conformance(
    "mappings/values-come-back-as-given", source="recorded", rule="Every value comes back; a filter's pattern as given."
)
def test_every_value_comes_back_as_it_was_given(api):
    given = {
        "BatchSize": 7,
        "BisectBatchOnFunctionError": True,
        "DestinationConfig": {"OnFailure": {"Destination": "arn:aws:sqs:us-east-1:000000000000:failed"}},
        "FilterCriteria": {"Filters": [{"Pattern": PATTERN}]},
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "MaximumBatchingWindowInSeconds": 300,
        "MaximumRecordAgeInSeconds": 604_800,
        "MaximumRetryAttempts": 10_000,
        "MetricsConfig": {"Metrics": ["EventCount"]},
        "ParallelizationFactor": 10,
        "StartingPosition": "AT_TIMESTAMP",
        "StartingPositionTimestamp": 1545084650.987,
    }
    text = json.dumps({**given, "FunctionName": "app.handler", "EventSourceArn": "s", "Tags": {"team": "a"}})
    made = api("create", "--cli-input-json", text)
    assert made.items() >= given.items()
    assert "Tags" not in made
    assert api("show", "--uuid", made["UUID"]).items() >= given.items()


def test_a_tumbling_window_comes_back_as_it_was_given(api):
    assert api.create("--tumbling-window-in-seconds", 900)["TumblingWindowInSeconds"] == 900


def test_options_are_the_aws_cli_s_own_and_win_over_its_input(api, tmp_path):
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"FunctionName": "other.handler", "EventSourceArn": "s", "BatchSize": 3}))
    made = api(
        "create", "--cli-input-json", f"file://{path}", "--function-name", "app.handler", "--starting-position",
        "LATEST", "--filter-criteria", f"Filters=[{{Pattern='{PATTERN}'}}]", "--destination-config",
        "OnFailure={Destination=failed}", "--function-response-types", "ReportBatchItemFailures",
        "--bisect-batch-on-function-error", "--maximum-retry-attempts", "0", "--no-enabled",
    )  # fmt: skip
    assert (made["FunctionArn"][-11:], made["BatchSize"], made["State"]) == ("app-handler", 3, "Disabled")
    assert made["FilterCriteria"] == {"Filters": [{"Pattern": PATTERN}]}
    assert made["DestinationConfig"] == {"OnFailure": {"Destination": "failed"}}
    assert made["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert (made["BisectBatchOnFunctionError"], made["MaximumRetryAttempts"]) == (True, 0)


@pytest.mark.conformance(
    "mappings/empty-filter-criteria-are-dropped",
    source="recorded",
    rule="`FilterCriteria` without a filter are accepted and left out of the answer.",
)
def test_filter_criteria_without_a_filter_are_dropped(api):
    made = api.create("--filter-criteria", '{"Filters": []}')
    assert "FilterCriteria" not in made
    api("update", made["UUID"], "--filter-criteria", f"Filters=[{{Pattern='{PATTERN}'}}]")
    assert "FilterCriteria" in api("show", made["UUID"])
    assert "FilterCriteria" not in api("update", made["UUID"], "--filter-criteria", "{}")


@pytest.mark.conformance(
    "mappings/function-arn-echoes-the-form",
    source="recorded",
    rule="`FunctionArn` echoes the form given: a bare name is unqualified, `name:$LATEST` qualified.",
    differs="A function is named by its handler; its name is the handler with `.`, `:` and `/` turned into `-`.",
)
@pytest.mark.parametrize(
    ("name", "ends"), [("app.handler", "app-handler"), ("app.handler:$LATEST", "app-handler:$LATEST")]
)
def test_the_function_arn_echoes_the_form_that_was_given(api, name, ends):
    made = api("create", "--function-name", name, "--event-source-arn", "s", "--starting-position", "LATEST")
    assert made["FunctionArn"] == f"arn:aws:lambda:us-east-1:000000000000:function:{ends}"


def test_a_stream_is_named_or_given_by_its_arn_or_that_of_a_consumer(api, streams):
    consumer = streams["s"].arn + "/consumer/reader:1700000000"
    made = api.create("--name", "one", stream=consumer)
    assert made["EventSourceArn"] == consumer
    api("delete", "one")
    assert api.create(stream=streams["s"].arn)["EventSourceArn"] == streams["s"].arn


# ---- states


@pytest.mark.conformance(
    "mappings/states",
    source="recorded",
    rule="Creating, Enabling and Updating lead to Enabled, Disabling to Disabled; Deleting answers with the whole "
    "configuration and ends in a mapping that is not found.",
)
def test_states_go_as_they_were_recorded(api):
    made = api.create()
    uuid = made["UUID"]

    def state(*arguments):
        return api(*arguments)["State"]

    assert (made["State"], state("show", uuid)) == ("Creating", "Enabled")
    assert (state("update", uuid, "--batch-size", 5), state("show", uuid)) == ("Updating", "Enabled")
    assert (state("disable", uuid), state("show", uuid)) == ("Disabling", "Disabled")
    assert (state("update", uuid, "--batch-size", 6), state("show", uuid)) == ("Updating", "Disabled")
    assert (state("update", uuid, "--enabled"), state("show", uuid)) == ("Enabling", "Enabled")
    assert (state("update", uuid, "--no-enabled"), state("show", uuid)) == ("Disabling", "Disabled")
    assert (state("enable", "--uuid", uuid), state("show", uuid)) == ("Enabling", "Enabled")
    before = api("show", uuid)
    assert api("delete", uuid) == {**before, "State": "Deleting"}
    assert api.refused("show", uuid) == not_found("GetEventSourceMapping", uuid)


@pytest.mark.conformance(
    "mappings/created-disabled",
    source="inferred",
    rule="A mapping that is made with Enabled=False answers with Disabled at once (recorded for SQS).",
)
def test_a_mapping_that_is_made_disabled_is_disabled_at_once(api):
    made = api.create("--no-enabled")
    assert (made["State"], api("show", made["UUID"])["State"]) == ("Disabled", "Disabled")


@pytest.mark.conformance(
    "mappings/states-follow-the-run",
    source="ours",
    rule="A state on its way stays until the process that runs the mapping has brought it into effect at the edge of a "
    "batch; where that has ended, it is in effect.",
)
def test_a_state_on_its_way_stays_while_a_process_runs_the_mapping(api):
    uuid = api.create("--name", "mine")["UUID"]
    with Ownership.acquire(api.data / "locks" / uuid):
        assert api("update", "mine", "--batch-size", 5)["State"] == "Updating"
        assert api("show", "mine")["State"] == "Updating"
        assert api("delete", "mine")["State"] == "Deleting"
        assert api("show", "mine")["State"] == "Deleting"
        assert api.refused("update", "mine", "--enabled") == refusal(
            "ResourceInUseException", UPDATE, "Cannot update the event source mapping because it is in use."
        )
    assert "does not exist" in api.refused("show", "mine")  # the process ended before it could
    assert api("list") == {"EventSourceMappings": []}
    assert api.create("--name", "mine")["State"] == "Creating"


@pytest.mark.conformance(
    "mappings/update-shows-the-new-function",
    source="recorded",
    rule="The answer to an update shows the new FunctionArn already; what the update does not name stays.",
)
def test_an_update_answers_with_what_is_new_and_keeps_the_rest(api):
    made = api.create("--batch-size", 7, "--maximum-retry-attempts", 3)
    new = api("update", made["UUID"], "--function-name", "other.handler", "--maximum-retry-attempts", 4)
    assert new["FunctionArn"].endswith(":other-handler")
    changed = {"FunctionArn", "LastModified", "MaximumRetryAttempts", "State"}
    assert {key for key in made if made[key] != new[key]} - {"LastModified"} == changed - {"LastModified"}
    assert new["LastModified"] >= made["LastModified"]


def test_an_update_takes_failure_settings_away_again(api):
    uuid = api.create("--destination-config", "OnFailure={Destination=f}", "--function-response-types",
                      "ReportBatchItemFailures", "--bisect-batch-on-function-error")["UUID"]  # fmt: skip
    plain = api("update", uuid, "--destination-config", '{"OnFailure": {}}', "--function-response-types", "[]",
                "--no-bisect-batch-on-function-error", "--maximum-record-age-in-seconds", "-1")  # fmt: skip
    assert (plain["DestinationConfig"], plain["FunctionResponseTypes"]) == ({"OnFailure": {}}, [])
    assert plain["BisectBatchOnFunctionError"] is False


@pytest.mark.conformance(
    "mappings/list-does-not-validate",
    source="recorded",
    rule="A list by a function or stream that does not exist is empty, not refused.",
)
def test_a_list_of_what_does_not_exist_is_empty(api, streams):
    assert api("list") == {"EventSourceMappings": []}
    first, second = api.create()["UUID"], api.create(stream="d")["UUID"]

    def listed(*arguments):
        return [one["UUID"] for one in api("list", *arguments)["EventSourceMappings"]]

    assert listed() == [first, second]
    assert listed("--event-source-arn", streams["d"].arn) == listed("--event-source-arn", "d") == [second]
    assert listed("--function-name", "app.handler") == listed("--max-items", 2) == [first, second]
    assert listed("--function-name", "arn:aws:lambda:us-east-1:000000000000:function:app-handler") == [first, second]
    assert listed("--max-items", 1) == [first]
    assert listed("--function-name", "no.such") == listed("--event-source-arn", "no-such") == []


# ---- refusals

NULL = "Value null at 'startingPosition' failed to satisfy constraint: Member must not be null."
ENUM = (
    "Value 'invalid' at 'startingPosition' failed to satisfy constraint: "
    "Member must satisfy enum value set: [LATEST, AT_TIMESTAMP, TRIM_HORIZON]"
)


@pytest.mark.conformance(
    "mappings/unknown-uuid", source="recorded", rule="A UUID that is not known is not found, in these words."
)
@pytest.mark.parametrize("made", [False, True], ids=["no store", "a store"])
@pytest.mark.parametrize(("command", "operation"), [("show", "Get"), ("update", "Update"), ("delete", "Delete")])
def test_an_unknown_uuid_is_not_found(api, command, operation, made):
    if made:
        api.create()
    unknown = "1c5f2b1e-0000-4000-8000-000000000000"
    assert api.refused(command, unknown) == not_found(f"{operation}EventSourceMapping", unknown)


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        pytest.param(
            ("--function-name", "app.handler", "--starting-position", "LATEST"),
            "InvalidParameterValueException",
            "Unrecognized event source.",
            id="without an event source",
            marks=pytest.mark.conformance(
                "mappings/no-event-source", source="recorded", rule="Without an event source there is no mapping."
            ),
        ),
        pytest.param(
            (*SOURCE, "arn:aws:sqs:us-east-1:000000000000:q", "--starting-position", "LATEST"),
            "InvalidParameterValueException",
            "Unrecognized event source.",
            id="another service's ARN",
        ),
        pytest.param(
            (*SOURCE, "s"),
            "InvalidParameterValueException",
            f"1 validation error detected: {NULL}",
            id="without a starting position",
            marks=pytest.mark.conformance(
                "mappings/no-starting-position", source="recorded", rule="A stream's mapping needs a StartingPosition."
            ),
        ),
        pytest.param(
            (*SOURCE, "s", "--starting-position", "invalid"),
            "ValidationException",
            f"1 validation error detected: {ENUM}",
            id="an unknown starting position",
            marks=pytest.mark.conformance(
                "mappings/unknown-starting-position", source="recorded", rule="An unknown StartingPosition is refused."
            ),
        ),
        pytest.param(
            (*SOURCE, "nowhere", "--starting-position", "LATEST"),
            "InvalidParameterValueException",
            "Stream not found: arn:aws:kinesis:us-east-1:000000000000:stream/nowhere",
            id="no such stream",
            marks=pytest.mark.conformance(
                "mappings/stream-not-found", source="recorded", rule="A stream that is not there is named by its ARN."
            ),
        ),
        pytest.param(
            (*SOURCE, "arn:aws:dynamodb:eu-west-1:123456789012:table/t/stream/x", "--starting-position", "LATEST"),
            "InvalidParameterValueException",
            "Stream not found: arn:aws:dynamodb:eu-west-1:123456789012:table/t/stream/x",
            id="no stream with that ARN",
        ),
        pytest.param(
            (*COMPLETE, "--destination-config", "OnSuccess={Destination=x}"),
            "InvalidParameterValueException",
            "Unsupported DestinationConfig parameter for given event source mapping type.",
            id="OnSuccess",
            marks=pytest.mark.conformance(
                "mappings/on-success", source="recorded", rule="A mapping has no OnSuccess destination."
            ),
        ),
        pytest.param(
            ("--function-name", "no.such", *COMPLETE[2:], "--destination-config", "OnSuccess={Destination=x}"),
            "InvalidParameterValueException",
            "Unsupported DestinationConfig parameter for given event source mapping type.",
            id="OnSuccess is looked at before the function",
        ),
        pytest.param(
            (*COMPLETE, "--cli-input-json", '{"ScalingConfig": {"MaximumConcurrency": 2}}'),
            "InvalidParameterValueException",
            "Unsupported 'scalingConfig' parameter for given event source mapping type.",
            id="a parameter of another source",
            marks=pytest.mark.conformance(
                "mappings/parameters-of-other-sources",
                source="inferred",
                rule="A parameter that is not for streams is refused by name (the form was seen for MSK).",
            ),
        ),
    ],
)  # fmt: skip
def test_a_mapping_is_refused_in_lambdas_words(api, arguments, code, reason):
    assert api.refused("create", *arguments) == refusal(code, CREATE, reason)


@pytest.mark.conformance(
    "mappings/unknown-function", source="recorded", rule="A function that does not exist is refused in these words."
)
@pytest.mark.parametrize("name", ["no.such", "handler", "apps.handler", "app.", ".app", "a//b.c", "no/app.handler"])
def test_a_function_that_does_not_exist_is_refused(api, name):
    line = api.refused("create", "--function-name", name, *COMPLETE[2:])
    assert line.startswith(refusal("InvalidParameterValueException", CREATE, "Function does not exist ("))


@pytest.mark.conformance(
    "mappings/at-timestamp-on-dynamodb",
    source="recorded",
    rule="A DynamoDB stream has no AT_TIMESTAMP.",
)
def test_at_timestamp_on_a_dynamodb_stream_is_refused(api, streams):
    line = api.refused(
        "create", *SOURCE, "d", "--starting-position", "AT_TIMESTAMP", "--starting-position-timestamp", 5
    )
    reason = f"Unsupported starting position for arn type: {streams['d'].arn}"
    assert line == refusal("InvalidParameterValueException", CREATE, reason)


@pytest.mark.conformance(
    "mappings/duplicates",
    source="recorded",
    rule="A second mapping of the same function on the same stream is refused, with spaces inside the parentheses; "
    "another function is not.",
)
def test_a_duplicate_is_refused_in_the_recorded_words_with_their_spaces(api, streams):
    uuid = api.create()["UUID"]
    reason = (
        f'The event source arn (" {streams["s"].arn} ") and function (" app-handler ") provided mapping already exists.'
        f" Please update or delete the existing mapping with UUID {uuid}"
    )
    assert api.refused("create", *COMPLETE) == refusal("ResourceConflictException", CREATE, reason)
    other = api("create", "--function-name", "other.handler", *COMPLETE[2:])["UUID"]
    line = api.refused("update", other, "--function-name", "app.handler")
    assert line == refusal("ResourceConflictException", UPDATE, reason)
    api("delete", uuid)
    api.create()


def test_of_several_who_make_the_same_at_once_one_succeeds(api, streams, tmp_path):
    ready, ends = threading.Barrier(6), []

    def make():
        with Store.open(api.data / "state.db", create=True) as store:
            mappings = Mappings(DataDir.open(api.data, create=False), lambda: store, tmp_path)
            ready.wait()
            try:
                ends.append(mappings.create(asked)["State"])
            except ServiceRefused as error:
                ends.append(error.code)

    asked = {"FunctionName": "app.handler", "EventSourceArn": "s", "StartingPosition": "LATEST"}
    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["Creating"] + ["ResourceConflictException"] * 5
    assert len(api.stored()) == 1


RANGES = [
    ("--batch-size", "batchSize", 1, 10_000),
    ("--maximum-batching-window-in-seconds", "maximumBatchingWindowInSeconds", 0, 300),
    ("--parallelization-factor", "parallelizationFactor", 1, 10),
    ("--maximum-record-age-in-seconds", "maximumRecordAgeInSeconds", -1, 604_800),
    ("--maximum-retry-attempts", "maximumRetryAttempts", -1, 10_000),
    ("--tumbling-window-in-seconds", "tumblingWindowInSeconds", 0, 900),
]


@pytest.mark.conformance(
    "mappings/ranges",
    source="documented",
    rule="Values out of the range of the service's model are refused in the form that it has for such values.",
)
@pytest.mark.parametrize("operation", [CREATE, UPDATE])
@pytest.mark.parametrize(("option", "member", "least", "most"), RANGES, ids=[row[1] for row in RANGES])
def test_a_value_out_of_its_range_is_refused_in_the_service_s_form(api, option, member, least, most, operation):
    command = ("create", *COMPLETE) if operation == CREATE else ("update", api.create()["UUID"])
    for value, rule in ((least - 1, f"greater than or equal to {least}"), (most + 1, f"less than or equal to {most}")):
        said = f"Value '{value}' at '{member}' failed to satisfy constraint: Member must have value {rule}"
        line = api.refused(*command, option, value)
        assert line == refusal("ValidationException", operation, f"1 validation error detected: {said}")


def test_several_values_out_of_range_are_told_at_once(api):
    line = api.refused("create", *COMPLETE, "--batch-size", 0, "--parallelization-factor", 11)
    assert "2 validation errors detected: Value '0' at 'batchSize'" in line
    assert "; Value '11' at 'parallelizationFactor'" in line


@pytest.mark.conformance(
    "mappings/response-types", source="documented", rule="At most one FunctionResponseTypes, ReportBatchItemFailures."
)
def test_another_response_type_is_refused(api):
    line = api.refused("create", *COMPLETE, "--function-response-types", "Report")
    assert "'functionResponseTypes' failed to satisfy constraint" in line
    assert "[ReportBatchItemFailures]" in line


@pytest.mark.conformance(
    "mappings/lengths",
    source="documented",
    rule="Texts that are longer than the service's model allows are refused in its form: patterns 4,096 characters, "
    "destinations 350, function names 256.",
)
@pytest.mark.parametrize(
    ("arguments", "member", "most"),
    [
        pytest.param(
            ("--filter-criteria", json.dumps({"Filters": [{"Pattern": "x" * 4097}]})),
            "filterCriteria.filters.1.member.pattern", 4096, id="pattern",
        ),
        pytest.param(
            ("--destination-config", f"OnFailure={{Destination={'x' * 351}}}"),
            "destinationConfig.onFailure.destination", 350, id="destination",
        ),
        pytest.param(("--function-name", "x." + "y" * 255), "functionName", 256, id="function"),
    ],
)  # fmt: skip
def test_a_text_that_is_too_long_is_refused_in_the_service_s_form(api, arguments, member, most):
    line = api.refused("create", *COMPLETE, *arguments)
    assert line.startswith(refusal("ValidationException", CREATE, "1 validation error detected: Value '"))
    rule = f"Member must have length less than or equal to {most}"
    assert line.endswith(f"' at '{member}' failed to satisfy constraint: {rule}")


@pytest.mark.parametrize("name", ["a b", "arn:aws:nonsense", "arn:aws:kinesis:us-east-1:12:stream/s", "x" * 129, "s/t"])
def test_an_event_source_that_is_neither_name_nor_arn_is_refused_with_the_pattern(api, name):
    line = api.refused("create", *SOURCE, name, "--starting-position", "LATEST")
    assert "at 'eventSourceArn' failed to satisfy constraint: Member must satisfy regular expression pattern" in line


def test_metrics_are_those_of_the_model(api):
    line = api.refused("create", *COMPLETE, "--metrics-config", "Metrics=[Everything]")
    assert "[EventCount, ErrorCount, KafkaMetrics]" in line


@pytest.mark.conformance(
    "mappings/shapes-of-the-model",
    source="documented",
    rule="Parameters and answers are those of the service's model, and botocore reads them; two parameters are ours.",
)
def test_parameters_and_answers_are_those_of_the_service_s_model(api):
    session = pytest.importorskip("botocore.session").get_session()
    model = session.get_service_model("lambda")

    def members(shape):
        return set(model.shape_for(shape).members)

    assert set(request.CREATE) - members("CreateEventSourceMappingRequest") == {"Name", "FiltersMax"}
    assert members("CreateEventSourceMappingRequest") <= set(request.CREATE)
    assert set(request.UPDATE) ^ members("UpdateEventSourceMappingRequest") == {"FiltersMax"}
    whole = api.create(
        "--filter-criteria", f"Filters=[{{Pattern='{PATTERN}'}}]", "--metrics-config", "Metrics=[EventCount]"
    )
    assert set(whole) <= members("EventSourceMappingConfiguration")
    operation = model.operation_model(CREATE)
    body = {"status_code": 202, "headers": {}, "body": json.dumps(whole).encode()}
    parsed = botocore_parser(session, model).parse(body, operation.output_shape)
    assert parsed["LastModified"].timestamp() == pytest.approx(whole["LastModified"], abs=0.001)
    assert {key: value for key, value in parsed.items() if key not in ("LastModified", "ResponseMetadata")} == {
        key: value for key, value in whole.items() if key != "LastModified"
    }


def botocore_parser(session, model):
    return session.get_component("response_parser_factory").create_parser(model.protocol)


@pytest.mark.conformance(
    "mappings/record-age-below-a-minute",
    source="documented",
    rule="MaximumRecordAgeInSeconds is -1 or at least 60; the model would allow less, the words for it are ours.",
)
@pytest.mark.parametrize("age", [0, 59])
def test_a_record_age_below_a_minute_is_refused(api, age):
    assert "60 to 604800, or -1" in api.refused("create", *COMPLETE, "--maximum-record-age-in-seconds", age)


@pytest.mark.conformance(
    "mappings/window-and-factor",
    source="inferred",
    rule="A tumbling window needs a ParallelizationFactor of 1; nobody has recorded Lambda's words.",
)
def test_a_window_with_a_factor_is_refused_also_by_an_update(api):
    both = ("--tumbling-window-in-seconds", 60, "--parallelization-factor", 2)
    assert "needs a 'parallelizationFactor' of 1, not 2" in api.refused("create", *COMPLETE, *both)
    uuid = api.create(*both[:2])["UUID"]
    assert "needs a 'parallelizationFactor' of 1, not 2" in api.refused("update", uuid, *both[2:])


@pytest.mark.conformance(
    "mappings/filters-at-most",
    source="documented",
    rule="A mapping has at most 5 filters, or 10 when that is asked for (AWS: a raised quota); the words are ours.",
)
def test_there_are_at_most_five_filters_or_ten_when_asked(api):
    six = json.dumps({"Filters": [{"Pattern": PATTERN}] * 6})
    assert "at most 5 filters, not 6" in api.refused("create", *COMPLETE, "--filter-criteria", six)
    made = api.create("--filter-criteria", six, "--filters-max", 10)
    assert len(made["FilterCriteria"]["Filters"]) == 6


BROKEN_PATTERNS = ["null", '"text"', '{"eventSource": "aws:sqs"}', '{"eventSource": []}', '{"eventSource": ["aws:sqs"']


@pytest.mark.parametrize("operation", [CREATE, UPDATE])
@pytest.mark.parametrize("pattern", BROKEN_PATTERNS)
@pytest.mark.conformance(
    "mappings/bad-filter-pattern",
    source="recorded",
    rule="A pattern that is none (`null`, a text, a value that is no list, an empty list, broken JSON) is refused at "
    "creation and by an update, with `Invalid filter pattern definition.`; an explanation of ours follows.",
)
def test_a_filter_pattern_that_is_none_is_refused(api, pattern, operation):
    command = ("create", *COMPLETE) if operation == CREATE else ("update", api.create()["UUID"])
    line = api.refused(*command, "--filter-criteria", json.dumps({"Filters": [{"Pattern": pattern}]}))
    assert line.startswith(refusal("InvalidParameterValueException", operation, "Invalid filter pattern definition."))


@pytest.mark.parametrize("stamp", ["4102444800", "2100-01-01T00:00:00Z"])
@pytest.mark.conformance(
    "mappings/timestamp-not-in-the-future",
    source="documented",
    rule="StartingPositionTimestamp is not in the future, and goes with AT_TIMESTAMP.",
)
def test_a_timestamp_lies_in_the_past_and_goes_with_at_timestamp(api, stamp):
    at = ("--starting-position", "AT_TIMESTAMP")
    assert "is not between 1970 and now" in api.refused(
        "create", *SOURCE, "s", *at, "--starting-position-timestamp", stamp
    )
    assert "needs a starting position timestamp" in api.refused("create", *SOURCE, "s", *at)
    for number in ("NaN", "Infinity", "1e308", "-1"):
        request = f'{{"StartingPositionTimestamp": {number}}}'
        assert "is not between 1970 and now" in api.refused("create", *SOURCE, "s", *at, "--cli-input-json", request)
    assert "goes with AT_TIMESTAMP" in api.refused("create", *COMPLETE, "--starting-position-timestamp", 5)


@pytest.mark.conformance(
    "mappings/update-takes-no-position",
    source="documented",
    rule="An update takes everything but the event source, the starting position and tags.",
)
@pytest.mark.parametrize(
    "name", ["EventSourceArn", "StartingPosition", "StartingPositionTimestamp", "Topics", "Queues"]
)
def test_an_update_does_not_take_what_only_create_does(api, name):
    uuid = api.create()["UUID"]
    line = api.refused("update", uuid, "--cli-input-json", json.dumps({name: "x"}))
    assert line.startswith(f'Parameter validation failed: Unknown parameter in input: "{name}", must be one of: UUID, ')


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "takes a JSON object"),
        ("file:///nowhere/x.json", "cannot read /nowhere/x.json: No such file"),
        ('{"Batchsize": 1}', 'Unknown parameter in input: "Batchsize", must be one of: EventSourceArn, '),
        ('{"BatchSize": "1"}', "Invalid type for parameter BatchSize, value: 1, type: <class 'str'>"),
        ('{"BatchSize": true}', "Invalid type for parameter BatchSize, value: True"),
        ('{"Enabled": 1}', "Invalid type for parameter Enabled"),
        ('{"FilterCriteria": []}', "Invalid type for parameter FilterCriteria"),
        ('{"FilterCriteria": {"Filters": [{"Pattern": 1}]}}', "parameter FilterCriteria.Filters[0].Pattern, value: 1"),
        (
            '{"FilterCriteria": {"Filter": []}}',
            'Unknown parameter in FilterCriteria: "Filter", must be one of: Filters',
        ),
        ('{"FunctionResponseTypes": "x"}', "Invalid type for parameter FunctionResponseTypes"),
        ('{"StartingPositionTimestamp": "noon"}', "--starting-position-timestamp: "),
        ('{"Tags": {"a": 1}}', "Invalid type for parameter Tags.a, value: 1"),
        ("{}", 'Missing required parameter in input: "FunctionName"'),
    ],
)
def test_a_request_that_is_none_is_refused_with_what_is_wrong(api, text, reason):
    arguments = ("--event-source-arn", "s", "--starting-position", "LATEST", "--cli-input-json", text)
    assert reason in api.refused("create", *arguments, *(() if text == "{}" else ("--function-name", "app.handler")))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--destination-config", "OnFailure={Destination=a b}"), "on-failure destination 'a b' is not valid"),
        (("--destination-config", "OnFailure={Destination=arn:aws:ec2:us-east-1:000000000000:x}"), "arn:aws:ec2"),
        (("--destination-config", "OnFailure={Destination=d}"), "'d'"),
        (("--destination-config", "OnFailure={Destination=s}"), "is the stream that the mapping reads"),
        (("--destination-config", "OnFailure={Destination=arn:aws:sqs:us-east-1:000000000000:q.fifo}"), "FIFO"),
        (
            ("--destination-config", "OnFailure"),
            "neither JSON nor the AWS CLI's shorthand: expected '=' at character 10",
        ),
        (("--filter-criteria", "{"), "--filter-criteria: '{' is not JSON"),
        (("--name", ""), "mapping name '' is not valid"),
    ],
)
def test_what_cannot_be_meant_is_refused(api, arguments, reason):
    assert reason in api.refused("create", *COMPLETE, *arguments)


def test_a_name_is_taken_once(api):
    api.create("--name", "mine")
    line = api.refused("create", "--function-name", "other.handler", *COMPLETE[2:], "--name", "mine")
    assert "there is a mapping named 'mine'" in line


@pytest.mark.parametrize("arguments", [("show",), ("show", "a", "--uuid", "b"), ("update", "--batch-size", "3")])
def test_one_mapping_has_to_be_named(api, arguments):
    code, out, err = api.said(*arguments)
    assert (code, out) == (2, "")
    assert "name one mapping" in err


def test_without_a_data_directory_answers_are_those_of_an_empty_account_and_nothing_is_made(api):
    api.data = api.data.parent / "none"
    missing = "Stream not found: arn:aws:kinesis:us-east-1:000000000000:stream/s"
    assert api.refused("create", *COMPLETE) == refusal("InvalidParameterValueException", CREATE, missing)
    unrecognized = refusal("InvalidParameterValueException", CREATE, "Unrecognized event source.")
    assert api.refused("create", "--function-name", "app.handler") == unrecognized
    assert api.refused("show", "x") == not_found("GetEventSourceMapping", "x")
    assert api.refused("disable", "x") == not_found(UPDATE, "x")
    assert api("list") == {"EventSourceMappings": []}
    assert not api.data.exists()
