#include "dynamodb.h"

#include "sf_layout.h"

/* The keys, interned: a dict finds an interned key by its address, and its hash is already computed. */
static struct {
    PyObject *event_id, *event_name, *event_version, *event_source, *region, *dynamodb, *user_identity, *source_arn;
    PyObject *creation, *keys, *new_image, *old_image, *sequence_number, *size_bytes, *view_type;
} names;

static PyObject *orjson_loads;

int sf_dynamodb_init(void) {
    const sf_name all[] = {
        {&names.event_id, "eventID"},
        {&names.event_name, "eventName"},
        {&names.event_version, "eventVersion"},
        {&names.event_source, "eventSource"},
        {&names.region, "awsRegion"},
        {&names.dynamodb, "dynamodb"},
        {&names.user_identity, "userIdentity"},
        {&names.source_arn, "eventSourceARN"},
        {&names.creation, "ApproximateCreationDateTime"},
        {&names.keys, "Keys"},
        {&names.new_image, "NewImage"},
        {&names.old_image, "OldImage"},
        {&names.sequence_number, "SequenceNumber"},
        {&names.size_bytes, "SizeBytes"},
        {&names.view_type, "StreamViewType"},
    };
    return sf_intern(all, sizeof(all) / sizeof(all[0]));
}

/* ---- templates ---- */

static int import_orjson(void) {
    if (orjson_loads == NULL) {
        PyObject *module = PyImport_ImportModule("orjson");
        orjson_loads = module == NULL ? NULL : PyObject_GetAttrString(module, "loads");
        Py_XDECREF(module);
    }
    return orjson_loads == NULL ? -1 : 0;
}

static int fill_record(PyObject *record, bool with_user, PyObject *arn, PyObject *region) {
    if (PyDict_SetItem(record, names.event_id, Py_None) < 0 || PyDict_SetItem(record, names.event_name, Py_None) < 0 ||
        PyDict_SetItem(record, names.event_version, Py_None) < 0 ||
        sf_put_constant(record, names.event_source, "aws:dynamodb") < 0 ||
        PyDict_SetItem(record, names.region, region) < 0 || PyDict_SetItem(record, names.dynamodb, Py_None) < 0 ||
        (with_user && PyDict_SetItem(record, names.user_identity, Py_None) < 0) ||
        PyDict_SetItem(record, names.source_arn, arn) < 0) {
        return -1;
    }
    return 0;
}

static int fill_dynamodb(PyObject *dynamodb, int with) {
    if (PyDict_SetItem(dynamodb, names.creation, Py_None) < 0 || PyDict_SetItem(dynamodb, names.keys, Py_None) < 0 ||
        ((with & SF_WITH_NEW) && PyDict_SetItem(dynamodb, names.new_image, Py_None) < 0) ||
        ((with & SF_WITH_OLD) && PyDict_SetItem(dynamodb, names.old_image, Py_None) < 0) ||
        PyDict_SetItem(dynamodb, names.sequence_number, Py_None) < 0 ||
        PyDict_SetItem(dynamodb, names.size_bytes, Py_None) < 0 ||
        PyDict_SetItem(dynamodb, names.view_type, Py_None) < 0) {
        return -1;
    }
    return 0;
}

int sf_change_templates_init(sf_change_templates *templates, PyObject *arn, PyObject *region) {
    if (import_orjson() < 0) {
        return -1;
    }
    for (int with = 0; with < 2; with++) {
        templates->record[with] = PyDict_New();
        if (templates->record[with] == NULL || fill_record(templates->record[with], with, arn, region) < 0) {
            return -1;
        }
    }
    for (int with = 0; with < 4; with++) {
        templates->dynamodb[with] = PyDict_New();
        if (templates->dynamodb[with] == NULL || fill_dynamodb(templates->dynamodb[with], with) < 0) {
            return -1;
        }
    }
    return 0;
}

void sf_change_templates_clear(sf_change_templates *templates) {
    for (int with = 0; with < 2; with++) {
        Py_CLEAR(templates->record[with]);
    }
    for (int with = 0; with < 4; with++) {
        Py_CLEAR(templates->dynamodb[with]);
    }
}

/* ---- columns ---- */

/* The columns of the message, and how many rows it has. */
typedef struct {
    const uint8_t *base;
    uint64_t rows;
    sf_column column[SF_COLUMNS_MAX];
} columns;

static bool open_columns(columns *to, const sf_extent *extent, sf_span segment) {
    to->base = segment.base;
    to->rows = extent->column[SF_BODY_ROWS];
    return sf_find_columns(segment.base, segment.size, extent->column[SF_BODY], to->rows, &sf_layout_table[SF_DYNAMODB],
                           to->column);
}

static bool cut_text(const columns *from, unsigned number, uint64_t row, sf_slice *to) {
    const sf_column *column = &from->column[number];
    const sf_texts texts = {from->base + column->offsets, from->base + column->values, (uint32_t)column->bytes};
    return sf_cut(&texts, row, to);
}

static int64_t load_int64(const columns *from, unsigned number, uint64_t row) {
    int64_t value;
    memcpy(&value, from->base + from->column[number].values + 8 * row, sizeof(value));
    return value;
}

static bool has(const columns *from, unsigned number, uint64_t row) {
    return sf_valid(from->base, &from->column[number], row);
}

/* ---- values ---- */

static PyObject *new_text(const columns *from, unsigned number, uint64_t row) {
    sf_slice text;
    if (!cut_text(from, number, row, &text)) {
        sf_out_of_bounds();
        return NULL;
    }
    return sf_new_text(text);
}

/* A document that is stored as JSON text.  It is copied first: orjson looks at it twice. */
static PyObject *new_document(const columns *from, unsigned number, uint64_t row) {
    sf_slice text;
    if (!cut_text(from, number, row, &text)) {
        sf_out_of_bounds();
        return NULL;
    }
    PyObject *copy = PyBytes_FromStringAndSize((const char *)text.bytes, text.length);
    PyObject *made = copy == NULL ? NULL : PyObject_CallOneArg(orjson_loads, copy);
    Py_XDECREF(copy);
    return made;
}

static PyObject *new_dynamodb(const columns *from, uint64_t row, const sf_change_templates *templates) {
    bool with_new = has(from, SF_NEW_IMAGE, row), with_old = has(from, SF_OLD_IMAGE, row);
    double creation_s = (double)load_int64(from, SF_CREATION, row) / 1000.0;
    PyObject *made = PyDict_Copy(templates->dynamodb[with_new * SF_WITH_NEW | with_old * SF_WITH_OLD]);
    if (made == NULL) {
        return NULL;
    }
    if (sf_put(made, names.creation, PyFloat_FromDouble(creation_s)) < 0 ||
        sf_put(made, names.keys, new_document(from, SF_KEYS, row)) < 0 ||
        (with_new && sf_put(made, names.new_image, new_document(from, SF_NEW_IMAGE, row)) < 0) ||
        (with_old && sf_put(made, names.old_image, new_document(from, SF_OLD_IMAGE, row)) < 0) ||
        sf_put(made, names.sequence_number, new_text(from, SF_CHANGE_SEQUENCE, row)) < 0 ||
        sf_put(made, names.size_bytes, PyLong_FromLongLong(load_int64(from, SF_SIZE_BYTES, row))) < 0 ||
        sf_put(made, names.view_type, new_text(from, SF_VIEW_TYPE, row)) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}

static PyObject *new_record(const columns *from, uint64_t row, const sf_change_templates *templates) {
    if (row >= from->rows) {
        sf_out_of_bounds();
        return NULL;
    }
    bool with_user = has(from, SF_USER_IDENTITY, row);
    PyObject *made = PyDict_Copy(templates->record[with_user]);
    if (made == NULL) {
        return NULL;
    }
    if (sf_put(made, names.event_id, new_text(from, SF_EVENT_ID, row)) < 0 ||
        sf_put(made, names.event_name, new_text(from, SF_EVENT_NAME, row)) < 0 ||
        sf_put(made, names.event_version, new_text(from, SF_EVENT_VERSION, row)) < 0 ||
        sf_put(made, names.dynamodb, new_dynamodb(from, row, templates)) < 0 ||
        (with_user && sf_put(made, names.user_identity, new_document(from, SF_USER_IDENTITY, row)) < 0)) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}

int sf_dynamodb_fill(PyObject *records, Py_ssize_t at, const sf_extent *extent, sf_rows rows, sf_span segment,
                     const sf_change_templates *templates) {
    columns from;
    if (!open_columns(&from, extent, segment)) {
        return sf_out_of_bounds();
    }
    for (uint32_t i = 0; i < extent->rows; i++) {
        PyObject *record = new_record(&from, sf_row(rows, i), templates);
        if (record == NULL) {
            return -1;
        }
        PyList_SET_ITEM(records, at + i, record);
    }
    return 0;
}
