#include "kinesis.h"

#include <stdbool.h>
#include <string.h>

/* The keys, interned: a dict finds an interned key by its address, and its hash is already computed. */
static struct {
    PyObject *kinesis, *event_source, *event_version, *event_id, *event_name, *identity_arn, *region, *source_arn;
    PyObject *schema_version, *partition_key, *sequence_number, *data, *arrival;
} names;

static const sf_base64_encoder *base64;

int sf_kinesis_init(const sf_base64_encoder *encoder) {
    const struct {
        PyObject **at;
        const char *text;
    } all[] = {
        {&names.kinesis, "kinesis"},
        {&names.event_source, "eventSource"},
        {&names.event_version, "eventVersion"},
        {&names.event_id, "eventID"},
        {&names.event_name, "eventName"},
        {&names.identity_arn, "invokeIdentityArn"},
        {&names.region, "awsRegion"},
        {&names.source_arn, "eventSourceARN"},
        {&names.schema_version, "kinesisSchemaVersion"},
        {&names.partition_key, "partitionKey"},
        {&names.sequence_number, "sequenceNumber"},
        {&names.data, "data"},
        {&names.arrival, "approximateArrivalTimestamp"},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if ((*all[i].at = PyUnicode_InternFromString(all[i].text)) == NULL) {
            return -1;
        }
    }
    base64 = encoder;
    return 0;
}

/* ---- templates ---- */

static int set_text(PyObject *dict, PyObject *key, const char *text) {
    PyObject *value = PyUnicode_InternFromString(text);
    if (value == NULL) {
        return -1;
    }
    int done = PyDict_SetItem(dict, key, value);
    Py_DECREF(value);
    return done;
}

static int fill_templates(sf_templates *templates, PyObject *arn, PyObject *region, PyObject *identity_arn) {
    PyObject *record = templates->record, *kinesis = templates->kinesis;
    if (PyDict_SetItem(record, names.kinesis, Py_None) < 0 ||
        set_text(record, names.event_source, "aws:kinesis") < 0 ||
        set_text(record, names.event_version, "1.0") < 0 ||
        PyDict_SetItem(record, names.event_id, Py_None) < 0 ||
        set_text(record, names.event_name, "aws:kinesis:record") < 0 ||
        PyDict_SetItem(record, names.identity_arn, identity_arn) < 0 ||
        PyDict_SetItem(record, names.region, region) < 0 ||
        PyDict_SetItem(record, names.source_arn, arn) < 0) {
        return -1;
    }
    if (set_text(kinesis, names.schema_version, "1.0") < 0 ||
        PyDict_SetItem(kinesis, names.partition_key, Py_None) < 0 ||
        PyDict_SetItem(kinesis, names.sequence_number, Py_None) < 0 ||
        PyDict_SetItem(kinesis, names.data, Py_None) < 0 ||
        PyDict_SetItem(kinesis, names.arrival, Py_None) < 0) {
        return -1;
    }
    return 0;
}

int sf_templates_init(sf_templates *templates, PyObject *arn, PyObject *region, PyObject *shard_id,
                      PyObject *identity_arn) {
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(shard_id, &length);
    if (text == NULL) {
        return -1;
    }
    if (!PyUnicode_IS_ASCII(shard_id) || length >= SF_ID_PREFIX_BYTES) {
        PyErr_Format(PyExc_ValueError, "a shard id is ASCII and shorter than %d characters, not %R", SF_ID_PREFIX_BYTES,
                     shard_id);
        return -1;
    }
    memcpy(templates->prefix, text, (size_t)length);
    templates->prefix[length] = ':';
    templates->prefix_bytes = (size_t)length + 1;
    templates->record = PyDict_New();
    templates->kinesis = PyDict_New();
    if (templates->record == NULL || templates->kinesis == NULL) {
        return -1;
    }
    return fill_templates(templates, arn, region, identity_arn);
}

void sf_templates_clear(sf_templates *templates) {
    Py_CLEAR(templates->record);
    Py_CLEAR(templates->kinesis);
}

/* ---- columns ---- */

/* A column of variable-length values: `offsets` of the extent's first row, and how far `bytes` may be read. */
typedef struct {
    const uint8_t *offsets;
    const uint8_t *bytes;
    uint32_t limit;
} column;

typedef struct {
    const uint8_t *bytes;
    uint32_t length;
} slice;

typedef struct {
    column sequence, key, data;
    const uint8_t *arrivals;
} columns;

static int out_of_bounds(void) {
    PyErr_SetString(PyExc_ValueError, "a column leaves its segment, or its offsets decrease");
    return -1;
}

static bool open_column(column *to, const sf_extent *extent, int offsets, sf_span segment) {
    /* first_row and rows are 32 bits wide: no overflow in 64. */
    uint64_t skipped = (uint64_t)extent->first_row * 4;
    uint64_t needed = skipped + ((uint64_t)extent->rows + 1) * 4;
    uint64_t at = extent->column[offsets], bytes_at = extent->column[offsets + 1];
    if (at > segment.size || needed > segment.size - at || bytes_at > segment.size) {
        return false;
    }
    uint64_t limit = segment.size - bytes_at;
    to->offsets = segment.base + at + skipped;
    to->bytes = segment.base + bytes_at;
    to->limit = limit < INT32_MAX ? (uint32_t)limit : INT32_MAX;
    return true;
}

static bool open_columns(columns *to, const sf_extent *extent, sf_span segment) {
    uint64_t skipped = (uint64_t)extent->first_row * 8;
    uint64_t needed = skipped + (uint64_t)extent->rows * 8;
    uint64_t at = extent->column[SF_ARRIVAL];
    if (at > segment.size || needed > segment.size - at) {
        return false;
    }
    to->arrivals = segment.base + at + skipped;
    return open_column(&to->sequence, extent, SF_SEQUENCE_OFFSETS, segment) &&
           open_column(&to->key, extent, SF_KEY_OFFSETS, segment) &&
           open_column(&to->data, extent, SF_DATA_OFFSETS, segment);
}

/* A negative offset reads as one above every limit. */
static inline bool cut(const column *from, uint32_t row, slice *to) {
    uint32_t ends[2];
    memcpy(ends, from->offsets + (size_t)row * 4, sizeof(ends));
    if (ends[0] > ends[1] || ends[1] > from->limit) {
        return false;
    }
    *to = (slice){from->bytes + ends[0], ends[1] - ends[0]};
    return true;
}

/* ---- values ---- */

static inline bool is_ascii(slice text) {
    uint64_t word, seen = 0;
    uint32_t i = 0;
    for (; i + 8 <= text.length; i += 8) {
        memcpy(&word, text.bytes + i, 8);
        seen |= word;
    }
    for (; i < text.length; i++) {
        seen |= text.bytes[i];
    }
    return (seen & 0x8080808080808080) == 0;
}

/* A new str of ASCII characters; `prefix` goes before `text`. */
static inline PyObject *new_ascii(const uint8_t *prefix, size_t prefix_bytes, slice text) {
    PyObject *made = PyUnicode_New((Py_ssize_t)(prefix_bytes + text.length), 127);
    if (made != NULL) {
        uint8_t *to = PyUnicode_1BYTE_DATA(made);
        memcpy(to, prefix, prefix_bytes);
        memcpy(to + prefix_bytes, text.bytes, text.length);
    }
    return made;
}

static inline PyObject *new_key(slice text) {
    static const uint8_t nothing[1];
    if (is_ascii(text)) {
        return new_ascii(nothing, 0, text);
    }
    return PyUnicode_DecodeUTF8((const char *)text.bytes, text.length, "strict");
}

static inline PyObject *new_base64(slice data) {
    PyObject *made = PyUnicode_New((Py_ssize_t)sf_base64_length(data.length), 127);
    if (made != NULL) {
        base64->encode(PyUnicode_1BYTE_DATA(made), data.bytes, data.length);
    }
    return made;
}

/* Takes `value` over, which may be NULL (with an exception set). */
static inline int put(PyObject *dict, PyObject *key, PyObject *value) {
    if (value == NULL) {
        return -1;
    }
    int done = PyDict_SetItem(dict, key, value);
    Py_DECREF(value);
    return done;
}

static PyObject *new_kinesis(const sf_templates *templates, slice sequence, slice key, slice data, double arrival_s) {
    static const uint8_t nothing[1];
    PyObject *made = PyDict_Copy(templates->kinesis);
    if (made == NULL) {
        return NULL;
    }
    if (put(made, names.partition_key, new_key(key)) < 0 ||
        put(made, names.sequence_number, new_ascii(nothing, 0, sequence)) < 0 ||
        put(made, names.data, new_base64(data)) < 0 ||
        put(made, names.arrival, PyFloat_FromDouble(arrival_s)) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}

static PyObject *new_record(const columns *from, uint32_t row, const sf_templates *templates) {
    slice sequence, key, data;
    int64_t arrival_ms;
    if (!cut(&from->sequence, row, &sequence) || !cut(&from->key, row, &key) || !cut(&from->data, row, &data)) {
        out_of_bounds();
        return NULL;
    }
    if (!is_ascii(sequence)) {
        PyErr_SetString(PyExc_ValueError, "a sequence number is not ASCII");
        return NULL;
    }
    memcpy(&arrival_ms, from->arrivals + (size_t)row * 8, 8);
    PyObject *made = PyDict_Copy(templates->record);
    if (made == NULL) {
        return NULL;
    }
    if (put(made, names.kinesis, new_kinesis(templates, sequence, key, data, (double)arrival_ms / 1000.0)) < 0 ||
        put(made, names.event_id, new_ascii(templates->prefix, templates->prefix_bytes, sequence)) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}

int sf_kinesis_fill(PyObject *records, Py_ssize_t at, const sf_extent *extent, sf_span segment,
                    const sf_templates *templates) {
    columns from;
    if (!open_columns(&from, extent, segment)) {
        return out_of_bounds();
    }
    for (uint32_t row = 0; row < extent->rows; row++) {
        PyObject *record = new_record(&from, row, templates);
        if (record == NULL) {
            return -1;
        }
        PyList_SET_ITEM(records, at + row, record);
    }
    return 0;
}
