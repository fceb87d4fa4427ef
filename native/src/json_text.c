/*
 * The walk over stored JSON text.  One pass, no allocation, no recursion; every byte is checked against the end before it
 * is looked at.
 */
#include <stdbool.h>
#include <string.h>

#include "sf_json.h"

enum { LEVELS_MAX = 128, NAMES_MAX = 4096, DIGITS_MAX = 18 };

typedef struct walk {
    const uint8_t *at, *end;
    int64_t written;   /* what orjson would have written up to `at` */
    unsigned level;
    uint32_t objects;  /* how many were opened */
    uint32_t names, names_room;
    uint32_t object[LEVELS_MAX + 1]; /* which object is open at a level, or 0 for an array */
    uint64_t seen[NAMES_MAX];        /* hashes of (object, name), open addressing, 0 for free */
} walk;

static inline void skip_blanks(walk *w) {
    while (w->at < w->end && (*w->at == ' ' || *w->at == '\n' || *w->at == '\r' || *w->at == '\t')) w->at++;
}

static inline uint64_t mix(uint64_t hash, uint8_t byte) { return (hash ^ byte) * 0x100000001b3; }

static int hexadecimal(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hexadecimal digits, or -1. */
static int32_t code_unit(walk *w) {
    int32_t value = 0;
    if (w->end - w->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hexadecimal(*w->at++);
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* The character behind `\u`, or -1; a lone half of a surrogate pair is none. */
static int32_t escaped_character(walk *w) {
    int32_t unit = code_unit(w);
    if (unit < 0xd800 || unit > 0xdfff) return unit;
    if (unit > 0xdbff || w->end - w->at < 2 || w->at[0] != '\\' || w->at[1] != 'u') return -1;
    w->at += 2;
    int32_t low = code_unit(w);
    if (low < 0xdc00 || low > 0xdfff) return -1;
    return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
}

/* What a character takes inside a JSON string, and its UTF-8 into the hash. */
static int written_bytes(int32_t character, uint64_t *hash) {
    if (character < 0x80) {
        *hash = mix(*hash, (uint8_t)character);
        if (character == '"' || character == '\\') return 2;
        if (character >= 0x20) return 1;
        return character >= '\b' && character <= '\r' && character != '\v' ? 2 : 6;
    }
    int more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
    *hash = mix(*hash, (uint8_t)(lead[more] | character >> (6 * more)));
    for (int i = more - 1; i >= 0; i--) *hash = mix(*hash, (uint8_t)(0x80 | (character >> (6 * i) & 0x3f)));
    return more + 1;
}

/* The character that the escape behind a backslash stands for, or -1. */
static int32_t escape(walk *w) {
    if (w->at == w->end) return -1;
    switch (*w->at++) {
    case '"': return '"';
    case '\\': return '\\';
    case '/': return '/';
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'u': return escaped_character(w);
    default: return -1;
    }
}

/* Skips characters that stand for themselves, eight at a time. */
static inline void skip_plain(walk *w) {
    const uint64_t ones = 0x0101010101010101, high = 0x8080808080808080;
    const uint8_t *start = w->at;
    for (; w->end - w->at >= 8; w->at += 8) {
        uint64_t word;
        memcpy(&word, w->at, sizeof word);
        uint64_t quote = word ^ ones * '"', backslash = word ^ ones * '\\';
        uint64_t odd = ((word - ones * 0x20) & ~word) | ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash);
        if (odd & high) break;
    }
    w->written += w->at - start;
}

/* A string, of which `at` is the opening quote.  Of a name, `hash` begins as it is and takes in the characters it stands for. */
static inline bool string(walk *w, bool is_name, uint64_t *hash) {
    w->written += 2;
    w->at++;
    while (w->at < w->end) {
        if (!is_name) skip_plain(w);
        if (w->at == w->end) return false;
        uint8_t c = *w->at++;
        if (c == '"') return true;
        if (c < 0x20) return false;
        if (c != '\\') {
            if (is_name) *hash = mix(*hash, c);
            w->written++;
            continue;
        }
        int32_t character = escape(w);
        if (character < 0) return false;
        w->written += written_bytes(character, hash);
    }
    return false;
}

/* Notes a name of the open object; false if it may have been there before, or there is no more room. */
static bool note_name(walk *w, uint64_t hash) {
    if (hash == 0) hash = 1;
    if (++w->names > w->names_room / 4 * 3) return false;
    uint64_t slot = (hash ^ hash >> 32) & (w->names_room - 1);
    for (; w->seen[slot] != 0; slot = (slot + 1) & (w->names_room - 1))
        if (w->seen[slot] == hash) return false;
    w->seen[slot] = hash;
    return true;
}

static int literal(walk *w, const char *word, size_t length) {
    if ((size_t)(w->end - w->at) < length || memcmp(w->at, word, length) != 0) return SF_JSON_BROKEN;
    w->at += length;
    w->written += (int64_t)length;
    return 0;
}

/* A whole number as it stands; all others are odd, or broken, which is not told apart here. */
static int number(walk *w) {
    const uint8_t *start = w->at, *digits = *start == '-' ? start + 1 : start, *at = digits;
    while (at < w->end && *at >= '0' && *at <= '9') at++;
    if (at == digits || at - digits > DIGITS_MAX) return SF_JSON_ODD;
    if (*digits == '0' && (at - digits > 1 || *start == '-')) return SF_JSON_ODD;
    if (at < w->end && (*at == '.' || *at == 'e' || *at == 'E')) return SF_JSON_ODD;
    w->written += at - start;
    w->at = at;
    return 0;
}

/* A value that is neither object nor array. */
static int scalar(walk *w) {
    uint64_t hash = 0;
    switch (*w->at) {
    case '"': return string(w, false, &hash) ? 0 : SF_JSON_BROKEN;
    case 't': return literal(w, "true", 4);
    case 'f': return literal(w, "false", 5);
    case 'n': return literal(w, "null", 4);
    default: return *w->at == '-' || (*w->at >= '0' && *w->at <= '9') ? number(w) : SF_JSON_BROKEN;
    }
}

/* A name and the colon behind it. */
static int name(walk *w) {
    uint64_t hash = 0xcbf29ce484222325 ^ ((uint64_t)w->object[w->level] << 32);
    if (*w->at != '"' || !string(w, true, &hash)) return SF_JSON_BROKEN;
    if (!note_name(w, hash)) return SF_JSON_ODD;
    skip_blanks(w);
    if (w->at == w->end || *w->at++ != ':') return SF_JSON_BROKEN;
    w->written++;
    return 0;
}

enum { VALUE, VALUE_OR_END, NAME, NAME_OR_END, NEXT };

static int open_level(walk *w, bool object) {
    if (w->level == LEVELS_MAX) return SF_JSON_ODD;
    w->object[++w->level] = object ? ++w->objects : 0;
    w->at++;
    w->written++;
    return object ? NAME_OR_END : VALUE_OR_END;
}

/* What stands at `at`, where `expected` may stand; returns what may stand behind it, or what is wrong. */
static int step(walk *w, int expected) {
    uint8_t c = *w->at;
    bool in_object = w->object[w->level] != 0;
    if (c == (in_object ? '}' : ']') && w->level > 0 && expected != VALUE && expected != NAME) {
        w->level--;
        w->at++;
        w->written++;
        return NEXT;
    }
    if (expected == NEXT) {
        if (c != ',' || w->level == 0) return SF_JSON_BROKEN;
        w->at++;
        w->written++;
        return in_object ? NAME : VALUE;
    }
    if (expected == NAME || expected == NAME_OR_END) {
        int wrong = name(w);
        return wrong != 0 ? wrong : VALUE;
    }
    if (c == '{' || c == '[') return open_level(w, c == '{');
    int wrong = scalar(w);
    return wrong != 0 ? wrong : NEXT;
}

/* ---- what a text means ---- */

#define NAME_BASIS 0xcbf29ce484222325
#define NUMBER_BASIS 0xb492b66fbe98f273
/* Where the type of an attribute stands: {"id": {"N": "1"}}. */
enum { ATTRIBUTE_LEVEL = 2, EXPONENT_MAX = 1000000 };

static uint64_t stir(uint64_t hash) {
    hash ^= hash >> 32;
    hash *= 0xd6e8feb86659fd93;
    return hash ^ hash >> 32;
}

/* The values that are open, with the hash of what was in them so far: in an object the sum over its members, so that their
   order makes no difference. */
typedef struct meaning {
    uint64_t name[LEVELS_MAX + 1]; /* of the member that is being read */
    uint64_t sum[LEVELS_MAX + 1];
} meaning;

static void take_in(walk *w, meaning *m, uint64_t hash) {
    uint64_t *sum = &m->sum[w->level];
    if (w->object[w->level] != 0) {
        *sum += stir(m->name[w->level] + stir(hash));
    } else {
        *sum = stir(*sum * 31 + hash);
    }
}

/* The hash of a decimal number by its value, as 0.DIGITS times ten to some power; false if the text is none. */
static bool hash_number(const uint8_t *at, const uint8_t *end, uint64_t *hash) {
    bool negative = at < end && *at == '-', point = false, digits = false;
    int64_t power = 0, zeros = 0, exponent = 0;
    uint64_t h = NUMBER_BASIS;
    if (at < end && (*at == '-' || *at == '+')) at++;
    for (; at < end && ((*at >= '0' && *at <= '9') || (*at == '.' && !point)); at++) {
        if (*at == '.') {
            point = true;
            continue;
        }
        bool begun = h != NUMBER_BASIS;
        digits = true;
        if (!point && (begun || *at != '0')) power++;
        if (point && !begun && *at == '0') power--;
        if (*at == '0') {
            zeros += begun; /* they count only where another digit follows */
            continue;
        }
        for (; zeros > 0; zeros--) h = mix(h, '0');
        h = mix(h, *at);
    }
    if (!digits) return false;
    if (at < end && (*at | 0x20) == 'e') {
        bool down = ++at < end && *at == '-';
        if (at < end && (*at == '-' || *at == '+')) at++;
        if (at == end) return false;
        for (; at < end && *at >= '0' && *at <= '9' && exponent < EXPONENT_MAX; at++) exponent = exponent * 10 + (*at - '0');
        power += down ? -exponent : exponent;
    }
    if (at != end) return false;
    *hash = h == NUMBER_BASIS ? h : stir(h + (uint64_t)power * 2 + negative);
    return true;
}

/* The hash of a value that is neither object nor array; of what is no string, that of its text.  `number`: a text is one. */
static int hash_scalar(walk *w, bool number, uint64_t *hash) {
    const uint8_t *start = w->at;
    if (*start == '"') {
        *hash = 0x9ae16a3b2f90404f;
        if (!string(w, true, hash)) return SF_JSON_BROKEN;
        if (number) (void)hash_number(start + 1, w->at - 1, hash);
        return 0;
    }
    *hash = 0xc3a5c85c97cb3127;
    if (*start == '-' || (*start >= '0' && *start <= '9')) {
        while (w->at < w->end && (*w->at == '-' || *w->at == '+' || *w->at == '.' || (*w->at >= '0' && *w->at <= '9') ||
                                  (*w->at | 0x20) == 'e'))
            w->at++;
    } else if (scalar(w) != 0) {
        return SF_JSON_BROKEN;
    }
    for (const uint8_t *at = start; at < w->at; at++) *hash = mix(*hash, *at);
    return 0;
}

/* As `step`, with hashes instead of lengths. */
static int hash_step(walk *w, meaning *m, int expected) {
    uint8_t c = *w->at;
    bool in_object = w->object[w->level] != 0;
    uint64_t hash = 0;
    if (c == (in_object ? '}' : ']') && w->level > 0 && expected != VALUE && expected != NAME) {
        hash = m->sum[w->level--] + c;
        w->at++;
        take_in(w, m, hash);
        return NEXT;
    }
    if (expected == NEXT) {
        if (c != ',' || w->level == 0) return SF_JSON_BROKEN;
        w->at++;
        return in_object ? NAME : VALUE;
    }
    if (expected == NAME || expected == NAME_OR_END) {
        m->name[w->level] = NAME_BASIS;
        if (c != '"' || !string(w, true, &m->name[w->level])) return SF_JSON_BROKEN;
        skip_blanks(w);
        return w->at == w->end || *w->at++ != ':' ? SF_JSON_BROKEN : VALUE;
    }
    if (c == '{' || c == '[') {
        int inside = open_level(w, c == '{');
        if (inside >= 0) m->sum[w->level] = 0;
        return inside;
    }
    bool number = w->level == ATTRIBUTE_LEVEL && m->name[w->level] == mix(NAME_BASIS, 'N');
    if (hash_scalar(w, number, &hash) != 0) return SF_JSON_BROKEN;
    take_in(w, m, hash);
    return NEXT;
}

bool sf_item_hash(const uint8_t *text, uint64_t length, uint64_t *hash) {
    walk w;
    meaning m;
    w.at = text;
    w.end = text + length;
    w.written = 0;
    w.level = w.objects = 0;
    w.object[0] = 0;
    m.sum[0] = 0;
    int expected = VALUE;
    for (skip_blanks(&w); w.at < w.end && expected >= 0; skip_blanks(&w)) expected = hash_step(&w, &m, expected);
    if (expected == NEXT && w.level == 0) {
        *hash = m.sum[0];
        return true;
    }
    *hash = 0xcbf29ce484222325;
    for (uint64_t i = 0; i < length; i++) *hash = mix(*hash, text[i]);
    return false;
}

/* ---- how long it is written ---- */

int64_t sf_json_length(const uint8_t *text, uint64_t length) {
    walk w;
    w.at = text;
    w.end = text + length;
    w.written = 0;
    w.level = w.objects = w.names = 0;
    w.object[0] = 0;
    /* A name takes at least four bytes: "":0 */
    for (w.names_room = 16; w.names_room < NAMES_MAX && w.names_room < length / 2; w.names_room *= 2) {
    }
    memset(w.seen, 0, w.names_room * sizeof w.seen[0]);
    int expected = VALUE;
    for (skip_blanks(&w); w.at < w.end; skip_blanks(&w)) {
        expected = step(&w, expected);
        if (expected < 0) return expected;
    }
    return expected == NEXT && w.level == 0 ? w.written : SF_JSON_BROKEN;
}
