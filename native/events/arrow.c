#include "arrow.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- mappings that are shared ---- */

struct sf_pin {
    atomic_size_t holders;
    void *address;
    size_t size;
};

sf_pin *sf_pin_new(void *address, size_t size) {
    sf_pin *pin = malloc(sizeof(*pin));
    if (pin != NULL) {
        atomic_init(&pin->holders, 1);
        pin->address = address;
        pin->size = size;
    }
    return pin;
}

void sf_pin_hold(sf_pin *pin) { atomic_fetch_add_explicit(&pin->holders, 1, memory_order_relaxed); }

void sf_pin_drop(sf_pin *pin) {
    if (pin != NULL && atomic_fetch_sub_explicit(&pin->holders, 1, memory_order_acq_rel) == 1) {
        munmap(pin->address, pin->size);
        free(pin);
    }
}

/* ---- what is handed over ---- */

enum { BUFFERS_MAX = 3 };

/* Everything an exported batch needs, in one piece: it goes when the batch and every column of it have been released, in
   whatever order and by whomever. */
typedef struct {
    atomic_int holders;
    sf_pin *pin;   /* of the mapping the buffers lie in, or NULL */
    void *copy;    /* what they lie in instead, or NULL */
    const void *nothing[1]; /* a batch's own validity: there is none */
    struct ArrowArray column[SF_COLUMNS_MAX];
    struct ArrowArray *columns[SF_COLUMNS_MAX];
    const void *buffers[SF_COLUMNS_MAX][BUFFERS_MAX];
} exported;

static void let_go(exported *made) {
    if (atomic_fetch_sub_explicit(&made->holders, 1, memory_order_acq_rel) == 1) {
        sf_pin_drop(made->pin);
        free(made->copy);
        free(made);
    }
}

static void release_column(struct ArrowArray *array) {
    exported *made = array->private_data;
    array->release = NULL;
    let_go(made);
}

static void release_batch(struct ArrowArray *array) {
    exported *made = array->private_data;
    for (int64_t i = 0; i < array->n_children; i++) {
        if (array->children[i]->release != NULL) {
            array->children[i]->release(array->children[i]);
        }
    }
    array->release = NULL;
    let_go(made);
}

/* ---- columns as they lie in a segment ---- */

typedef struct {
    const uint8_t *validity; /* NULL where nothing may be null */
    sf_texts texts;          /* of a text */
    const uint8_t *values;   /* of the others, 8 bytes each */
} column;

typedef struct {
    const sf_layout *layout;
    uint64_t rows; /* how many the buffers have room for */
    column column[SF_COLUMNS_MAX];
} columns;

static bool is_text(const columns *from, unsigned i) { return !(from->layout->form[i] & SF_FIXED); }

static bool open_text(columns *from, unsigned i, const sf_extent *extent, int offsets, sf_span segment) {
    uint64_t at = extent->column[offsets], bytes_at = extent->column[offsets + 1];
    if (at > segment.size || segment.size - at < 4 || bytes_at > segment.size) {
        return false;
    }
    uint64_t limit = segment.size - bytes_at, rows = (segment.size - at) / 4 - 1;
    from->column[i].texts = (sf_texts){segment.base + at, segment.base + bytes_at, limit < INT32_MAX ? (uint32_t)limit : INT32_MAX};
    from->rows = rows < from->rows ? rows : from->rows;
    return true;
}

/* Buffers of a record's message are told one by one. */
static bool open_records(columns *to, const sf_extent *extent, sf_span segment) {
    static_assert(SF_COLUMNS_MAX >= 4, "no room for the columns of a record");
    uint64_t at = extent->column[SF_ARRIVAL];
    if (at > segment.size) {
        return false;
    }
    to->layout = &sf_layout_table[SF_KINESIS];
    to->rows = (segment.size - at) / 8;
    to->column[2].values = segment.base + at;
    return open_text(to, 0, extent, SF_SEQUENCE_OFFSETS, segment) && open_text(to, 1, extent, SF_KEY_OFFSETS, segment) &&
           open_text(to, 3, extent, SF_DATA_OFFSETS, segment);
}

/* Those of a change's are found from the body's beginning. */
static bool open_changes(columns *to, const sf_extent *extent, sf_span segment) {
    sf_column found[SF_COLUMNS_MAX];
    to->layout = &sf_layout_table[SF_DYNAMODB];
    to->rows = extent->column[SF_BODY_ROWS];
    if (!sf_find_columns(segment.base, segment.size, extent->column[SF_BODY], to->rows, to->layout, found)) {
        return false;
    }
    for (unsigned i = 0; i < to->layout->columns; i++) {
        column *each = &to->column[i];
        if (to->layout->form[i] & SF_NULLABLE) {
            each->validity = segment.base + found[i].validity;
        }
        if (is_text(to, i)) {
            each->texts = (sf_texts){segment.base + found[i].offsets, segment.base + found[i].values, (uint32_t)found[i].bytes};
        } else {
            each->values = segment.base + found[i].values;
        }
    }
    return true;
}

static bool open_part(columns *to, const sf_part *part, bool changes) {
    memset(to, 0, sizeof(*to));
    if (changes ? !open_changes(to, &part->extent, part->segment) : !open_records(to, &part->extent, part->segment)) {
        return false;
    }
    return part->rows.selected != NULL ||
           (part->rows.first <= to->rows && part->extent.rows <= to->rows - part->rows.first);
}

/* Whether the `rows` values from `first` on lie one behind the other, within the limit. */
static bool ascends(const sf_texts *texts, uint64_t first, uint32_t rows) {
    const uint8_t *at = texts->offsets + 4 * first;
    uint32_t falls = 0, one, next, last;
    for (uint32_t i = 0; i < rows; i++) {
        memcpy(&one, at + 4 * (size_t)i, 4);
        memcpy(&next, at + 4 * (size_t)i + 4, 4);
        falls |= next < one;
    }
    memcpy(&last, at + 4 * (size_t)rows, 4);
    return !falls && last <= texts->limit;
}

static bool texts_ascend(const columns *from, uint64_t first, uint32_t rows) {
    for (unsigned i = 0; i < from->layout->columns; i++) {
        if (is_text(from, i) && !ascends(&from->column[i].texts, first, rows)) {
            return false;
        }
    }
    return true;
}

/* ---- a batch ---- */

static exported *new_exported(void) {
    exported *made = calloc(1, sizeof(*made));
    if (made == NULL) {
        PyErr_NoMemory();
    }
    return made;
}

/* Hands out what `made` has; `validity` and the others of a column are in made->buffers. */
static void hand_over(struct ArrowArray *out, exported *made, const sf_layout *layout, int64_t offset, int64_t rows) {
    atomic_init(&made->holders, 1 + layout->columns);
    for (unsigned i = 0; i < layout->columns; i++) {
        made->column[i] = (struct ArrowArray){
            .length = rows,
            .null_count = made->buffers[i][0] == NULL ? 0 : -1, /* -1: not counted yet */
            .offset = offset,
            .n_buffers = layout->form[i] & SF_FIXED ? 2 : 3,
            .buffers = made->buffers[i],
            .release = release_column,
            .private_data = made,
        };
        made->columns[i] = &made->column[i];
    }
    *out = (struct ArrowArray){
        .length = rows,
        .n_buffers = 1,
        .n_children = layout->columns,
        .buffers = made->nothing,
        .children = made->columns,
        .release = release_batch,
        .private_data = made,
    };
}

static int export_in_place(struct ArrowArray *out, const sf_part *part, bool changes, sf_pin *pin) {
    columns from;
    if (!open_part(&from, part, changes) || !texts_ascend(&from, part->rows.first, part->extent.rows)) {
        return sf_out_of_bounds();
    }
    exported *made = new_exported();
    if (made == NULL) {
        return -1;
    }
    for (unsigned i = 0; i < from.layout->columns; i++) {
        const column *each = &from.column[i];
        made->buffers[i][0] = each->validity;
        made->buffers[i][1] = is_text(&from, i) ? each->texts.offsets : each->values;
        made->buffers[i][2] = each->texts.bytes;
    }
    if (pin != NULL) {
        sf_pin_hold(pin);
        made->pin = pin;
    }
    hand_over(out, made, from.layout, part->rows.first, part->extent.rows);
    return 0;
}

/* ---- rows that do not follow each other ---- */

/* Where the rows of a column are put, and how much has been put there. */
typedef struct {
    uint8_t *validity, *offsets, *values;
    uint64_t room, used; /* bytes of texts */
} target;

/* Adds up what the texts of a part take; false where they cannot be read. */
static bool measure(const sf_part *part, bool changes, uint64_t *bytes) {
    columns from;
    if (!open_part(&from, part, changes)) {
        return false;
    }
    for (unsigned i = 0; i < from.layout->columns; i++) {
        for (uint32_t j = 0; is_text(&from, i) && j < part->extent.rows; j++) {
            sf_slice text;
            uint64_t row = sf_row(part->rows, j);
            if (row >= from.rows || !sf_cut(&from.column[i].texts, row, &text)) {
                return false;
            }
            bytes[i] += text.length;
        }
    }
    return true;
}

static bool put_text(target *to, const sf_texts *from, uint64_t row, uint64_t place) {
    sf_slice text;
    if (!sf_cut(from, row, &text) || text.length > to->room - to->used) {
        return false;
    }
    memcpy(to->values + to->used, text.bytes, text.length);
    to->used += text.length;
    uint32_t end = (uint32_t)to->used;
    memcpy(to->offsets + 4 * (place + 1), &end, 4);
    return true;
}

/* Puts the part's rows behind the `place` that are there; false where the rows have changed since they were measured. */
static bool put_part(target *to, const sf_part *part, bool changes, uint64_t place) {
    columns from;
    if (!open_part(&from, part, changes)) {
        return false;
    }
    for (unsigned i = 0; i < from.layout->columns; i++) {
        const column *each = &from.column[i];
        for (uint32_t j = 0; j < part->extent.rows; j++) {
            uint64_t row = sf_row(part->rows, j), at = place + j;
            if (row >= from.rows || (is_text(&from, i) && !put_text(&to[i], &each->texts, row, at))) {
                return false;
            }
            if (!is_text(&from, i)) {
                memcpy(to[i].values + 8 * at, each->values + 8 * row, 8);
            }
            if (each->validity != NULL) {
                to[i].validity[at / 8] |= (uint8_t)((each->validity[row / 8] >> (row % 8) & 1) << (at % 8));
            }
        }
    }
    return true;
}

enum { ALIGNMENT = 64 }; /* what Arrow recommends */

static uint64_t aligned(uint64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* One piece of memory for `rows` rows, and where in it each column's buffers are; NULL with an exception set. */
static uint8_t *new_copy(target *to, const sf_layout *layout, uint64_t rows, const uint64_t *bytes) {
    uint64_t size = ALIGNMENT;
    for (unsigned i = 0; i < layout->columns; i++) {
        size += layout->form[i] & SF_NULLABLE ? aligned((rows + 7) / 8) : 0;
        size += layout->form[i] & SF_FIXED ? aligned(8 * rows) : aligned(4 * (rows + 1)) + aligned(bytes[i]);
    }
    uint8_t *copy = aligned_alloc(ALIGNMENT, size), *at = copy;
    if (copy == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (unsigned i = 0; i < layout->columns; i++, to++) {
        *to = (target){.room = bytes[i]};
        if (layout->form[i] & SF_NULLABLE) {
            to->validity = at;
            memset(at, 0, (rows + 7) / 8);
            at += aligned((rows + 7) / 8);
        }
        if (!(layout->form[i] & SF_FIXED)) {
            to->offsets = at;
            memset(at, 0, 4);
            at += aligned(4 * (rows + 1));
        }
        to->values = at;
        at += layout->form[i] & SF_FIXED ? aligned(8 * rows) : aligned(bytes[i]);
    }
    return copy;
}

/* Copies all parts into `to`. -1 with an exception set. */
static int put_all(target *to, const sf_part *parts, Py_ssize_t count, bool changes) {
    uint64_t place = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!put_part(to, &parts[i], changes, place)) {
            return sf_out_of_bounds();
        }
        place += parts[i].extent.rows;
    }
    return 0;
}

static int export_copied(struct ArrowArray *out, const sf_part *parts, Py_ssize_t count, bool changes) {
    const sf_layout *layout = &sf_layout_table[changes ? SF_DYNAMODB : SF_KINESIS];
    uint64_t bytes[SF_COLUMNS_MAX] = {0}, rows = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!measure(&parts[i], changes, bytes)) {
            return sf_out_of_bounds();
        }
        rows += parts[i].extent.rows;
    }
    for (unsigned i = 0; i < layout->columns; i++) {
        if (bytes[i] > INT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "a column of the batch would have more than 2 GiB");
            return -1;
        }
    }
    target to[SF_COLUMNS_MAX];
    exported *made = new_exported();
    if (made == NULL || (made->copy = new_copy(to, layout, rows, bytes)) == NULL || put_all(to, parts, count, changes) < 0) {
        if (made != NULL) {
            free(made->copy);
            free(made);
        }
        return -1;
    }
    for (unsigned i = 0; i < layout->columns; i++) {
        made->buffers[i][0] = to[i].validity;
        made->buffers[i][1] = to[i].offsets == NULL ? to[i].values : to[i].offsets;
        made->buffers[i][2] = to[i].values;
    }
    hand_over(out, made, layout, 0, (int64_t)rows);
    return 0;
}

int sf_arrow_export(struct ArrowArray *out, const sf_part *parts, Py_ssize_t count, bool changes, sf_pin *pin) {
    if (count == 1 && parts->rows.selected == NULL) {
        return export_in_place(out, parts, changes, pin);
    }
    return export_copied(out, parts, count, changes);
}
