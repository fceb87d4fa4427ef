#ifndef SF_MESSAGE_COLUMNS_H
#define SF_MESSAGE_COLUMNS_H
/*
 * The columns of a message that the scanner has verified.  Private to native/src.
 */
#include "sf_assert.h"
#include "sf_extent.h"
#include "sf_layout.h"

/* Its body begins where column[0] says, in every layout. */
static inline void sf_message_columns(const uint8_t *base, const sf_message *message, sf_column *columns) {
    static_assert(SF_BODY == 0 && SF_SEQUENCE_OFFSETS == 0, "the first buffer is no longer the body's first");
    const sf_layout *layout = &sf_layout_table[message->layout];
    bool found = sf_find_columns(base, message->position + message->length, message->column[0], message->rows, layout, columns);
    SF_ASSERT(found);
}
#endif
