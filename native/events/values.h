#ifndef SF_VALUES_H
#define SF_VALUES_H
/*
 * What both kinds of events are made of: texts cut out of mapped columns, and the Python objects of them.
 *
 * Includes Python.h, so it comes first.  All functions need the GIL.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* A mapped segment; not owned. */
typedef struct sf_span {
    const uint8_t *base;
    uint64_t size;
} sf_span;

/* A column of variable-length values: `offsets` of the message's first row, and how far `bytes` may be read. */
typedef struct sf_texts {
    const uint8_t *offsets;
    const uint8_t *bytes;
    uint32_t limit;
} sf_texts;

typedef struct sf_slice {
    const uint8_t *bytes;
    uint32_t length;
} sf_slice;

/* Which rows of a message: from `first` on, or those whose numbers `selected` has, 4 bytes each, where that is not NULL. */
typedef struct sf_rows {
    uint32_t first;
    const uint8_t *selected;
} sf_rows;

/* The row in place `i`.  A selection may be written to by someone else: each number is to be looked at once, and checked. */
static inline uint64_t sf_row(sf_rows rows, uint32_t i) {
    uint32_t number;
    if (rows.selected == NULL) {
        return (uint64_t)rows.first + i;
    }
    memcpy(&number, rows.selected + (size_t)i * 4, sizeof(number));
    return number;
}

static inline int sf_out_of_bounds(void) {
    PyErr_SetString(PyExc_ValueError, "a column leaves its segment, or its offsets decrease");
    return -1;
}

/* One value; false where offsets decrease or lead past the limit.  A negative offset reads as one above every limit. */
static inline bool sf_cut(const sf_texts *from, uint64_t row, sf_slice *to) {
    uint32_t ends[2];
    memcpy(ends, from->offsets + (size_t)row * 4, sizeof(ends));
    if (ends[0] > ends[1] || ends[1] > from->limit) {
        return false;
    }
    *to = (sf_slice){from->bytes + ends[0], ends[1] - ends[0]};
    return true;
}

static inline bool sf_is_ascii(sf_slice text) {
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
static inline PyObject *sf_new_ascii(const uint8_t *prefix, size_t prefix_bytes, sf_slice text) {
    PyObject *made = PyUnicode_New((Py_ssize_t)(prefix_bytes + text.length), 127);
    if (made != NULL) {
        uint8_t *to = PyUnicode_1BYTE_DATA(made);
        memcpy(to, prefix, prefix_bytes);
        memcpy(to + prefix_bytes, text.bytes, text.length);
    }
    return made;
}

/* A new str of UTF-8; UnicodeDecodeError where it is not. */
static inline PyObject *sf_new_text(sf_slice text) {
    static const uint8_t nothing[1];
    if (sf_is_ascii(text)) {
        return sf_new_ascii(nothing, 0, text);
    }
    return PyUnicode_DecodeUTF8((const char *)text.bytes, text.length, "strict");
}

/* Takes `value` over, which may be NULL (with an exception set). */
static inline int sf_put(PyObject *dict, PyObject *key, PyObject *value) {
    if (value == NULL) {
        return -1;
    }
    int done = PyDict_SetItem(dict, key, value);
    Py_DECREF(value);
    return done;
}

/* Sets an interned constant. */
static inline int sf_put_constant(PyObject *dict, PyObject *key, const char *text) {
    return sf_put(dict, key, PyUnicode_InternFromString(text));
}

/* Interns the names of some keys; -1 with an exception set. */
typedef struct sf_name {
    PyObject **at;
    const char *text;
} sf_name;

static inline int sf_intern(const sf_name *names, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if ((*names[i].at = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return -1;
        }
    }
    return 0;
}
#endif
