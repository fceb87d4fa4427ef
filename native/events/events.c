/*
 * streamfn._events: Lambda events made straight from mapped columns.  streamfn/_events.pyi is its manual; kinesis.c and
 * dynamodb.c make the records, arrow.c record batches of them.  Not for sub-interpreters or free-threaded builds: the interned keys are process-wide.
 */
#include "arrow.h"
#include "dynamodb.h"
#include "kinesis.h"

#include <stddef.h>
#include <structmember.h>
#include <string.h>

/* ---- Source ---- */

typedef struct {
    PyObject_HEAD
    PyObject *arn, *region, *shard_id, *identity_arn;
    bool changes; /* whose records: of a DynamoDB stream, or a Kinesis one */
    union {
        sf_templates kinesis;
        sf_change_templates dynamodb;
    } templates;
} source_object;

static int init_templates(source_object *self) {
    if (self->changes) {
        return sf_change_templates_init(&self->templates.dynamodb, self->arn, self->region);
    }
    return sf_templates_init(&self->templates.kinesis, self->arn, self->region, self->shard_id, self->identity_arn);
}

static PyObject *source_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {"arn", "region", "shard_id", "identity_arn", "kind", NULL};
    PyObject *arn, *region, *shard_id, *identity_arn;
    const char *kind = "kinesis";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "UUUU|s:Source", keywords, &arn, &region, &shard_id, &identity_arn,
                                     &kind)) {
        return NULL;
    }
    if (strcmp(kind, "kinesis") != 0 && strcmp(kind, "dynamodb") != 0) {
        PyErr_Format(PyExc_ValueError, "a source is of kind kinesis or dynamodb, not '%s'", kind);
        return NULL;
    }
    source_object *self = (source_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->arn = Py_NewRef(arn);
    self->region = Py_NewRef(region);
    self->shard_id = Py_NewRef(shard_id);
    self->identity_arn = Py_NewRef(identity_arn);
    self->changes = strcmp(kind, "dynamodb") == 0;
    if (init_templates(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void source_dealloc(source_object *self) {
    if (self->changes) {
        sf_change_templates_clear(&self->templates.dynamodb);
    } else {
        sf_templates_clear(&self->templates.kinesis);
    }
    Py_XDECREF(self->arn);
    Py_XDECREF(self->region);
    Py_XDECREF(self->shard_id);
    Py_XDECREF(self->identity_arn);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef source_members[] = {
    {"arn", T_OBJECT_EX, offsetof(source_object, arn), READONLY, "The stream's ARN."},
    {"region", T_OBJECT_EX, offsetof(source_object, region), READONLY, "The stream's region."},
    {"shard_id", T_OBJECT_EX, offsetof(source_object, shard_id), READONLY, "The shard's id."},
    {"identity_arn", T_OBJECT_EX, offsetof(source_object, identity_arn), READONLY, "The ARN of the function's role."},
    {"changes", T_BOOL, offsetof(source_object, changes), READONLY, "Whether the records are a DynamoDB stream's."},
    {NULL, 0, 0, 0, NULL},
};

/* Not tracked by the collector: nothing a Source holds can refer back to it. */
static PyTypeObject source_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamfn._events.Source",
    .tp_basicsize = sizeof(source_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "What all records of one shard have in common.",
    .tp_new = source_new,
    .tp_dealloc = (destructor)source_dealloc,
    .tp_members = source_members,
};

/* ---- Segment ---- */

typedef struct {
    PyObject_HEAD
    source_object *source;
    unsigned long long address, size;
    sf_pin *pin; /* NULL: the mapping is somebody else's */
} segment_object;

static PyObject *segment_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keywords[] = {"source", "address", "size", "owned", NULL};
    PyObject *source, *address_object, *size_object;
    int owned = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O!|p:Segment", keywords, &source_type, &source, &PyLong_Type,
                                     &address_object, &PyLong_Type, &size_object, &owned)) {
        return NULL;
    }
    unsigned long long address = PyLong_AsUnsignedLongLong(address_object);
    unsigned long long size = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(size_object);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (address == 0 || address + size < address) {
        PyErr_SetString(PyExc_ValueError, "a segment's address is 0, or its size leads out of the address space");
        return NULL;
    }
    segment_object *self = (segment_object *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->source = (source_object *)Py_NewRef(source);
        self->address = address;
        self->size = size;
    }
    if (self != NULL && owned && (self->pin = sf_pin_new((void *)(uintptr_t)address, size)) == NULL) {
        Py_CLEAR(self);
        PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void segment_dealloc(segment_object *self) {
    Py_XDECREF(self->source);
    sf_pin_drop(self->pin);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef segment_members[] = {
    {"source", T_OBJECT_EX, offsetof(segment_object, source), READONLY, "The shard's constants."},
    {"address", T_ULONGLONG, offsetof(segment_object, address), READONLY, "Where the segment is mapped."},
    {"size", T_ULONGLONG, offsetof(segment_object, size), READONLY, "Bytes mapped."},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject segment_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamfn._events.Segment",
    .tp_basicsize = sizeof(segment_object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "A segment of a shard as it is mapped in this process.",
    .tp_new = segment_new,
    .tp_dealloc = (destructor)segment_dealloc,
    .tp_members = segment_members,
};

/* ---- build ---- */

/* A hundred times Lambda's largest batch: keeps a scribbled extent from asking for gigabytes before its rows are checked. */
enum { ROWS_MAX = 1 << 20 };

static PyObject *records_key;

/* Borrowed; NULL with KeyError set for an id that is not there. */
static segment_object *find_segment(PyObject *segments, uint64_t id) {
    PyObject *key = PyLong_FromUnsignedLongLong(id);
    if (key == NULL) {
        return NULL;
    }
    PyObject *found = PyDict_GetItemWithError(segments, key);
    if (found == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetObject(PyExc_KeyError, key);
        }
    } else if (!Py_IS_TYPE(found, &segment_type)) {
        PyErr_Format(PyExc_TypeError, "segment %S is not a Segment", key);
        found = NULL;
    }
    Py_DECREF(key);
    return (segment_object *)found;
}

/* Row numbers that are still to be used, 4 bytes each. */
typedef struct {
    const uint8_t *numbers;
    Py_ssize_t left;
} selection;

/* Takes the rows of an extent; -1 with an exception set where the selection has not so many. */
static int take_rows(const sf_extent *extent, selection *from, sf_rows *rows) {
    *rows = (sf_rows){extent->first_row, NULL};
    if (extent->first_row != SF_SELECTED) {
        return 0;
    }
    if ((Py_ssize_t)extent->rows > from->left) {
        PyErr_SetString(PyExc_ValueError, "the selection has fewer row numbers than its extents want");
        return -1;
    }
    rows->selected = from->numbers;
    from->numbers += (size_t)extent->rows * 4;
    from->left -= extent->rows;
    return 0;
}

static int fill(PyObject *records, Py_ssize_t at, const sf_extent *extent, sf_rows rows, const segment_object *segment) {
    sf_span span = {(const uint8_t *)(uintptr_t)segment->address, segment->size};
    const source_object *source = segment->source;
    if (source->changes) {
        return sf_dynamodb_fill(records, at, extent, rows, span, &source->templates.dynamodb);
    }
    return sf_kinesis_fill(records, at, extent, rows, span, &source->templates.kinesis);
}

/* The extents may lie where a handler can write: each is copied before it is looked at, and the sum is not trusted. */
static PyObject *build_records(const char *extents, Py_ssize_t count, PyObject *segments, selection selected,
                               Py_ssize_t rows) {
    PyObject *records = PyList_New(rows);
    segment_object *segment = NULL;
    uint64_t segment_id = 0;
    Py_ssize_t at = 0;
    for (Py_ssize_t i = 0; records != NULL && i < count; i++) {
        sf_extent extent;
        sf_rows of_extent;
        memcpy(&extent, extents + (size_t)i * sizeof(extent), sizeof(extent));
        if (segment == NULL || extent.segment_id != segment_id) {
            segment = find_segment(segments, extent.segment_id);
            segment_id = extent.segment_id;
        }
        if (segment != NULL && (Py_ssize_t)extent.rows > rows - at) {
            PyErr_SetString(PyExc_ValueError, "the extents changed while they were read");
            segment = NULL;
        }
        if (segment == NULL || take_rows(&extent, &selected, &of_extent) < 0 ||
            fill(records, at, &extent, of_extent, segment) < 0) {
            Py_CLEAR(records);
        }
        at += extent.rows;
    }
    if (records != NULL && selected.left != 0) {
        PyErr_SetString(PyExc_ValueError, "the selection has more row numbers than its extents want");
        Py_CLEAR(records);
    }
    if (records != NULL && at != rows) {
        PyErr_SetString(PyExc_ValueError, "the extents changed while they were read");
        Py_CLEAR(records);
    }
    return records;
}

static PyObject *build_event(const char *extents, Py_ssize_t count, PyObject *segments, selection selected) {
    Py_ssize_t rows = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t of_extent;
        memcpy(&of_extent, extents + (size_t)i * sizeof(sf_extent) + offsetof(sf_extent, rows), sizeof(of_extent));
        rows += of_extent; /* no overflow: count is less than 2^31 */
    }
    if (rows > ROWS_MAX) {
        PyErr_Format(PyExc_ValueError, "an event has at most %d records, not %zd", ROWS_MAX, rows);
        return NULL;
    }
    PyObject *event = PyDict_New();
    PyObject *records = event == NULL ? NULL : build_records(extents, count, segments, selected, rows);
    if (records == NULL || PyDict_SetItem(event, records_key, records) < 0) {
        Py_CLEAR(event);
    }
    Py_XDECREF(records);
    return event;
}

/* An address and how many things lie there; false with an exception set. */
static bool read_place(PyObject *const *args, const uint8_t **at, Py_ssize_t *count) {
    unsigned long long address = PyLong_AsUnsignedLongLong(args[0]);
    if (address == (unsigned long long)-1 && PyErr_Occurred()) {
        return false;
    }
    *count = PyLong_AsSsize_t(args[1]);
    if (*count == -1 && PyErr_Occurred()) {
        return false;
    }
    if (*count < 0 || *count > INT32_MAX || (address == 0 && *count > 0)) {
        PyErr_SetString(PyExc_ValueError, "there are no such extents or row numbers");
        return false;
    }
    *at = (const uint8_t *)(uintptr_t)address;
    return true;
}

static PyObject *build(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    const uint8_t *extents;
    Py_ssize_t count;
    selection selected = {NULL, 0};
    if ((nargs != 3 && nargs != 5) || !PyDict_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "build takes an address, a count, a dict of segments, and perhaps a selection's address and count");
        return NULL;
    }
    if (!read_place(args, &extents, &count) || (nargs == 5 && !read_place(args + 3, &selected.numbers, &selected.left))) {
        return NULL;
    }
    /* Nothing made here can be garbage before it is returned, so collections in between would only cost time. */
    int collecting = PyGC_Disable();
    PyObject *event = build_event((const char *)extents, count, args[2], selected);
    if (collecting) {
        PyGC_Enable();
    }
    return event;
}

/* ---- export ---- */

/* The parts of a batch, in `parts`, which has room for `count`, and whose segment the first of them is (borrowed).  As in
   build_records nothing is believed. */
static segment_object *read_parts(sf_part *parts, const char *extents, Py_ssize_t count, PyObject *segments,
                                  selection selected) {
    segment_object *first = NULL;
    Py_ssize_t rows = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        sf_part *part = &parts[i];
        memcpy(&part->extent, extents + (size_t)i * sizeof(sf_extent), sizeof(sf_extent));
        segment_object *segment = find_segment(segments, part->extent.segment_id);
        if (segment == NULL || take_rows(&part->extent, &selected, &part->rows) < 0) {
            return NULL;
        }
        first = i == 0 ? segment : first;
        part->segment = (sf_span){(const uint8_t *)(uintptr_t)segment->address, segment->size};
        rows += part->extent.rows;
        if (rows > ROWS_MAX || segment->source->changes != first->source->changes) {
            PyErr_Format(PyExc_ValueError, "a batch has at most %d records, all of one kind", ROWS_MAX);
            return NULL;
        }
    }
    if (selected.left != 0) {
        PyErr_SetString(PyExc_ValueError, "the selection has more row numbers than its extents want");
        return NULL;
    }
    return first;
}

static PyObject *export(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    const uint8_t *extents;
    Py_ssize_t count;
    selection selected = {NULL, 0};
    if ((nargs != 4 && nargs != 6) || !PyDict_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "export takes the address of an ArrowArray, and then what build takes");
        return NULL;
    }
    unsigned long long array = PyLong_AsUnsignedLongLong(args[0]);
    if ((array == (unsigned long long)-1 && PyErr_Occurred()) || !read_place(args + 1, &extents, &count) ||
        (nargs == 6 && !read_place(args + 4, &selected.numbers, &selected.left))) {
        return NULL;
    }
    if (array == 0 || count == 0) {
        PyErr_SetString(PyExc_ValueError, "there is no such array, or no extent to fill it with");
        return NULL;
    }
    sf_part one, *parts = count == 1 ? &one : PyMem_New(sf_part, (size_t)count);
    if (parts == NULL) {
        return PyErr_NoMemory();
    }
    segment_object *first = read_parts(parts, (const char *)extents, count, args[3], selected);
    if (first != NULL && sf_arrow_export((struct ArrowArray *)(uintptr_t)array, parts, count, first->source->changes,
                                         first->pin) < 0) {
        first = NULL;
    }
    if (parts != &one) {
        PyMem_Free(parts);
    }
    return first == NULL ? NULL : Py_NewRef((PyObject *)first->source);
}

/* ---- for tests ---- */

static const sf_base64_encoder *find_encoder(const char *name) {
    size_t count;
    const sf_base64_encoder *const *all = sf_base64_encoders(&count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(all[i]->name, name) == 0) {
            return all[i];
        }
    }
    PyErr_Format(PyExc_ValueError, "this machine has no base64 encoder '%s'", name);
    return NULL;
}

static PyObject *encode_base64(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    const char *name;
    PyObject *text = NULL;
    if (!PyArg_ParseTuple(args, "y*s:_base64", &data, &name)) {
        return NULL;
    }
    const sf_base64_encoder *encoder = find_encoder(name);
    if (encoder != NULL) {
        text = PyUnicode_New((Py_ssize_t)sf_base64_length((size_t)data.len), 127);
    }
    if (text != NULL) {
        encoder->encode(PyUnicode_1BYTE_DATA(text), data.buf, (size_t)data.len);
    }
    PyBuffer_Release(&data);
    return text;
}

static PyObject *list_encoders(PyObject *module, PyObject *ignored) {
    (void)module, (void)ignored;
    size_t count;
    const sf_base64_encoder *const *all = sf_base64_encoders(&count);
    PyObject *names = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; names != NULL && i < count; i++) {
        PyObject *name = PyUnicode_FromString(all[i]->name);
        if (name == NULL) {
            Py_CLEAR(names);
        } else {
            PyTuple_SET_ITEM(names, (Py_ssize_t)i, name);
        }
    }
    return names;
}

/* ---- the module ---- */

static PyMethodDef methods[] = {
    {"build", (PyCFunction)(void (*)(void))build, METH_FASTCALL, "Make the Lambda event of some extents."},
    {"export", (PyCFunction)(void (*)(void))export, METH_FASTCALL, "Make an Arrow record batch of some extents."},
    {"_base64", encode_base64, METH_VARARGS, "For tests: encode bytes with the encoder of that name."},
    {"_base64_encoders", list_encoders, METH_NOARGS, "For tests: names of this machine's encoders, the one in use first."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "streamfn._events",
    .m_doc = "Lambda events made straight from mapped columns.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__events(void) {
    size_t count;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) {
        return NULL;
    }
    records_key = PyUnicode_InternFromString("Records");
    if (records_key == NULL || sf_kinesis_init(sf_base64_encoders(&count)[0]) < 0 ||
        sf_dynamodb_init() < 0 ||
        PyModule_AddType(module, &source_type) < 0 || PyModule_AddType(module, &segment_type) < 0) {
        Py_CLEAR(module);
    }
    return module;
}
